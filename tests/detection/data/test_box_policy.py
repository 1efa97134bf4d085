"""The policy of boxes, for any numbers at all."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnext.detection.data.box_policy import (
    FLAT,
    GOOD,
    MIN_SIDE,
    NOT_FINITE,
    OUTSIDE,
    RawBoxes,
    apply_box_policy,
    clip_boxes,
)
from resnext.errors import RequestError

ANY = st.floats(allow_nan=True, allow_infinity=True)
NEAR = st.floats(-20, 120)
SIDE = st.integers(1, 1 << 24)


def fit_one(box: list[float], size: tuple[int, int] = (100, 50)) -> tuple[list[float], int, bool]:
    fitted = clip_boxes(np.array([box], np.float64), np.array([size]))
    return fitted.boxes[0].tolist(), int(fitted.problem[0]), bool(fitted.clipped[0])


@settings(max_examples=400)
@given(st.lists(st.one_of(ANY, NEAR), min_size=4, max_size=4), st.tuples(SIDE, SIDE))
def test_no_numbers_whatever_give_a_box_that_cannot_be_trained_on(box: list[float], size: tuple[int, int]) -> None:
    (x1, y1, x2, y2), problem, _ = fit_one(box, size)
    assert all(math.isfinite(side) for side in (x1, y1, x2, y2))
    if problem == GOOD:
        assert 0 <= x1 < x2 <= size[0]
        assert 0 <= y1 < y2 <= size[1]


@settings(max_examples=200)
@given(st.lists(NEAR, min_size=4, max_size=4))
def test_the_policy_is_what_exact_arithmetic_says(box: list[float]) -> None:
    x, y, w, h = box
    left, right = max(x, 0.0), min(x + w, 100.0)
    top, bottom = max(y, 0.0), min(y + h, 50.0)
    slack = 1e-4
    if min(w, h) > 2 * MIN_SIDE and min(right - left, bottom - top) > 2 * MIN_SIDE:
        found, problem, cut = fit_one(box)
        assert problem == GOOD
        assert found == pytest.approx([left, top, right, bottom], abs=slack)
        if min(x, y, 100 - x - w, 50 - y - h) > slack:
            assert not cut
        if min(x, y, 100 - x - w, 50 - y - h) < -slack:
            assert cut
    elif min(w, h) < MIN_SIDE - slack:
        assert fit_one(box)[1] == FLAT
    elif min(right - left, bottom - top) < -slack:
        assert fit_one(box)[1] == OUTSIDE


@pytest.mark.parametrize(
    ("box", "problem"),
    [
        ([0, 0, 100, 50], GOOD),
        ([0, 0, 0, 10], FLAT),
        ([5, 5, 10, 0], FLAT),
        ([5, 5, -10, 10], FLAT),
        ([100, 0, 10, 10], OUTSIDE),
        ([-10, 0, 10, 10], OUTSIDE),
        ([0, 51, 10, 10], OUTSIDE),
        ([float("nan"), 0, 10, 10], NOT_FINITE),
        ([0, 0, float("inf"), 10], NOT_FINITE),
        ([1e308, 0, 1e308, 10], NOT_FINITE),
        ([0, 0, 0.01, 0.01], GOOD),  # the least that COCO's two decimals can say
    ],
)
def test_each_kind_of_box_by_hand(box: list[float], problem: int) -> None:
    assert fit_one(box)[1] == problem


def test_a_box_that_sticks_out_is_cut_at_the_edge() -> None:
    assert fit_one([-5, 40, 20, 20]) == ([0, 40, 15, 50], GOOD, True)
    assert fit_one([-1e6, -1e6, 1e9, 1e9]) == ([0, 0, 100, 50], GOOD, True)
    assert fit_one([0.1, 0.2, 99.9, 49.8])[2] is False  # rounding is no cut


def some(stated: list[list[float]], image: list[int]) -> RawBoxes:
    n = len(image)
    return RawBoxes(np.array(image), np.arange(n), np.array(stated, float), np.zeros(n, bool), np.full(n, np.nan))


def test_boxes_are_sorted_to_their_images_in_the_order_they_came() -> None:
    found = some([[0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3], [0, 0, 4, 4]], [2, 0, 2, 0])
    offsets, arrays = apply_box_policy(found, np.full((3, 2), 50), "error", str, {})
    assert offsets.tolist() == [0, 2, 2, 4]
    assert arrays["labels"].tolist() == [1, 3, 0, 2]
    assert arrays["areas"].tolist() == [4, 16, 1, 9]  # width x height where none is stated


def test_bad_boxes_are_an_error_or_left_out_and_counted() -> None:
    found = some([[0, 0, 5, 5], [0, 0, 0, 5], [60, 0, 5, 5], [48, 0, 5, 5]], [0, 0, 0, 0])
    with pytest.raises(RequestError, match=r"box 1 has no width or height \(and 1 more like it\).*data.bad_boxes drop"):
        apply_box_policy(found, np.full((1, 2), 50), "error", lambda i: f"box {i}", {})
    counts: dict[str, int] = {}
    _, arrays = apply_box_policy(found, np.full((1, 2), 50), "drop", str, counts)
    assert arrays["labels"].tolist() == [0, 3]
    assert counts == {"boxes cut at the edge": 1, "bad boxes left out": 2}
