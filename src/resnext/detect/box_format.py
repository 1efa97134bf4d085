"""Boxes in another format than [x, y, width, height] in pixels, told by their numbers.

Every such box is four good numbers, so nothing fails: a detector trains on it and finds nothing. Three formats are
told, each only where the numbers hardly allow another: fractions of the image's size, corners, and centres.
"""

from collections.abc import Iterator

import numpy as np

from resnext.detect.boxes import corners_of
from resnext.detect.parsed import Parsed
from resnext.errors import RequestError

TINY = 2.0  # pixels: boxes of no more than that are no things; fractions in VOC's files read as 1 to 2
SLACK = 1.0  # pixels, by which a box may stick out of its image without meaning anything
LEAST_BOXES = 8  # fewer say too little
STICKING_OUT = 0.25  # share of boxes, above which corners are thought of: of corners in these places half stick out
CENTRE, CORNERS = "centre x, centre y, width, height", "x1, y1, x2, y2"
MEND = {CENTRE: "take half of width and height off x and y", CORNERS: "width is x2 - x1, height y2 - y1"}


def check_box_format(parsed: Parsed) -> None:
    """Raise RequestError where the boxes were surely written in another format."""
    for problem in find_other_format(parsed):
        raise RequestError(problem)


def find_other_format(parsed: Parsed) -> Iterator[str]:
    """At most one sentence: which format the boxes of a split look like, and how to mend them."""
    finite = np.isfinite(parsed.found.stated).all(axis=1)
    stated, sizes = parsed.found.stated[finite], parsed.sizes[parsed.found.image[finite]].astype(np.float64)
    count = len(stated)
    if not count:
        return
    boxes, verb = (f"all {count} boxes", "are") if count > 1 else ("the only box", "is")
    if ((stated >= 0) & (stated <= 1)).all():
        kind = _guess_format(stated * np.tile(sizes, 2), sizes, least=1)
        yield (
            f"{boxes} of {parsed.name} {verb} of numbers from 0 to 1, which look like fractions of the image's size"
            f"{f' ({kind})' if kind else ''}: expected x, y, width, height in pixels, so multiply x and width by the "
            f"image's width, y and height by its height{f', and {MEND[kind]}' if kind else ''}"
        )
    elif (stated[:, 2:] <= TINY).all() and (stated[:, 2:] > 0).any():
        yield (
            f"{boxes} of {parsed.name} {verb} at most {TINY:g} pixels wide and high, too small to be found; if these "
            "are fractions of the image's size, multiply them by it"
        )
    elif kind := _guess_format(stated, sizes, least=LEAST_BOXES):
        out = int(_sticks_out(corners_of(stated), sizes).sum())
        yield (
            f"the boxes of {parsed.name} look like {kind}: read as x, y, width, height {out} of {count} stick out of "
            f"their image; {MEND[kind]} (where they are right, cut them at the image's edge)"
        )


def _guess_format(stated: np.ndarray, sizes: np.ndarray, least: int) -> str:
    """CORNERS or CENTRE where boxes of ``stated`` (float64 [n, 4], pixels) stick out unless they are read so."""
    out = _sticks_out(corners_of(stated), sizes)
    if len(stated) < least or out.sum() < least:
        return ""
    upright = (stated[:, 2:] > stated[:, :2]).all(axis=1)
    if out.mean() > STICKING_OUT and (~upright | _sticks_out(stated, sizes)).mean() <= 0.01:
        return CORNERS
    half = stated[:, 2:] / 2
    around = np.concatenate([stated[:, :2] - half, stated[:, :2] + half], axis=1)
    return CENTRE if _sticks_out(around, sizes).sum() <= out.sum() / 20 else ""


def _sticks_out(corners: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """bool [n]: boxes x1, y1, x2, y2 that leave their image by more than a rounding."""
    return np.asarray((corners[:, :2] < -SLACK).any(axis=1) | (corners[:, 2:] > sizes + SLACK).any(axis=1))
