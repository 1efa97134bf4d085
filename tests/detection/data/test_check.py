"""``data check`` of images with boxes: each fault is found by name, and what has no error trains."""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import pytest

from resnext.commands import data
from resnext.data.dataset import BadImageError
from resnext.detection.data.check import check_detection_data
from resnext.detection.data.find_annotations import guess_detection_source
from resnext.detection.data.find_images import FOUND_BY_NAME, MEASURED_SIZES
from resnext.detection.data.open import open_detection_data
from resnext.detection.settings import DetectDataSettings
from resnext.errors import RequestError
from tests.detection.annotation_files import (
    box_row,
    coco_content,
    coco_folder,
    image_row,
    photo,
    voc_folder,
    voc_object,
    voc_xml,
    write,
    write_json,
)


def clean_content() -> dict[str, Any]:
    """Every image has a box, every class too, and nothing is a crowd."""
    return coco_content(
        annotations=[box_row(i, id_, [1, 2, 9, 9], (3, 7)[i % 2]) for i, id_ in enumerate((10, 20, 30))]
    )


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return coco_folder(tmp_path / "data", clean_content(), clean_content())


def found(root: Path, **changes: Any) -> dict[str, tuple[str, str, str]]:
    """problem -> severity, path and class of its only finding."""
    report = check_detection_data(DetectDataSettings(path=str(root), **changes), 1)
    names = [finding.problem for finding in report.findings]
    assert len(set(names)) == len(names), report.findings
    return {f.problem: (f.severity, f.path, f.class_name) for f in report.findings}


def trains(root: Path, **changes: Any) -> bool:
    """Whether all of it can be read as training does."""
    try:
        for dataset in open_detection_data(DetectDataSettings(path=str(root), **changes)):
            for index in range(len(dataset)):
                dataset.load_image(index)
    except (RequestError, BadImageError):
        return False
    return True


def rewrite(root: Path, split: str, **changes: Any) -> None:
    write_json(root / f"annotations/instances_{split}.json", clean_content() | changes)


def with_row(*rows: dict[str, Any]) -> list[dict[str, Any]]:
    return clean_content()["annotations"] + list(rows)


def test_clean_folders_have_no_findings_and_say_what_they_hold(root: Path) -> None:
    report = check_detection_data(DetectDataSettings(path=str(root)), 1)
    assert report.findings == ()
    lines = list(report.summary_lines())
    assert lines[:2] == ["train/: 3 images with 3 boxes in 2 classes", "val/: 3 images with 3 boxes in 2 classes"]
    assert report.counts["train"] == {"cat": 2, "dog": 1}
    assert trains(root)


@pytest.mark.parametrize(
    ("box", "problem"),
    [
        ([1, 1, 0, 5], "box without width or height"),
        ([50, 1, 5, 5], "box outside the image"),
        ([1, 1, float("nan"), 5], "box not four numbers"),
    ],
)
def test_bad_boxes_are_errors_unless_training_drops_them(root: Path, box: list[float], problem: str) -> None:
    rewrite(root, "val", annotations=with_row(box_row(9, 10, box, 7)))
    assert found(root) == {problem: ("error", "val/b.jpg", "dog")}
    assert not trains(root)
    assert found(root, bad_boxes="drop") == {problem: ("warning", "val/b.jpg", "dog")}
    assert trains(root, bad_boxes="drop")


def test_what_training_can_bear_is_said_too(root: Path) -> None:
    cats = [row | {"category_id": 3} for row in with_row()]
    for annotations, problem, said in (
        (with_row(box_row(9, 10, [30, 20, 10.5, 10], 7)), "box cut at the edge", ("note", "train/b.jpg", "")),
        (with_row(box_row(9, 10, [30, 20, 15, 10], 7)), "box cut at the edge", ("warning", "train/b.jpg", "")),
        (with_row(box_row(9, 20, [1, 2, 9, 9], 7)), "duplicate box", ("warning", "train/a.jpg", "dog")),
        (with_row(box_row(9, 20, [1, 2, 19, 9], 7, iscrowd=1)), "crowds or difficult objects", ("note", "", "")),
        (with_row()[1:], "no boxes", ("note", "train/b.jpg", "")),
        (cats, "class without boxes", ("warning", "", "dog")),
    ):
        rewrite(root, "train", annotations=annotations)
        assert found(root) == {problem: said}
        assert trains(root)


def test_images_that_cannot_be_used_are_errors(root: Path) -> None:
    path = root / "train/a.jpg"
    content = path.read_bytes()
    for problem, damage in (
        ("missing image", path.unlink),
        ("size differs from the annotations", lambda: photo(path, 41, 30)),
        ("truncated", lambda: path.write_bytes(content[:-200])),
        ("zero size", lambda: path.write_bytes(b"")),
    ):
        damage()
        assert found(root) == {problem: ("error", "train/a.jpg", "")}
        assert not trains(root)


def test_boxes_that_training_would_learn_nothing_from_are_errors(root: Path) -> None:
    rewrite(root, "train", annotations=[])
    report = check_detection_data(DetectDataSettings(path=str(root)), 1)
    assert [f.problem for f in report.findings if f.severity == "error"] == ["no boxes at all"]
    assert not trains(root)
    rewrite(root, "train", annotations=[row | {"bbox": [0.1, 0.2, 0.5, 0.5]} for row in with_row()])
    assert found(root) == {"boxes in another format": ("error", "", "")}
    assert not trains(root)


def test_classes_and_images_without_boxes_are_told_with_their_share(root: Path) -> None:
    rewrite(root, "train", annotations=with_row()[:1])
    report = check_detection_data(DetectDataSettings(path=str(root)), 1)
    said = {f.problem: f.detail for f in report.findings if f.severity == "warning"}
    assert said == {
        "class without boxes": "none in instances_train.json, 1 in instances_val.json",
        "most images have no boxes": "2 of 3; they count as background, so all must be labelled",
    }


def test_more_boxes_of_a_class_than_the_metric_counts_are_told(root: Path) -> None:
    boxes = [box_row(i, 10, [i % 30, i // 30, 9, 9], 7 if i < 101 else 3) for i in range(201)]
    rewrite(root, "train", annotations=boxes)
    report = check_detection_data(DetectDataSettings(path=str(root)), 1)
    (finding,) = [f for f in report.findings if f.problem == "more than 100 boxes"]
    assert (finding.severity, finding.path, finding.class_name) == ("warning", "train/b.jpg", "dog")
    assert finding.detail.startswith("101 of a class, but COCO's AP counts 100 detections")
    assert not report.has_errors


def test_one_picture_in_both_splits_is_told(root: Path) -> None:
    (root / "val/a.jpg").write_bytes((root / "train/b.jpg").read_bytes())
    report = check_detection_data(DetectDataSettings(path=str(root)), 1)
    assert [(f.path, f.severity, f.problem) for f in report.findings] == [
        ("train/b.jpg", "warning", "duplicate across splits"),
        ("val/a.jpg", "warning", "duplicate across splits"),
    ]


def test_one_file_that_is_two_images_is_told(root: Path) -> None:
    rows = [image_row(10, "a.jpg"), image_row(20, "a.jpg"), image_row(30, "c.jpg")]
    rewrite(root, "train", images=rows)
    report = check_detection_data(DetectDataSettings(path=str(root)), 1)
    assert "one file, several images" in {f.problem for f in report.findings}
    assert not report.has_errors


def test_a_file_that_cannot_be_read_is_an_error_and_two_are_no_data(root: Path) -> None:
    rewrite(root, "val", annotations=with_row(box_row(0, 10, [1, 1, 2, 2])))
    assert found(root) == {"annotations": ("error", "", "")}
    assert not trains(root)
    (root / "annotations/instances_train.json").unlink()
    with pytest.raises(RequestError, match="no annotations for train"):
        found(root)


def test_categories_that_differ_are_an_error(root: Path) -> None:
    rewrite(root, "val", categories=[{"id": 3, "name": "cat"}, {"id": 7, "name": "wolf"}])
    assert found(root) == {"categories differ": ("error", "", "")}
    assert not trains(root)


def test_voc_is_checked_too(tmp_path: Path) -> None:
    root = voc_folder(tmp_path / "voc")
    report = check_detection_data(DetectDataSettings(path=str(root), source="voc"), 1)
    assert not report.has_errors
    assert {f.problem for f in report.findings} == {"class without boxes", "crowds or difficult objects", "no boxes"}
    write(root / "Annotations/000003.xml", voc_xml(voc_object("bird", (9, 4, 5, 6))))
    report = check_detection_data(DetectDataSettings(path=str(root), source="voc"), 1)
    errors = [f for f in report.findings if f.severity == "error"]
    assert [(f.path, f.class_name, f.problem) for f in errors] == [
        ("JPEGImages/000003.jpg", "bird", "box without width or height"),
        ("", "", "no boxes at all"),  # of val, whose only box that was
    ]


def test_every_faulty_xml_file_is_a_finding(tmp_path: Path) -> None:
    root = voc_folder(tmp_path / "voc")
    for name in ("000001", "000002"):
        write(root / f"Annotations/{name}.xml", voc_xml(size=(-1, 30)))
    report = check_detection_data(DetectDataSettings(path=str(root), source="voc"), 1)
    assert report.has_errors
    assert [(f.path, f.split, f.problem) for f in report.findings if f.severity == "error"] == [
        ("Annotations/000001.xml", "train", "annotations"),
        ("Annotations/000002.xml", "train", "annotations"),
    ]
    write(root / "Annotations/000003.xml", "<a/>")  # nothing can be read, and yet each file is told
    report = check_detection_data(DetectDataSettings(path=str(root), source="voc"), 1)
    assert [f.path[-10:-4] for f in report.findings] == ["000001", "000002", "000003"]
    assert report.counts == {}


def test_what_is_not_taken_as_stated_is_told_and_images_without_a_size_too(root: Path) -> None:
    rows = [image_row(id_, name) | {"width": 0} for id_, name in ((10, "/x/a.jpg"), (20, "b.jpg"), (30, "c.jpg"))]
    rewrite(root, "train", images=rows)
    report = check_detection_data(DetectDataSettings(path=str(root)), 1)
    assert not report.has_errors
    assert [(f.severity, f.problem, f.detail) for f in report.findings] == [
        ("note", "not as stated", f"instances_train.json: {what}")
        for what in (f"1 {FOUND_BY_NAME}", f"3 {MEASURED_SIZES}")
    ]
    assert trains(root)
    write(root / "train/b.jpg", "no image")
    (root / "train/c.jpg").unlink()
    report = check_detection_data(DetectDataSettings(path=str(root)), 1)
    assert [f.path for f in report.findings] == ["train/b.jpg", "train/c.jpg"]
    assert not trains(root)


def test_folders_are_known_by_what_lies_in_them(root: Path, tmp_path: Path) -> None:
    assert guess_detection_source(str(root)) == "coco"
    assert guess_detection_source(str(voc_folder(tmp_path / "voc"))) == "voc"
    write_json(tmp_path / "roboflow/train/_annotations.coco.json", {})
    assert guess_detection_source(str(tmp_path / "roboflow")) == "coco"
    write(tmp_path / "xml/train/a.xml", voc_xml())
    assert guess_detection_source(str(tmp_path / "xml")) == "voc"
    photo(tmp_path / "classes/train/cat/a.jpg")
    assert guess_detection_source(str(tmp_path / "classes")) == ""
    assert guess_detection_source(str(tmp_path / "none")) == ""


def run(*words: object) -> int:
    parser = argparse.ArgumentParser()
    data.add_arguments(parser)
    return data.run(parser.parse_args([str(word) for word in words]))


def test_the_command_knows_the_source_and_writes_the_csv(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", root) == 0
    assert "train/: 3 images with 3 boxes in 2 classes" in capsys.readouterr().out
    rewrite(root, "val", annotations=with_row(box_row(9, 10, [1, 1, 0, 5], 7)))
    assert run("check", root) == 1
    rows = list(csv.reader(Path("data-check.csv").read_text().splitlines()))
    assert rows[1][:5] == ["val/b.jpg", "dog", "val", "error", "box without width or height"]
    assert "annotation 9, image 10 (b.jpg), has no width or height" in rows[1][5]
    assert run("check", root, "--bad-boxes", "drop") == 0
    again = ("--val", "annotations/instances_train.json", "--val-images", "train")
    assert run("check", root, "--source", "coco", *again) == 0


def test_options_of_another_kind_of_data_are_refused(root: Path, tmp_path: Path) -> None:
    photo(tmp_path / "classes/train/cat/a.jpg")
    for words, message in (
        ((root, "--md5"), "--md5 is not for images with boxes, and .* is coco"),
        ((root, "--val-fraction", "0.1"), "already has annotations for val: leave out data.val_fraction"),
        ((root, "--val-fraction", "1.5"), "--val-fraction 1.5 must be from 0.001 to 0.9"),
        ((tmp_path / "classes", "--train", "x.json"), "--train is for images with boxes, but .* does not look like"),
        ((root, "--source", "folder", "--bad-boxes", "drop"), "--bad-boxes is for .* is taken as folder"),
    ):
        with pytest.raises(RequestError, match=message):
            run("check", *words)


def test_the_command_makes_minival_and_says_what_is_unlike_cocos(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "annotations"
    for name, ids in (("train2014", (1, 2)), ("val2014", (3, 4, 5)), ("val2017", (4,))):
        images = [image_row(i, f"{i}.jpg") for i in ids]
        write_json(folder / f"instances_{name}.json", coco_content(images=images, annotations=[]))
    assert run("minival", tmp_path) == 0
    out = capsys.readouterr().out
    assert "trainval35k: 4 images (COCO's list has 118,287), 0 boxes" in out
    assert [row["id"] for row in json.loads((folder / "instances_minival.json").read_text())["images"]] == [4]
