"""Both splits by the settings: usual places, places that are named, and what is said when something is missing."""

from pathlib import Path
from typing import Any

import pytest

from resnext.detection.data.open import open_detection_data, open_detection_split
from resnext.detection.settings import DetectDataSettings
from resnext.errors import RequestError
from tests.detection.annotation_files import (
    CATEGORIES,
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


def at(root: Path, **changes: object) -> DetectDataSettings:
    return DetectDataSettings(path=str(root), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("above", ["", "images"])
@pytest.mark.parametrize("year", ["", "2017", "2014"])
def test_coco_has_its_usual_places(tmp_path: Path, year: str, above: str) -> None:
    for split in ("train", "val"):
        write_json(tmp_path / f"annotations/instances_{split}{year}.json", coco_content())
        for name in "abc":
            photo(tmp_path / above / f"{split}{year}" / f"{name}.jpg")
    train, val = open_detection_data(at(tmp_path))
    assert (train.name, val.name) == (f"instances_train{year}.json", f"instances_val{year}.json")
    assert (train.root, val.root) == (
        str(tmp_path / above / f"train{year}"),
        str(tmp_path / above / f"val{year}"),
    )


def test_images_may_all_lie_in_one_folder_or_beside_the_annotations(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_json(tmp_path / f"one/annotations/instances_{split}.json", coco_content())
    for name in "abc":
        photo(tmp_path / "one/images" / f"{name}.jpg")
    assert open_detection_data(at(tmp_path / "one"))[1].root == str(tmp_path / "one/images")
    for split in ("train", "valid"):  # as Roboflow exports it
        write_json(tmp_path / f"two/{split}/_annotations.coco.json", coco_content())
        for name in "abc":
            photo(tmp_path / "two" / split / f"{name}.jpg")
    assert open_detection_data(at(tmp_path / "two"))[1].root == str(tmp_path / "two/valid")


def test_places_that_are_named_win_and_may_be_absolute(tmp_path: Path) -> None:
    root = coco_folder(tmp_path / "data")
    write_json(tmp_path / "mine.json", coco_content(annotations=[box_row(1, 10, [1, 2, 9, 9])]))
    train, val = open_detection_data(
        at(root, train=str(tmp_path / "mine.json"), train_images="val", val="annotations/instances_train.json")
    )
    assert (train.name, len(train.boxes), train.root) == ("mine.json", 1, str(root / "val"))
    assert (val.name, val.root) == ("instances_train.json", str(root / "train"))


def test_names_with_folders_in_them_lie_below_the_path(tmp_path: Path) -> None:
    rows = [image_row(1, "train2014/a.jpg"), image_row(2, "val2014/b.jpg")]
    content = coco_content(images=rows, annotations=[box_row(1, 2, [1, 2, 9, 9])])
    for name in ("trainval35k", "minival"):
        write_json(tmp_path / f"annotations/instances_{name}.json", content)
    for row in rows:
        photo(tmp_path / row["file_name"])
    settings = at(tmp_path, train="annotations/instances_trainval35k.json", val="annotations/instances_minival.json")
    assert open_detection_data(settings)[0].root == str(tmp_path)


def test_policies_are_for_training_and_no_image_is_held_back_from_evaluation(tmp_path: Path) -> None:
    bad = coco_content(annotations=[box_row(1, 10, [0, 0, 0, 5]), box_row(2, 20, [0, 0, 5, 5])])
    root = coco_folder(tmp_path, bad, bad)
    with pytest.raises(RequestError, match=r"instances_train.json: the box .* has no width or height"):
        open_detection_data(at(root))
    with pytest.raises(RequestError, match=r"instances_val.json: the box .* has no width or height"):
        open_detection_split(at(root), "val")
    train, val = open_detection_data(at(root, bad_boxes="drop", empty="drop"))
    assert (len(train), len(val)) == (1, 3)
    assert train.counts == {"bad boxes left out": 1, "images without boxes left out": 2}
    assert val.counts == {"bad boxes left out": 1}


def test_limits_cut_both_splits(tmp_path: Path) -> None:
    root = coco_folder(tmp_path)
    train, val = open_detection_data(at(root, max_train_images=2, max_val_images=1))
    assert (len(train), len(val)) == (2, 1)
    assert len(open_detection_split(at(root, max_val_images=1), "val")) == 1


@pytest.mark.parametrize(
    "categories",
    [
        [{"id": 3, "name": "cat"}],
        [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        [{"id": 3, "name": "cat"}, {"id": 8, "name": "dog"}],
        [{"id": 3, "name": "cat"}, {"id": 5, "name": "no boxes"}],
    ],
)
def test_held_out_categories_may_be_fewer_and_have_other_ids(tmp_path: Path, categories: list[dict[str, Any]]) -> None:
    boxes = [box_row(1, 20, [1, 2, 10, 5], categories[0]["id"])]
    root = coco_folder(tmp_path, None, coco_content(categories=categories, annotations=boxes))
    train, val = open_detection_data(at(root))
    assert train.classes == ("cat", "dog")
    assert val.classes[val.labels[0]] == "cat"


def test_a_held_out_category_that_training_lacks_is_an_error_where_it_has_boxes(tmp_path: Path) -> None:
    categories = [{"id": 3, "name": "cat"}, {"id": 7, "name": "Dog"}]
    root = coco_folder(tmp_path, None, coco_content(categories=categories))
    with pytest.raises(RequestError, match=r"differ: .*only instances_val\.json has 'Dog'"):
        open_detection_data(at(root))
    assert len(open_detection_split(at(root), "val")) == 3  # alone there is nothing to disagree with


ROOT = [{"id": 0, "name": "cells", "supercategory": "none"}]
ROOT += [row | {"supercategory": "cells"} for row in CATEGORIES]  # as Roboflow writes them


def test_both_splits_and_each_alone_leave_out_the_same_groups(tmp_path: Path) -> None:
    boxed = coco_content(categories=ROOT, annotations=[box_row(1, 10, [0, 0, 9, 9], 0)])
    bare = coco_content(categories=ROOT)
    for name, train, val, classes in (
        ("neither", bare, bare, ("cat", "dog")),
        ("train", boxed, bare, ("cells", "cat", "dog")),
        ("val", bare, boxed, ("cells", "cat", "dog")),
        ("not_in_val", bare, coco_content(), ("cat", "dog")),
    ):
        settings = at(coco_folder(tmp_path / name, train, val))
        both = open_detection_data(settings)
        alone = [open_detection_split(settings, split) for split in ("train", "val")]
        assert {dataset.classes for dataset in (*both, *alone)} == {classes}
        assert [dataset.labels.tolist() for dataset in both] == [dataset.labels.tolist() for dataset in alone]
    (tmp_path / "train/annotations/instances_train.json").unlink()
    assert open_detection_split(at(tmp_path / "train"), "val").classes == ("cat", "dog")  # as far as it can know


def test_voc_counts_from_0_in_both_splits_or_in_neither(tmp_path: Path) -> None:
    root = voc_folder(tmp_path)
    write(root / "Annotations/000003.xml", voc_xml(voc_object("bird", (0, 4, 5, 6))))
    train, val = open_detection_data(at(root, source="voc"))
    assert val.boxes.tolist() == [[0, 4, 5, 6]]
    assert train.boxes.tolist() == [[1, 1, 40, 30], [11, 6, 20, 10]]
    assert open_detection_split(at(root, source="voc"), "train").boxes.tolist() == train.boxes.tolist()
    said = [next(iter(dataset.counts.items())) for dataset in (train, val)]
    assert [count for _, count in said] == [2, 1]


def test_a_split_opens_without_the_images_of_the_other(tmp_path: Path) -> None:
    for name, root in (("coco", coco_folder(tmp_path / "coco")), ("voc", voc_folder(tmp_path / "voc"))):
        gone = root / ("train/a.jpg" if name == "coco" else "JPEGImages/000002.jpg")
        gone.unlink()
        assert len(open_detection_split(at(root, source=name), "val"))
        write(root / "Annotations/000002.xml", voc_xml(size=(0, 0), filename="/gone/000002.jpg"))
        assert len(open_detection_split(at(root, source=name), "val"))


def test_what_is_missing_is_said_with_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"data.path .* does not exist"):
        open_detection_data(at(tmp_path / "none"))
    with pytest.raises(
        RequestError, match=r"looked for annotations/instances_train.json, .*; it is empty; .*data.train"
    ):
        open_detection_data(at(tmp_path))
    root = coco_folder(tmp_path)
    (root / "annotations/instances_val.json").rename(root / "annotations/instances_held.json")
    with pytest.raises(RequestError, match=r"no annotations for train.*it looks like data.source coco"):
        open_detection_data(at(root, source="voc"))
    with pytest.raises(RequestError, match=r"no annotations for val.*JSON files there: 'annotations/instances_held"):
        open_detection_data(at(root))
    with pytest.raises(RequestError, match=r"data.val .*annotations is a folder"):
        open_detection_data(at(root, val="annotations"))
    with pytest.raises(RequestError, match=r"no split 'vall'; did you mean 'val'"):
        open_detection_split(at(root), "vall")
    with pytest.raises(RequestError, match=r"unknown data.source 'cocoo'; did you mean 'coco'"):
        open_detection_data(at(root, source="cocoo"))


def test_voc_has_its_usual_places(tmp_path: Path) -> None:
    train, val = open_detection_data(at(voc_folder(tmp_path), source="voc"))
    assert (train.files, val.files) == (("000002.jpg", "000001.jpg"), ("000003.jpg",))  # as listed
    assert train.classes == val.classes == ("bird", "cat", "dog")  # of both splits
    assert train.image_ids.tolist() == [1, 2]
    assert train.load_image(1).size == (40, 30)
    assert open_detection_split(at(tmp_path, source="voc"), "val").classes == val.classes


def test_voc_lists_are_named_with_and_without_their_folder(tmp_path: Path) -> None:
    root = voc_folder(tmp_path)
    write(root / "ImageSets/Main/mine.txt", "000001\n")
    for said in ("mine", "mine.txt", "ImageSets/Main/mine.txt", str(root / "ImageSets/Main/mine.txt")):
        assert open_detection_data(at(root, source="voc", train=said))[0].files == ("000001.jpg",)
    with pytest.raises(RequestError, match=r"data.val none is not there: .*looked for ImageSets/Main/none.txt"):
        open_detection_data(at(root, source="voc", val="none"))


def test_vocs_trainval_is_never_tested_on_its_own_half(tmp_path: Path) -> None:
    root = voc_folder(tmp_path)
    (root / "ImageSets/Main/train.txt").rename(root / "ImageSets/Main/trainval.txt")
    with pytest.raises(RequestError, match=r"no annotations for val: looked for ImageSets/Main/test.txt"):
        open_detection_data(at(root, source="voc"))
    (root / "ImageSets/Main/val.txt").rename(root / "ImageSets/Main/test.txt")
    train, val = open_detection_data(at(root, source="voc"))
    assert (train.name, val.name) == ("trainval.txt", "test.txt")


def test_voc_may_be_folders_of_xml_with_images_among_or_beside_them(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for i in range(3):
            photo(tmp_path / split / f"{i}.jpg", seed=i)
            write(tmp_path / split / f"{i}.xml", voc_xml(voc_object("cat", (1, 1, 9, 9))))
    train, val = open_detection_data(at(tmp_path, source="voc"))
    assert (len(train), len(val), train.root) == (3, 3, str(tmp_path / "train"))
    for path in (tmp_path / "train").glob("*.jpg"):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        path.rename(tmp_path / "pictures" / path.name)
    train, _ = open_detection_data(at(tmp_path, source="voc", train_images="pictures"))
    assert train.root == str(tmp_path / "pictures")
    with pytest.raises(RequestError, match="none of the 3 images"):
        open_detection_data(at(tmp_path, source="voc"))
