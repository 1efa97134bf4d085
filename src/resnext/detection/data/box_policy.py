"""Decide which annotated boxes can be used: clip them to their images, and drop or reject bad ones.

A box is used where its corners are finite and, clipped to the image, its sides are at least MIN_SIDE. So no NaN,
infinity or empty box reaches a loss. The unclipped box is kept as well: like COCO's own, our evaluation uses it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from resnext.errors import RequestError

MIN_SIDE = 1 / 128  # pixels: below the two decimals of COCO's files, above float32's rounding at 65,000 pixels
MAX_SIDE = 1 << 24  # pixels: float32 represents integers up to here exactly
GOOD, NOT_FINITE, FLAT, OUTSIDE = range(4)
PROBLEMS = ("", "is not four finite numbers", "has no width or height", "lies outside the image")
CLIPPED = "boxes cut at the edge"
DROPPED = "bad boxes left out"


class ClippedBoxes(NamedTuple):
    """Boxes clipped to their images."""

    boxes: np.ndarray  # float32 [n, 4]: x1, y1, x2, y2, inside the image
    problem: np.ndarray  # int64 [n]: GOOD, or the reason why the box cannot be used
    clipped: np.ndarray  # bool [n]: extended past the image's edge


def to_corners(stated: np.ndarray) -> np.ndarray:
    """Convert boxes x, y, width, height to x1, y1, x2, y2: float64 [n, 4]."""
    with np.errstate(all="ignore"):
        return np.concatenate([stated[:, :2], stated[:, :2] + stated[:, 2:]], axis=1)


def clip_boxes(stated: np.ndarray, sizes: np.ndarray) -> ClippedBoxes:
    """Clip boxes (float64 [n, 4]: x, y, width, height) to their images (int64 [n, 2]: width, height)."""
    corners = to_corners(stated)
    finite = np.isfinite(stated).all(axis=1) & np.isfinite(corners).all(axis=1)
    corners = np.where(finite[:, None], corners, 0.0)
    inside = np.clip(corners, 0.0, np.tile(sizes, 2).astype(np.float64)).astype(np.float32)
    with np.errstate(over="ignore"):
        flat = (corners[:, 2:] - corners[:, :2] < MIN_SIDE).any(axis=1)
        cut = (np.abs(inside - corners) > np.abs(corners) * np.finfo(np.float32).eps).any(axis=1)
    small = (inside[:, 2:] - inside[:, :2] < MIN_SIDE).any(axis=1)
    problem = np.where(small, np.where(cut, OUTSIDE, FLAT), GOOD)
    problem = np.where(flat, FLAT, problem)
    problem = np.where(finite, problem, NOT_FINITE)
    return ClippedBoxes(inside, problem, cut & (problem == GOOD))


class RawBoxes(NamedTuple):
    """Boxes of a split as read from its files, in any order; input of ``apply_box_policy``."""

    image: np.ndarray  # int64 [n]: index of the image
    labels: np.ndarray  # int64 [n]
    stated: np.ndarray  # float64 [n, 4]: x, y, width, height; NaN where they were not numbers
    crowd: np.ndarray  # bool [n]
    areas: np.ndarray  # float64 [n]; NaN where there is none


def apply_box_policy(
    found: RawBoxes, sizes: np.ndarray, bad_boxes: str, describe_box: Callable[[int], str], counts: dict[str, int]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Clip boxes, drop bad ones, and group them by image: offsets int64 [N + 1] and DetectionDataset's box arrays.

    ``counts`` gets the numbers of clipped and dropped boxes. Unless ``bad_boxes`` is drop, raises RequestError for the
    first bad box, described by ``describe_box``.
    """
    fitted = clip_boxes(found.stated, sizes[found.image])
    bad = np.flatnonzero(fitted.problem)
    if len(bad) and bad_boxes != "drop":
        raise RequestError(_describe_bad_box(int(bad[0]), len(bad), found, fitted, sizes, describe_box))
    keep = np.flatnonzero(fitted.problem == GOOD)
    keep = keep[np.argsort(found.image[keep], kind="stable")]
    changed = {CLIPPED: int(fitted.clipped.sum()), DROPPED: len(bad)}
    counts.update({what: number for what, number in changed.items() if number})
    offsets = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(np.bincount(found.image[keep], minlength=len(sizes)), out=offsets[1:])
    stated, areas = found.stated[keep], found.areas[keep]
    return offsets, {
        "boxes": fitted.boxes[keep],
        "labels": found.labels[keep],
        "crowd": found.crowd[keep],
        "areas": np.where(np.isnan(areas), stated[:, 2] * stated[:, 3], areas),
        "stated": stated,
    }


def _describe_bad_box(
    first: int, count: int, found: RawBoxes, fitted: ClippedBoxes, sizes: np.ndarray, describe_box: Callable[[int], str]
) -> str:
    width, height = sizes[found.image[first]]
    problem = PROBLEMS[fitted.problem[first]]
    size = f" of {width} x {height} pixels" if fitted.problem[first] == OUTSIDE else ""
    others = f" (and {count - 1} more like it)" if count > 1 else ""
    return (
        f"{describe_box(first)} {problem}{size}{others}; correct it, or drop such boxes with data.bad_boxes drop "
        "(resnext data check lists them all)"
    )
