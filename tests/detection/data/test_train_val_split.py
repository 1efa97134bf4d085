"""One annotation file for all images: a share of them is held out, the same one everywhere."""

import hashlib
from pathlib import Path

import pytest

from resnext.detection.data.check import check_detection_data
from resnext.detection.data.dataset import DetectionDataset
from resnext.detection.data.open import open_detection_data, open_detection_split
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

SPLITS = ("train", "val")


def one_file(root: Path, count: int) -> Path:
    """``count`` images of which image i has i % 3 boxes at (i, 1), in one file at the usual place."""
    images = [image_row(100 - i, f"{i:03}.jpg") for i in range(count)]
    boxes = [box_row(10 * i + k, 100 - i, [i % 20, 1 + k, 9, 9]) for i in range(count) for k in range(i % 3)]
    for row in images:
        photo(root / "train" / row["file_name"], seed=row["id"])
    write_json(root / "annotations/instances_train.json", coco_content(images=images, annotations=boxes))
    return root


def settings(root: Path, **changes: object) -> DetectDataSettings:
    return DetectDataSettings(path=str(root), **{"val_fraction": 0.3} | changes)  # type: ignore[arg-type]


def by_file(dataset: DetectionDataset) -> dict[str, list[list[float]]]:
    return {file: dataset.get_boxes(i).boxes.tolist() for i, file in enumerate(dataset.files)}


def test_each_image_is_on_one_side_with_its_boxes_by_a_hash_of_its_name(tmp_path: Path) -> None:
    train, val = open_detection_data(settings(one_file(tmp_path, 40), split_seed=5))
    for i in range(40):
        name = f"{i:03}.jpg"
        draw = hashlib.blake2b(f"5\0{name}".encode(), digest_size=6).digest()
        side, other = (val, train) if int.from_bytes(draw, "big") / 2**48 < 0.3 else (train, val)
        assert by_file(side)[name] == [[i % 20, 1 + k, i % 20 + 9, 10 + k] for k in range(i % 3)]
        assert name not in other.files
    assert (train.name, val.name) == ("instances_train.json train", "instances_train.json val")
    assert val.split_rule == "a hash of each file's name with split_seed 5 holds out about 0.3"
    for split, expected in (("train", train), ("val", val)):
        assert by_file(open_detection_split(settings(tmp_path, split_seed=5), split)) == by_file(expected)


def test_added_images_move_none(tmp_path: Path) -> None:
    few = open_detection_data(settings(one_file(tmp_path, 12)))
    more = open_detection_data(settings(one_file(tmp_path, 30)))
    for before, after in zip(few, more, strict=True):
        assert set(before.files) < set(after.files)


def test_both_sides_have_an_image_and_one_image_cannot_be_divided(tmp_path: Path) -> None:
    for fraction in (0.001, 0.9):
        for seed in range(4):
            root = one_file(tmp_path / "three", 3)
            parts = [open_detection_split(settings(root, val_fraction=fraction, split_seed=seed), s) for s in SPLITS]
            assert sorted(map(len, parts)) == [1, 2]
    with pytest.raises(
        RequestError, match=r"instances_train\.json has one image, but data\.val_fraction needs at least two"
    ):
        open_detection_data(settings(one_file(tmp_path / "one", 1)))


def test_policies_and_limits_hold_for_the_parts(tmp_path: Path) -> None:
    train, val = open_detection_data(settings(one_file(tmp_path, 40), empty="drop", max_val_images=4))
    assert all(boxes for boxes in by_file(train).values())
    assert len(val) == 4
    whole = [open_detection_split(settings(tmp_path), split) for split in SPLITS]
    assert len(train) + train.counts["images without boxes left out"] == len(whole[0])
    assert set(val.files) < set(whole[1].files)


def test_a_folder_of_xml_is_divided_too(tmp_path: Path) -> None:
    for i in range(9):
        photo(tmp_path / f"train/{i}.jpg", seed=i)
        write(tmp_path / f"train/{i}.xml", voc_xml(voc_object("dog" if i % 2 else "cat", (1 + i, 2, 20, 10))))
    train, val = open_detection_data(settings(tmp_path, source="voc"))
    assert sorted([*train.files, *val.files]) == [f"{i}.jpg" for i in range(9)]
    assert train.classes == val.classes == ("cat", "dog")
    assert {**by_file(train), **by_file(val)} == {f"{i}.jpg": [[i, 1, 20, 10]] for i in range(9)}


def test_own_held_out_images_and_a_fraction_exclude_each_other(tmp_path: Path) -> None:
    for root, source in ((coco_folder(tmp_path / "coco"), "coco"), (voc_folder(tmp_path / "voc"), "voc")):
        with pytest.raises(RequestError, match="already has annotations for val: leave out data"):
            open_detection_data(settings(root, source=source))
    with pytest.raises(RequestError, match=r"data\.val x\.json and data\.val_fraction 0\.3 cannot be combined"):
        settings(tmp_path, val="x.json")
    named = settings(tmp_path / "coco", train="annotations/instances_train.json")
    assert len(open_detection_split(named, "train")) + len(open_detection_split(named, "val")) == 3


def test_without_held_out_images_training_names_the_share_and_data_check_notes_it(tmp_path: Path) -> None:
    root = one_file(tmp_path, 6)
    with pytest.raises(RequestError, match=r"no annotations for val: .* with data\.val_fraction 0\.2"):
        open_detection_data(settings(root, val_fraction=None))
    report = check_detection_data(settings(root, val_fraction=None), 1)
    assert not report.has_errors
    assert {f.problem: f.severity for f in report.findings}["no split"] == "note"
    assert set(report.counts) == {"train"}


def test_data_check_divides_as_training_does(tmp_path: Path) -> None:
    root = one_file(tmp_path, 20)
    train, val = open_detection_data(settings(root))
    (root / "train" / val.files[0]).write_bytes((root / "train" / train.files[0]).read_bytes())
    report = check_detection_data(settings(root), 1)
    assert report.images == {"train": len(train), "val": len(val)}
    assert {split: counts["cat"] for split, counts in report.counts.items()} == {
        "train": len(train.boxes),
        "val": len(val.boxes),
    }
    across = {f.path: f.split for f in report.findings if f.problem == "duplicate across splits"}
    assert across == {f"train/{train.files[0]}": "train", f"train/{val.files[0]}": "val"}
    rows = [
        box_row(1, 100, [1, 1, 5, 5]),
        box_row(2, 99, [1, 1, 0, 5]),
        *(box_row(k, 98, [1, 1, k, 5]) for k in (3, 4)),
    ]
    write_json(
        root / "annotations/instances_train.json",
        coco_content(images=[image_row(100 - i, f"{i:03}.jpg") for i in range(20)], annotations=rows),
    )
    (bad,) = [f for f in check_detection_data(settings(root), 1).findings if f.problem == "box without width or height"]
    assert bad.path == "train/001.jpg"
    assert "annotation 2, image 99 (001.jpg)," in bad.detail
