"""Detect boxes in another format than [x, y, width, height] in pixels, by their values.

Such boxes are valid numbers, so training would run and learn nothing. Three formats are detected, each only where the
values hardly allow another: fractions of the image's size, corners, and centers.
"""

from collections.abc import Iterator

import numpy as np

from resnext.detection.data.annotations import RawAnnotations
from resnext.detection.data.box_policy import to_corners
from resnext.errors import RequestError

TINY_SIDE = 2.0  # pixels: no object is that small; fractions in VOC files read as 1 to 2
EDGE_SLACK = 1.0  # pixels by which a correct box may extend past its image
MIN_BOXES = 8  # fewer are not enough evidence
MIN_OUTSIDE_SHARE = 0.25  # share of boxes outside their image above which corners are considered
CENTRE, CORNERS = "center x, center y, width, height", "x1, y1, x2, y2"
FIXES = {CENTRE: "subtract half of width and height from x and y", CORNERS: "width is x2 - x1, height y2 - y1"}


def check_box_format(parsed: RawAnnotations) -> None:
    """Raise RequestError where the boxes are clearly in another format."""
    for problem in find_other_format(parsed):
        raise RequestError(problem)


def find_other_format(parsed: RawAnnotations) -> Iterator[str]:
    """Yield at most one sentence: which other format the boxes look like, and how to convert them."""
    finite = np.isfinite(parsed.boxes.stated).all(axis=1)
    stated, sizes = parsed.boxes.stated[finite], parsed.sizes[parsed.boxes.image[finite]].astype(np.float64)
    count = len(stated)
    if not count:
        return
    boxes, verb = (f"all {count} boxes", "are") if count > 1 else ("the only box", "is")
    if ((stated >= 0) & (stated <= 1)).all():
        kind = _guess_format(stated * np.tile(sizes, 2), sizes, least=1)
        yield (
            f"{boxes} of {parsed.name} {verb} numbers from 0 to 1, which look like fractions of the image's size"
            f"{f' ({kind})' if kind else ''}: expected x, y, width, height in pixels, so multiply x and width by the "
            f"image's width, y and height by its height{f', and {FIXES[kind]}' if kind else ''}"
        )
    elif (stated[:, 2:] <= TINY_SIDE).all() and (stated[:, 2:] > 0).any():
        yield (
            f"{boxes} of {parsed.name} {verb} at most {TINY_SIDE:g} pixels wide and high, too small to be found; "
            "if they are fractions of the image's size, multiply them by it"
        )
    elif kind := _guess_format(stated, sizes, least=MIN_BOXES):
        out = int(_is_outside(to_corners(stated), sizes).sum())
        yield (
            f"the boxes of {parsed.name} look like {kind}: read as x, y, width, height, {out} of {count} extend past "
            f"their image; {FIXES[kind]} (if they are correct, clip them to the image)"
        )


def _guess_format(stated: np.ndarray, sizes: np.ndarray, least: int) -> str:
    """Guess CORNERS or CENTRE where only this reading keeps ``stated`` (float64 [n, 4], pixels) inside the images."""
    out = _is_outside(to_corners(stated), sizes)
    if len(stated) < least or out.sum() < least:
        return ""
    upright = (stated[:, 2:] > stated[:, :2]).all(axis=1)
    if out.mean() > MIN_OUTSIDE_SHARE and (~upright | _is_outside(stated, sizes)).mean() <= 0.01:
        return CORNERS
    half = stated[:, 2:] / 2
    around = np.concatenate([stated[:, :2] - half, stated[:, :2] + half], axis=1)
    return CENTRE if _is_outside(around, sizes).sum() <= out.sum() / 20 else ""


def _is_outside(corners: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return which boxes x1, y1, x2, y2 extend past their image by more than EDGE_SLACK: bool [n]."""
    return np.asarray((corners[:, :2] < -EDGE_SLACK).any(axis=1) | (corners[:, 2:] > sizes + EDGE_SLACK).any(axis=1))
