"""The layouts that labelling tools write are recognised and opened as they are."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from resnext.data.decode.pillow import read_image
from resnext.detection.data.annotated_split import has_annotations
from resnext.detection.data.exif_orientation import TURNED_UNSURE
from resnext.detection.data.find_annotations import guess_detection_source
from resnext.detection.data.open import open_detection_data, open_detection_split
from resnext.detection.settings import DetectDataSettings
from resnext.errors import RequestError
from tests.detection.annotation_files import (
    box_row,
    coco_content,
    image_row,
    photo,
    voc_object,
    voc_xml,
    write,
    write_json,
)


def coco(root: Path, annotations: str, images: str, stated: str = "") -> None:
    """Three images in a folder, stated as below another folder."""
    rows = [image_row(i, f"{stated}{name}.jpg") for i, name in ((20, "a"), (10, "b"), (30, "c"))]
    write_json(root / annotations, coco_content(images=rows))
    for name in "abc":
        photo(root / images / f"{name}.jpg")


def voc(root: Path, annotations: str, images: str, names: Sequence[str] = "abc", listed: str = "") -> None:
    """An XML file with one box for each image, and a list of them."""
    for name in names:
        write(root / annotations / f"{name}.xml", voc_xml(voc_object("cat", (1, 1, 9, 9))))
        photo(root / images / f"{name}.jpg")
    if listed:
        write(root / f"ImageSets/Main/{listed}.txt", "\n".join(names) + "\n")


BOTH = {  # tool: where the annotations and images of train and val lie
    "coco": ("annotations/instances_{}2017.json", "{}2017", ("train", "val")),
    "coco below images": ("annotations/instances_{}.json", "images/{}", ("train", "val")),
    "roboflow coco": ("{}/_annotations.coco.json", "{}", ("train", "valid")),
    "cvat coco": ("annotations/instances_{}.json", "images/{}", ("Train", "Validation")),
    "mmdetection": ("annotations/{}.json", "{}", ("train", "val")),
    "files beside the folders": ("{}.json", "{}", ("train", "val")),
    "one file a folder": ("{}/annotations.json", "{}/images", ("train", "val")),
    "two exports of cvat": ("{}/annotations/instances_default.json", "{}/images/default", ("train", "val")),
    "two exports of label studio": ("{}/result.json", "{}/images", ("train", "test")),
    "two exports of fiftyone": ("{}/labels.json", "{}/data", ("train", "validation")),
    "roboflow voc": ("{}", "{}", ("train", "valid")),
    "train/images and train/annotations": ("{}/annotations", "{}/images", ("train", "val")),
    "train/JPEGImages and train/Annotations": ("{}/Annotations", "{}/JPEGImages", ("train", "test")),
    "annotations/train and images/train": ("annotations/{}", "images/{}", ("train", "val")),
    "Annotations/train and JPEGImages/train": ("Annotations/{}", "JPEGImages/{}", ("train", "val")),
    "XML files apart from one folder of images": ("{}/annotations", "images", ("train", "val")),
}
WHOLE = {  # one export that is divided into no splits
    "label studio": ("result.json", "images", "images/"),
    "label studio on windows": ("result.json", "images", "images\\"),
    "cvat coco": ("annotations/instances_default.json", "images/default", ""),
    "cvat coco, images in one folder": ("annotations/instances_default.json", "images", ""),
    "roboflow coco, one folder": ("_annotations.coco.json", ".", ""),
    "fiftyone": ("labels.json", "data", ""),
    "annotations.json": ("annotations.json", "images", "/home/someone/"),
    "label studio voc": ("Annotations", "images", ""),
    "cvat voc without its list": ("Annotations", "JPEGImages", ""),
    "labelimg": (".", ".", ""),
    "labelimg, XML apart": ("annotations", "images", ""),
}


def settings_of(root: Path) -> DetectDataSettings:
    return DetectDataSettings(path=str(root), source=guess_detection_source(str(root)))


@pytest.mark.parametrize("tool", BOTH)
def test_both_splits_of_a_tool_are_found(tmp_path: Path, tool: str) -> None:
    annotations, images, splits = BOTH[tool]
    write = coco if annotations.endswith(".json") else voc
    for split, names in zip(splits, ("abc", "def"), strict=True):
        if write is coco:
            coco(tmp_path, annotations.format(split), images.format(split))
        else:
            voc(tmp_path, annotations.format(split), images.format(split), names)
    settings = settings_of(tmp_path)
    assert settings.source == ("coco" if write is coco else "voc")
    for split, name in zip(("train", "val"), splits, strict=True):
        dataset = open_detection_split(settings, split)
        assert (len(dataset), dataset.root) == (3, str(tmp_path / images.format(name)))
        assert dataset.load_image(2).size == (40, 30)
    assert dataset.files[0] == ("a.jpg" if write is coco else "d.jpg")  # val's own


@pytest.mark.parametrize("tool", WHOLE)
def test_an_export_without_splits_is_train(tmp_path: Path, tool: str) -> None:
    annotations, images, stated = WHOLE[tool]
    root = tmp_path / "set"
    if annotations.endswith(".json"):
        coco(root, annotations, images, stated)
    else:
        voc(root, annotations, images)
    settings = settings_of(root)
    dataset = open_detection_split(settings, "train")
    assert len(dataset) == 3
    assert dataset.load_image(2).size == (40, 30)
    assert has_annotations(settings, "train")
    assert not has_annotations(settings, "val")
    with pytest.raises(RequestError, match=r"has no annotations for val: looked for .*; it contains .*data.val"):
        open_detection_split(settings, "val")


def test_an_export_without_splits_or_sizes_is_divided_and_says_what_is_not_as_stated(tmp_path: Path) -> None:
    """Sizes that were read from the images say nothing of the photographs that fit both ways."""
    rows = [{"id": i, "file_name": f"/home/someone/{i}.jpg"} for i in range(12)]
    boxes = [box_row(i, i, [1, 2, 9, 9]) for i in range(12)]
    write_json(tmp_path / "result.json", coco_content(images=rows, annotations=boxes))
    for i in range(12):
        photo(tmp_path / f"images/{i}.jpg", seed=i, orientation=(1, 3, 6)[i % 3])
    settings = replace(settings_of(tmp_path), val_fraction=0.4)
    both = open_detection_data(settings)
    assert sum(dataset.counts.get(TURNED_UNSURE, 0) for dataset in both) == 4
    for dataset in both:
        assert 0 < len(dataset) < 12
        assert [count for what, count in dataset.counts.items() if what.endswith(", in the whole file")] == [12, 12]
        for i, (name, size) in enumerate(zip(dataset.files, dataset.sizes.tolist(), strict=True)):
            upright = read_image(tmp_path / "images" / name)
            assert dataset.load_image(i).tobytes() == upright.tobytes()
            assert upright.size == tuple(size)


def test_cvats_list_of_all_images_is_train(tmp_path: Path) -> None:
    voc(tmp_path, "Annotations", "JPEGImages", listed="default")
    voc(tmp_path, "Annotations", "JPEGImages", "d")
    assert open_detection_split(settings_of(tmp_path), "train").files == ("a.jpg", "b.jpg", "c.jpg")
    voc(tmp_path, "Annotations", "JPEGImages", "ab", listed="Train")
    voc(tmp_path, "Annotations", "JPEGImages", "cd", listed="Validation")
    assert open_detection_split(settings_of(tmp_path), "train").files == ("a.jpg", "b.jpg")
    assert open_detection_split(settings_of(tmp_path), "val").files == ("c.jpg", "d.jpg")


@pytest.mark.parametrize("image", ["sub/a", "other/a"])
def test_lists_may_name_images_in_folders(tmp_path: Path, image: str) -> None:
    voc(tmp_path, "Annotations", "JPEGImages", ["sub/a", image, "sub/b"])
    write(tmp_path / "ImageSets/Main/train.txt", "sub/a\n" + (f"{image}\n" if image != "sub/a" else ""))
    write(tmp_path / "ImageSets/Main/val.txt", "sub/b\n")
    train = open_detection_split(settings_of(tmp_path), "train")
    assert train.files == tuple(f"{name}.jpg" for name in dict.fromkeys(("sub/a", image)))
    assert open_detection_split(settings_of(tmp_path), "val").files == ("sub/b.jpg",)


def test_a_whole_set_is_never_train_beside_a_part_of_it_that_is_held_out(tmp_path: Path) -> None:
    coco(tmp_path / "a", "annotations/instances_default.json", "images")
    coco(tmp_path / "a", "annotations/instances_val.json", "images")
    voc(tmp_path / "b", "Annotations", "JPEGImages", listed="test")
    for root, looked in (
        (tmp_path / "a", "annotations/instances_train.json"),
        (tmp_path / "b", "ImageSets/Main/train"),
    ):
        assert open_detection_split(settings_of(root), "val")
        with pytest.raises(RequestError, match=f"no annotations for train: looked for {looked}"):
            open_detection_split(settings_of(root), "train")


def test_nothing_around_the_data_set_is_looked_at(tmp_path: Path) -> None:
    voc(tmp_path / "set", ".", "../images")
    coco(tmp_path / "other", "result.json", "../images")
    for root in (tmp_path / "set", tmp_path / "other"):
        with pytest.raises(RequestError, match="none of the 3 images"):
            open_detection_split(settings_of(root), "train")


def test_what_holds_no_boxes_is_not_taken_for_such(tmp_path: Path) -> None:
    photo(tmp_path / "train/cat/a.jpg")
    write_json(tmp_path / "labels.json", {"cat": 0})
    write_json(tmp_path / "train.json", [1])
    write(tmp_path / "annotations.xml", "<annotations></annotations>")
    write(tmp_path / "train/build.xml", "<project/>")
    (tmp_path / "result.json").mkdir()
    assert guess_detection_source(str(tmp_path)) == ""
