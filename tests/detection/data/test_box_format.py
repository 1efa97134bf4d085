"""Boxes in another format are told by their numbers, and boxes in pixels are left in peace."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnext.detection.data.annotations import RawAnnotations
from resnext.detection.data.box_format import find_other_format
from resnext.detection.data.box_policy import RawBoxes
from resnext.detection.data.open import open_detection_data, open_detection_split
from resnext.detection.settings import DetectDataSettings
from resnext.errors import RequestError
from tests.detection.annotation_files import box_row, coco_content, coco_folder, voc_folder, voc_object, voc_xml, write

SIZE = np.array([640.0, 480.0])


def parsed(stated: np.ndarray) -> RawAnnotations:
    count = len(stated)
    zeros = np.zeros(count, np.int64)
    return RawAnnotations(
        name="x.json",
        classes=("a",),
        category_ids=(1,),
        image_ids=np.array([1], np.int64),
        files=("a.jpg",),
        sizes=SIZE.astype(np.int64)[None],
        boxes=RawBoxes(zeros, zeros, stated.reshape(-1, 4), zeros.astype(bool), np.full(count, np.nan)),
        describe_box=str,
    )


def boxes_in_pixels(seed: int, count: int = 60, largest: float = 0.4) -> np.ndarray:
    """x, y, width, height, as boxes lie anywhere in an image."""
    draw = np.random.default_rng(seed)
    sides = SIZE * np.exp(draw.uniform(np.log(0.03), np.log(largest), (count, 2)))
    return np.concatenate([draw.uniform(0, 1, (count, 2)) * (SIZE - sides), sides], axis=1)


def as_fractions(boxes: np.ndarray) -> np.ndarray:
    return boxes / np.tile(SIZE, 2)


def as_corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def as_centres(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]], axis=1)


def as_pixels_sticking_out(boxes: np.ndarray) -> np.ndarray:
    """Every edge moved outwards by up to 5 pixels, as careless annotators leave them."""
    return np.concatenate([boxes[:, :2] - 5, boxes[:, 2:] + 10], axis=1)


@settings(max_examples=100)
@given(st.integers(0, 2**32), st.integers(1, 300), st.floats(0.05, 1.0))
def test_boxes_in_pixels_are_left_in_peace(seed: int, count: int, largest: float) -> None:
    boxes = boxes_in_pixels(seed, count, largest)
    assert list(find_other_format(parsed(boxes))) == []
    assert list(find_other_format(parsed(as_pixels_sticking_out(boxes)))) == []


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (as_fractions, "all 120 boxes of x.json are numbers from 0 to 1, .* so multiply x and width by"),
        (lambda b: as_fractions(as_centres(b)), r"from 0 to 1, .*\(center x, .* height\): .* subtract half"),
        (lambda b: as_fractions(as_corners(b)), r"from 0 to 1, .*\(x1, y1, x2, y2\): .* width is x2 - x1"),
        (as_corners, r"look like x1, y1, x2, y2: .* \d+ of 120 extend past .*; width is x2 - x1"),
        (as_centres, r"look like center x, center y, width, height: .* subtract half of width and height from x and y"),
        (lambda b: b * 0 + [9, 9, 2, 1], "all 120 boxes of x.json are at most 2 pixels wide and high"),
    ],
)  # fmt: skip
def test_boxes_in_another_format_are_named_with_what_mends_them(
    change: Callable[[np.ndarray], np.ndarray], says: str, seed: int
) -> None:
    (problem,) = find_other_format(parsed(change(boxes_in_pixels(seed, 120))))
    assert re.search(says, problem), problem


def test_a_few_boxes_or_none_say_nothing() -> None:
    assert list(find_other_format(parsed(np.zeros((0, 4))))) == []
    assert list(find_other_format(parsed(np.full((9, 4), np.nan)))) == []
    assert list(find_other_format(parsed(as_corners(boxes_in_pixels(1, 4))))) == []
    whole_images = np.tile([0.0, 0.0, 640.0, 480.0], (50, 1))  # wider than x, higher than y, all of them
    assert list(find_other_format(parsed(whole_images))) == []


def test_training_and_evaluation_refuse_them(tmp_path: Path) -> None:
    fractions = [box_row(i, 10, [0.1 * i, 0.2, 0.3, 0.4]) for i in range(3)]
    root = coco_folder(tmp_path / "a", None, coco_content(annotations=fractions))
    says = "all 3 boxes of instances_val.json are numbers from 0 to 1"
    for read in (open_detection_data, lambda data: open_detection_split(data, "val")):
        with pytest.raises(RequestError, match=says):
            read(DetectDataSettings(path=str(root), bad_boxes="drop"))


def test_fractions_in_vocs_files_are_refused_too(tmp_path: Path) -> None:
    root = voc_folder(tmp_path)
    write(root / "Annotations/000003.xml", voc_xml(voc_object("bird", (0.1, 0.2, 1.0, 0.7), 0)))
    with pytest.raises(RequestError, match=r"the only box of val\.txt is numbers from 0 to 1"):
        open_detection_data(DetectDataSettings(path=str(root), source="voc"))


def test_a_split_without_a_box_to_learn_is_refused(tmp_path: Path) -> None:
    crowd = [box_row(1, 10, [1, 2, 9, 9], iscrowd=1)]
    bad = [box_row(1, 10, [1, 2, 0, 9])]
    for place, (rows, says) in enumerate(
        [
            ([], "instances_train.json has no boxes, so nothing can be trained"),
            (crowd, "every box of instances_train.json is a crowd or a difficult object"),
            (bad, "instances_train.json has no boxes after 1 bad ones were left out"),
        ]
    ):
        root = coco_folder(tmp_path / str(place), coco_content(annotations=rows))
        with pytest.raises(RequestError, match=says):
            open_detection_data(DetectDataSettings(path=str(root), bad_boxes="drop"))
    root = coco_folder(tmp_path / "val", None, coco_content(annotations=[]))
    with pytest.raises(RequestError, match=r"instances_val\.json has no boxes"):
        open_detection_data(DetectDataSettings(path=str(root)))
