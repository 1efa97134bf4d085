"""Predictions as COCO has them: real ids where annotations are given, names that nobody takes for ids where not."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnext.detection.coco_predictions import (
    mark_wrong_sizes,
    read_annotation_ids,
    to_coco_results,
    to_image_table,
    use_names_as_ids,
)
from resnext.detection.evaluation.coco_eval import evaluate_detections
from resnext.detection.evaluation.coco_results import read_coco_results
from resnext.detection.model.faster_rcnn import FasterRcnn
from resnext.detection.predict import DetectPrediction
from resnext.errors import RequestError
from tests.detection.annotation_files import box_row, image_row, photo, pycocotools_metrics, read_coco, write_json
from tests.detection.tiny_detector import CIFAR, detector

BOXES = {"a.jpg": ([[1, 2, 21, 12]], [0]), "b.jpg": ([], []), "c.jpg": ([[5, 5, 25, 25], [0, 0, 9, 9]], [1, 0])}
ORDERS = {  # image ids, category ids by name
    "shuffled": ({"a.jpg": 3, "b.jpg": 1, "c.jpg": 2}, {"cat": 1, "dog": 2}),
    "from zero": ({"a.jpg": 1, "b.jpg": 2, "c.jpg": 0}, {"things": 0, "dog": 1, "cat": 2}),
}


@pytest.fixture
def model() -> FasterRcnn:
    return detector(CIFAR, ("cat", "dog"))


def annotations(path: Path, order: str, **changes: Any) -> Path:
    """The boxes of BOXES under the ids of an order."""
    images, categories = ORDERS[order]
    rows = [
        box_row(0, images[name], [x1, y1, x2 - x1, y2 - y1], categories[("cat", "dog")[label]], area=200, iscrowd=0)
        for name, (boxes, labels) in BOXES.items()
        for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True)
    ]
    content = {
        "images": [image_row(images[name], name) for name in sorted(images, key=lambda name: images[name])],
        "annotations": [row | {"id": number} for number, row in enumerate(rows, 1)],
        "categories": [{"id": id_, "name": name} for name, id_ in categories.items()],
    }
    return write_json(path, content | changes)


def predictions(folder: Path) -> list[DetectPrediction]:
    """Every box of BOXES, found exactly."""
    found = []
    for name, (boxes, labels) in BOXES.items():
        photo(folder / name)
        box = np.array(boxes, np.float32).reshape(-1, 4)
        scores = np.full(len(labels), 0.9, np.float32)
        found.append(DetectPrediction(str(folder / name), box, np.array(labels, np.int64), scores, size=(40, 30)))
    return found


def paths_of(found: list[DetectPrediction]) -> list[str]:
    return [str(one.path) for one in found]


@pytest.mark.parametrize("order", ORDERS)
def test_with_annotations_pycocotools_scores_the_file_as_it_should(
    order: str, model: FasterRcnn, tmp_path: Path
) -> None:
    found, truth = predictions(tmp_path / "val"), annotations(tmp_path / "x.json", order)
    ids = read_annotation_ids(truth, paths_of(found), model)
    results = write_json(tmp_path / "r.json", to_coco_results(found, ids))
    assert pycocotools_metrics(truth, results)[0] == pytest.approx(1)
    data = read_coco(truth, tmp_path / "val")
    assert evaluate_detections(data, read_coco_results(results, data)).ap == pytest.approx(1)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("known", [None, (1, 2)])
def test_without_annotations_pycocotools_refuses_and_names_are_looked_up(
    order: str, known: tuple[int, ...] | None, model: FasterRcnn, tmp_path: Path
) -> None:
    found, truth = predictions(tmp_path / "val"), annotations(tmp_path / "x.json", order)
    model.category_ids = known
    rows = to_coco_results(found, use_names_as_ids(paths_of(found), model))
    assert {row["category_id"] for row in rows} == set(known or ("cat", "dog"))
    assert all(row["image_id"] == row["file_name"] for row in rows)
    results = write_json(tmp_path / "r.json", rows)
    with pytest.raises(AssertionError, match="do not correspond"):
        pycocotools_metrics(truth, results)
    data = read_coco(truth, tmp_path / "val")
    assert evaluate_detections(data, read_coco_results(results, data)).ap == pytest.approx(1)


def test_an_image_with_nothing_in_it_is_in_the_table(model: FasterRcnn, tmp_path: Path) -> None:
    found, truth = predictions(tmp_path / "val"), annotations(tmp_path / "x.json", "shuffled")
    broken = DetectPrediction("x.jpg", found[1].boxes, found[1].labels, found[1].scores, error="broken")
    names = paths_of(found)
    assert to_image_table(found, read_annotation_ids(truth, names, model)) == {
        "images": [
            {"id": 3, "file_name": names[0], "width": 40, "height": 30, "detections": 1},
            {"id": 1, "file_name": names[1], "width": 40, "height": 30, "detections": 0},
            {"id": 2, "file_name": names[2], "width": 40, "height": 30, "detections": 2},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    table = to_image_table([broken], use_names_as_ids(["x.jpg"], model))
    assert table["images"] == [{"id": "x.jpg", "file_name": "x.jpg", "error": "broken"}]
    assert table["categories"] == [{"id": "cat", "name": "cat"}, {"id": "dog", "name": "dog"}]


def test_a_list_of_test_images_without_annotations_is_enough(model: FasterRcnn, tmp_path: Path) -> None:
    truth = annotations(tmp_path / "x.json", "shuffled")
    content = json.loads(truth.read_text())
    del content["annotations"]
    write_json(truth, content)
    assert read_annotation_ids(truth, ["somewhere/b.jpg"], model).images == [1]


def test_a_class_that_the_annotations_lack_keeps_its_name(tmp_path: Path) -> None:
    truth = annotations(tmp_path / "x.json", "shuffled")
    ids = read_annotation_ids(truth, ["a.jpg"], detector(CIFAR, ("owl", "dog")))
    assert ids.categories == ["owl", 2]
    with pytest.raises(RequestError, match=r"has none of the detector's classes, only 'cat', 'dog'"):
        read_annotation_ids(truth, ["a.jpg"], detector(CIFAR, ("owl", "Dog")))


def test_outputs_without_names_get_those_of_the_annotations(tmp_path: Path) -> None:
    truth = annotations(tmp_path / "x.json", "shuffled")
    numbered = detector(CIFAR, ("class 1", "class 2"))
    numbered.has_numbered_classes = True
    ids = read_annotation_ids(truth, ["a.jpg"], numbered)
    assert (ids.categories, ids.names) == ([1, 2], ["cat", "dog"])


def test_images_that_the_annotations_do_not_have_once_are_refused(model: FasterRcnn, tmp_path: Path) -> None:
    truth = annotations(tmp_path / "x.json", "shuffled")
    with pytest.raises(RequestError, match=r"1 of the 2 images are not in .*x\.json: 'd\.jpg'; it has 3, such as"):
        read_annotation_ids(truth, ["a.jpg", "d.jpg"], model)
    with pytest.raises(RequestError, match=r"two/a\.jpg and one/a\.jpg both match the image 'a\.jpg'"):
        read_annotation_ids(truth, ["one/a.jpg", "two/a.jpg"], model)


def test_a_picture_of_another_size_than_its_annotations_state_is_an_error(model: FasterRcnn, tmp_path: Path) -> None:
    """Boxes of a picture that was turned are in other pixels than its annotations."""
    found = predictions(tmp_path / "val")
    images = [image_row(3, "a.jpg", 30, 40), image_row(1, "b.jpg"), image_row(2, "c.jpg")]
    truth = annotations(tmp_path / "x.json", "shuffled", images=images)
    ids = read_annotation_ids(truth, paths_of(found), model)
    checked = mark_wrong_sizes(found, ids)
    assert [one.error for one in checked] == ["it has 40 x 30 pixels, but its annotations say 30 x 40", None, None]
    assert {row["image_id"] for row in to_coco_results(checked, ids)} == {2}

    unstated = [image_row(3, "a.jpg", 0, 0), *images[1:]]
    ids = read_annotation_ids(annotations(tmp_path / "y.json", "shuffled", images=unstated), paths_of(found), model)
    assert [one.error for one in mark_wrong_sizes(found, ids)] == [None, None, None]


def one_box(path: str | None) -> DetectPrediction:
    return DetectPrediction(
        path, np.zeros((1, 4), np.float32), np.zeros(1, np.int64), np.ones(1, np.float32), size=(4, 4)
    )


def test_names_that_are_no_text_come_back_as_the_same_bytes(model: FasterRcnn) -> None:
    path = os.fsdecode(b"x\xff.jpg")
    (row,) = json.loads(json.dumps(to_coco_results([one_box(path)], use_names_as_ids([path], model))))
    assert os.fsencode(row["file_name"]) == os.fsencode(row["image_id"]) == b"x\xff.jpg"


def test_pictures_without_a_path_are_numbered(model: FasterRcnn) -> None:
    rows = to_coco_results([one_box(None)] * 2, use_names_as_ids([None, None], model))
    assert [row["image_id"] for row in rows] == ["image 0", "image 1"]
    assert "file_name" not in rows[0]
