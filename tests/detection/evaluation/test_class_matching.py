"""A detector's classes before data that has them in another order, under other ids, more of them or fewer."""

import numpy as np
import pytest

from resnext.detection.evaluation.class_matching import match_classes
from resnext.detection.weights import list_coco_names
from resnext.errors import RequestError
from tests.detection.synthetic import dataset, detections
from tests.detection.tiny_detector import CIFAR, detector

BOX = (4, 4, 30, 30)
COCO_IDS = tuple(id_ for id_, name in enumerate(list_coco_names(), 1) if name != f"class {id_}")
COCO_CLASSES = tuple(list_coco_names()[id_ - 1] for id_ in COCO_IDS)


def test_the_same_list_is_matched_without_a_word_whatever_its_ids() -> None:
    model = detector(CIFAR, ("a", "b"))
    match = match_classes(model, dataset([(0, 0, BOX)], classes=("a", "b"), ids=(70, 3)))
    assert match.labels.tolist() == [0, 1]
    assert match.note == ""


def test_names_in_another_order_are_matched_and_it_is_said() -> None:
    model = detector(CIFAR, ("a", "b", "c"))
    match = match_classes(model, dataset([(0, 0, BOX)], classes=("c", "a", "b"), ids=(0, 1, 2)))
    assert match.labels.tolist() == [1, 2, 0]
    assert match.note == "classes matched by name"
    found = match.relabel(detections((0, 0, BOX, 0.9), (0, 2, BOX, 0.8)))
    assert found.label.tolist() == [1, 0]


def test_a_class_that_the_data_lacks_is_left_out_and_named() -> None:
    model = detector(CIFAR, ("a", "b", "c"))
    match = match_classes(model, dataset([(0, 0, BOX), (0, 1, BOX)], classes=("a", "c")))
    assert match.labels.tolist() == [0, -1, 1]
    assert match.note == "classes matched by name; left out, as the data does not have them: 'b'"
    found = match.relabel(detections((0, 0, BOX, 0.9), (0, 1, BOX, 0.8), (0, 2, BOX, 0.7)))
    assert found.label.tolist() == [0, 1]
    assert found.score.tolist() == np.array([0.9, 0.7], np.float32).tolist()


def test_an_unknown_class_without_boxes_is_ignored_and_one_with_boxes_is_an_error_that_names_it() -> None:
    model = detector(CIFAR, ("a", "WBC"))
    rows = [(0, 0, BOX), (0, 2, BOX)]
    match = match_classes(model, dataset(rows, classes=("a", "RBC", "WBC")))
    assert match.labels.tolist() == [0, 2]
    assert match.note == "classes matched by name; unknown to the detector, without boxes in the data: 'RBC'"
    assert match_classes(model, dataset([*rows, (0, 1, BOX)], classes=("a", "RBC", "WBC"), crowd=[2])).note
    with pytest.raises(RequestError, match=r"3 classes \(a, RBC, WBC\), but the detector does not know 'RBC'") as one:
        match_classes(model, dataset([*rows, (0, 1, BOX)], classes=("a", "RBC", "WBC")))
    assert "did you mean 'WBC'?" in str(one.value)
    with pytest.raises(RequestError, match="does not know 'x', 'y'"):
        match_classes(model, dataset([], classes=("x", "y")))


def test_outputs_without_names_are_matched_by_position_where_there_are_as_many() -> None:
    model = detector(CIFAR, ("class 1", "class 2"))
    model.has_numbered_classes = True
    match = match_classes(model, dataset([(0, 0, BOX)], classes=("x", "y"), ids=(5, 9)))
    assert match.labels.tolist() == [0, 1]
    assert match.note == "classes matched by position, as the detector's file has no class names"
    with pytest.raises(RequestError, match="does not know 'x', 'y', 'z'"):
        match_classes(model, dataset([(0, 0, BOX)], classes=("x", "y", "z")))


def test_the_91_outputs_of_torchvision_are_matched_to_cocos_80_categories() -> None:
    model = detector(CIFAR, list_coco_names())
    model.has_numbered_classes, model.category_ids = True, tuple(range(1, 91))
    assert (len(COCO_IDS), COCO_CLASSES[0], COCO_CLASSES[-1]) == (80, "person", "toothbrush")
    in_order = dataset([(0, 79, BOX)], classes=COCO_CLASSES, ids=COCO_IDS)
    match = match_classes(model, in_order)
    assert match.note == "classes matched by name"
    assert match.labels[[0, 11, 12, 89]].tolist() == [0, -1, 11, 79]  # ids 1, 12 (which COCO left out), 13, 90
    assert sorted(match.labels[match.labels >= 0].tolist()) == list(range(80))
    renumbered = dataset([(0, 0, BOX)], classes=COCO_CLASSES[::-1], ids=tuple(range(80)))
    assert match_classes(model, renumbered).labels[[0, 89]].tolist() == [79, 0]
    renamed = dataset([(0, 79, BOX)], classes=tuple(f"Klasse {id_}" for id_ in COCO_IDS), ids=COCO_IDS)
    by_id = match_classes(model, renamed)
    assert by_id.note == "classes matched by COCO's ids"
    np.testing.assert_array_equal(by_id.labels, match.labels)


def test_the_91_outputs_are_not_taken_for_other_data() -> None:
    model = detector(CIFAR, list_coco_names())
    model.has_numbered_classes, model.category_ids = True, tuple(range(1, 91))
    with pytest.raises(RequestError, match="does not know 'RBC', 'WBC'"):
        match_classes(model, dataset([(0, 0, BOX), (0, 1, BOX)], classes=("RBC", "WBC"), ids=(1, 2)))
    some = match_classes(model, dataset([(0, 0, BOX)], classes=("cat", "dog"), ids=(1, 2)))
    assert np.flatnonzero(some.labels >= 0).tolist() == [16, 17]
