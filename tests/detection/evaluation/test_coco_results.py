import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnext.detection.evaluation.class_matching import merge_classes
from resnext.detection.evaluation.coco_eval import STATS, evaluate_detections, sort_detections
from resnext.detection.evaluation.coco_results import read_coco_results, write_coco_results
from resnext.errors import RequestError
from tests.detection.annotation_files import write_json
from tests.detection.synthetic import Made, dataset, detections, random_case

A = [10, 10, 60, 60]
DATA = dataset([(0, 0, A)], images=2, classes=("cat", "dog"), ids=(18, 3))
GOOD = {"image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.mark.parametrize("seed", range(4))
def test_a_file_gives_back_the_same_detections_and_numbers(seed: int, tmp_path: Path) -> None:
    data, found = random_case(seed)
    write_coco_results(tmp_path / "d.json", data, found)
    again = read_coco_results(tmp_path / "d.json", data)
    for ours, theirs in zip(again, sort_detections([found]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    first, second = evaluate_detections(data, found), evaluate_detections(data, again)
    assert [getattr(first, name) for name in STATS] == [getattr(second, name) for name in STATS]


SIDE = st.floats(0, 1e5, width=32)


@settings(max_examples=200)
@given(st.tuples(SIDE, SIDE, SIDE, SIDE), st.floats(0, 1, width=32))
def test_nine_digits_are_enough_for_any_box(tmp_path_factory: Any, corners: tuple[float, ...], score: float) -> None:
    x1, x2, y1, y2 = *sorted(corners[:2]), *sorted(corners[2:])
    found = detections((0, 1, [x1, y1, x2, y2], score))
    path = tmp_path_factory.getbasetemp() / "any.json"
    write_coco_results(path, DATA, found)
    again = read_coco_results(path, DATA)
    assert again.boxes.tolist() == found.boxes.tolist()
    assert again.score.tolist() == found.score.tolist()


def test_pycocotools_reads_the_file(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco").COCO()
    coco.dataset = DATA.to_coco_dict()
    coco.createIndex()
    write_coco_results(tmp_path / "d.json", DATA, detections((1, 0, A, 0.25)))
    (one,) = coco.loadRes(str(tmp_path / "d.json")).anns.values()
    assert (one["image_id"], one["category_id"], one["bbox"], one["score"]) == (10, 18, [10, 10, 50, 50], 0.25)


def test_no_detections_are_an_empty_list(tmp_path: Path) -> None:
    write_coco_results(tmp_path / "d.json", DATA, detections())
    assert json.loads((tmp_path / "d.json").read_text()) == []
    assert read_coco_results(tmp_path / "d.json", DATA).n == 0


def test_further_keys_of_other_tools_are_not_looked_at(tmp_path: Path) -> None:
    path = write_json(tmp_path / "d.json", [{**GOOD, "segmentation": [[1, 2]], "id": "x"}])
    found = read_coco_results(path, DATA)
    assert found.boxes.tolist() == [[1, 2, 4, 6]]
    assert (found.image.tolist(), found.label.tolist(), found.score.tolist()) == ([0], [1], [0.5])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (3, "is not an object"),
        ({k: v for k, v in GOOD.items() if k != "bbox"}, "has no bbox"),
        ({k if k != "score" else "scores": v for k, v in GOOD.items()}, "has no score; did you mean 'scores'?"),
        ({**GOOD, "image_id": 8}, "image_id 8, which made.json does not have"),
        ({**GOOD, "image_id": "7"}, 'image_id "7"'),
        ({**GOOD, "image_id": [7]}, "image_id [7]"),
        ({**GOOD, "image_id": True}, "image_id true"),
        ({**GOOD, "category_id": 1}, "category_id 1; made.json has 18 cat, 3 dog"),
        ({**GOOD, "category_id": None}, "category_id null"),
        ({**GOOD, "bbox": [1, 2, 3]}, "has the bbox [1, 2, 3]"),
        ({**GOOD, "bbox": [1, 2, -3, 4]}, "has the bbox [1, 2, -3, 4]"),
        ({**GOOD, "bbox": [1, 2, float("nan"), 4]}, "has the bbox [1, 2, NaN, 4]"),
        ({**GOOD, "bbox": [10**400, 2, 3, 4]}, "has the bbox [1000"),
        ({**GOOD, "bbox": "1 2 3 4"}, "has the bbox"),
        ({**GOOD, "score": float("inf")}, "has the score Infinity"),
        ({**GOOD, "score": "high"}, 'has the score "high"'),
        ({**GOOD, "score": True}, "has the score true"),
    ],
)
def test_a_result_that_cannot_be_one_is_named(value: Any, words: str, tmp_path: Path) -> None:
    path = write_json(tmp_path / "d.json", [GOOD, value])
    with pytest.raises(RequestError) as caught:
        read_coco_results(path, DATA)
    assert str(caught.value).startswith(f"{path}: result 1 ")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "is not a JSON file"),
        (b"\xff\xfe\x00", "is not a JSON file"),
        (b"[" * 100_000, "is not a JSON file"),
        (b"[" + b"9" * 5000 + b"]", "is not a JSON file"),
        (b'{"a": 1}', "is not a list of results"),
        (b'{"annotations": []}', "it contains annotations"),
    ],
)
def test_a_file_that_holds_no_results_is_refused(text: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "d.json").write_bytes(text)
    with pytest.raises(RequestError, match=words):
        read_coco_results(tmp_path / "d.json", DATA)


def test_no_file_and_too_large_ones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(RequestError, match="does not exist"):
            read_coco_results(path, DATA)
    (tmp_path / "d.json").write_text(json.dumps([GOOD] * 3))
    monkeypatch.setattr("resnext.detection.evaluation.coco_results.MAX_RESULTS", 2)
    with pytest.raises(RequestError, match="contains 3 results; at most 2"):
        read_coco_results(tmp_path / "d.json", DATA)
    monkeypatch.setattr("resnext.detection.evaluation.coco_results.MAX_BYTES", 50)
    with pytest.raises(RequestError, match="larger than the 50 bytes"):
        read_coco_results(tmp_path / "d.json", DATA)


NAMES = {"file_name": "000.png", "category": "dog"}


def test_names_beside_the_ids_must_be_those_of_the_data(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text(json.dumps([GOOD | NAMES, GOOD | NAMES | {"file_name": "/data/val/000.png"}]))
    assert read_coco_results(path, DATA).label.tolist() == [1, 1]
    for wrong, says in (
        ({"file_name": "/data/001.png"}, r'image_id 7 and file_name "/data/001.png", but 7 is "000.png" in made.json'),
        ({"category": "cat"}, r'category_id 3 and category "cat", but 3 is "dog" in made.json: it was'),
    ):
        path.write_text(json.dumps([GOOD | NAMES, GOOD | NAMES | wrong]))
        with pytest.raises(RequestError, match=says):
            read_coco_results(path, DATA)


def test_names_in_the_place_of_ids_are_looked_up(tmp_path: Path) -> None:
    rows = [
        GOOD | {"image_id": "val/001.png", "category_id": "cat"},
        GOOD | {"image_id": "val/000.png", "category_id": 18, "category": "dog"},  # an id of its own numbering
        GOOD | {"image_id": "val/000.png", "category_id": 18},
    ]
    found = read_coco_results(write_json(tmp_path / "d.json", rows), DATA)
    assert sorted(zip(found.image.tolist(), found.label.tolist(), strict=True)) == [(0, 0), (0, 1), (1, 0)]


def test_results_of_a_class_that_the_data_lacks_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    named = GOOD | {"image_id": "000.png"}
    path.write_text(json.dumps([named | {"category_id": "owl"}, named | {"category_id": "dog"}]))
    counts: dict[str, int] = {}
    assert read_coco_results(path, DATA, counts).label.tolist() == [1]
    assert counts == {"results left out, as the data does not have their class": 1}
    path.write_text(json.dumps([named | {"category_id": "owl"}]))
    with pytest.raises(RequestError, match=r"no result has a class of made\.json, whose classes are 18 cat, 3 dog"):
        read_coco_results(path, DATA)


def test_two_names_of_one_image_are_refused(tmp_path: Path) -> None:
    rows = [GOOD | {"image_id": name, "category_id": "dog"} for name in ("a/000.png", "b/000.png")]
    says = r'result 1 has the image_id "b/000.png", but "a/000.png" already matched the same'
    with pytest.raises(RequestError, match=says):
        read_coco_results(write_json(tmp_path / "d.json", rows), DATA)


def test_data_without_ids_has_names_in_their_places(tmp_path: Path) -> None:
    data, found = random_case(1)
    voc = Made(**vars(data) | {"has_generated_ids": True})
    path = tmp_path / "d.json"
    write_coco_results(path, voc, found)
    first = json.loads(path.read_text())[0]
    assert (first["image_id"], first["category_id"]) == (data.files[found.image[0]], data.classes[found.label[0]])
    for ours, theirs in zip(read_coco_results(path, voc), sort_detections([found]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for id_, says in (
        ({}, r"result 0 has the image_id 7, but made.json has no ids: give the name there, or in file_name"),
        ({"file_name": "000.png"}, r"result 0 has the category_id 3, but made.json has no ids"),
    ):
        path.write_text(json.dumps([GOOD | id_]))
        with pytest.raises(RequestError, match=says):
            read_coco_results(path, voc)
    path.write_text(json.dumps([GOOD | {"file_name": "000.png", "category": "class 2"}]))
    assert read_coco_results(path, voc).label.tolist() == [2]


def test_objects_of_any_class_are_not_taken_for_the_first(tmp_path: Path) -> None:
    write_coco_results(tmp_path / "d.json", merge_classes(DATA), detections((0, 0, A, 0.5)))
    assert read_coco_results(tmp_path / "d.json", merge_classes(DATA)).n == 1
    data = dataset([(0, 0, A)], images=2, classes=("cat", "dog"))
    with pytest.raises(RequestError, match='category_id 1 and category "object", but 1 is "cat"'):
        read_coco_results(tmp_path / "d.json", data)
