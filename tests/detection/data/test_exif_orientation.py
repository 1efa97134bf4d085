"""Which pixels the boxes were drawn on, where a photograph's size fits both ways."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from resnext.detection.data.check import check_detection_data
from resnext.detection.data.dataset import DetectionDataset
from resnext.detection.data.exif_orientation import KEPT_AS_STORED, TURNED_UNSURE, decide_orientation
from resnext.detection.data.open import open_detection_data, open_detection_split
from resnext.detection.settings import DetectDataSettings
from tests.detection.annotation_files import box_row, coco_content, image_row, photo, read_coco, write_json

STORED = (40, 30)
BOTH_WAYS = (2, 3, 4)


def photographs(folder: Path, *of: tuple[int, tuple[int, int]]) -> DetectionDataset:
    """Photographs of 40 x 30 pixels by (EXIF orientation, stated size), as 0.jpg, 1.jpg ..."""
    for number, (orientation, _) in enumerate(of):
        photo(folder / f"train/{number}.jpg", *STORED, seed=number, orientation=orientation)
    rows = [image_row(number, f"{number}.jpg", *stated) for number, (_, stated) in enumerate(of)]
    content = coco_content(images=rows, annotations=[box_row(1, 0, [1, 2, 9, 9])])
    return read_coco(write_json(folder / "annotations/instances_train.json", content), folder / "train")


def is_turned(dataset: DetectionDataset, index: int) -> bool:
    with Image.open(Path(dataset.root) / dataset.files[index]) as image:
        stored, upright = np.asarray(image), np.asarray(ImageOps.exif_transpose(image))
    assert not np.array_equal(stored, upright)
    pixels = np.asarray(dataset.load_image(index))
    assert np.array_equal(pixels, upright) or np.array_equal(pixels, stored)
    return np.array_equal(pixels, upright)


@pytest.mark.parametrize("orientation", BOTH_WAYS)
def test_photographs_that_fit_both_ways_follow_most_of_the_others(tmp_path: Path, orientation: int) -> None:
    either, upright, as_stored = (orientation, STORED), (6, (30, 40)), (6, STORED)
    for place, (others, turned, said) in enumerate(
        [
            ([as_stored], False, {KEPT_AS_STORED: 1}),
            ([as_stored, as_stored, upright], False, {KEPT_AS_STORED: 1}),
            ([upright], True, {}),
            ([as_stored, upright, upright], True, {}),
            ([], True, {TURNED_UNSURE: 1}),
            ([as_stored, upright], True, {TURNED_UNSURE: 1}),
            ([(1, STORED)], True, {TURNED_UNSURE: 1}),
        ]
    ):
        dataset = decide_orientation([photographs(tmp_path / str(place), either, *others)])[0]
        assert is_turned(dataset, 0) is turned
        assert dataset.counts == said
        for index, (tag, stated) in enumerate(others, start=1):
            if tag != 1:
                assert is_turned(dataset, index) is (stated != STORED)


def test_a_square_photograph_fits_both_ways_too(tmp_path: Path) -> None:
    photographs(tmp_path, (6, STORED), (6, STORED))
    photo(tmp_path / "train/1.jpg", 30, 30, seed=5, orientation=6)
    content = coco_content(images=[image_row(0, "0.jpg", *STORED), image_row(1, "1.jpg", 30, 30)], annotations=[])
    dataset = read_coco(write_json(tmp_path / "x.json", content), tmp_path / "train")
    assert is_turned(dataset, 1)
    assert not is_turned(decide_orientation([dataset])[0], 1)


def test_sizes_that_are_not_stated_are_no_sign(tmp_path: Path) -> None:
    photographs(tmp_path, (3, STORED), (6, STORED))
    rows = [{key: row[key] for key in ("id", "file_name")} for row in (image_row(0, "0.jpg"), image_row(1, "1.jpg"))]
    content = coco_content(images=rows, annotations=[box_row(1, 0, [1, 2, 9, 9])])
    write_json(tmp_path / "annotations/instances_train.json", content)
    dataset = open_detection_split(DetectDataSettings(path=str(tmp_path)), "train")
    assert dataset.counts[TURNED_UNSURE] == 1


def test_upright_photographs_and_exif_off_need_no_decision(tmp_path: Path) -> None:
    dataset = photographs(tmp_path, (1, STORED), (6, (30, 40)), (6, STORED), (3, (50, 50)))
    (tmp_path / "train/3.jpg").write_bytes(b"\xff\xd8 Exif\0\0 and no more")
    (decided,) = decide_orientation([dataset])
    assert (decided.keeps_stored_orientation, decided.counts) == (False, {})
    photographs(tmp_path / "off", (3, STORED), (6, STORED))
    dataset = read_coco(tmp_path / "off/annotations/instances_train.json", tmp_path / "off/train", exif=False)
    (decided,) = decide_orientation([dataset])
    assert decided.counts == {}
    assert not is_turned(dataset, 0)


def test_training_evaluation_and_data_check_decide_alike(tmp_path: Path) -> None:
    photographs(tmp_path, (3, STORED), (6, STORED))
    settings = DetectDataSettings(path=str(tmp_path), val="annotations/instances_train.json", val_images="train")
    for dataset in (*open_detection_data(settings), open_detection_split(settings, "val")):
        assert not is_turned(dataset, 0)
    for other, expected in ((6, ("note", f"1 {KEPT_AS_STORED}")), (1, ("warning", f"1 {TURNED_UNSURE}"))):
        photographs(tmp_path, (3, STORED), (other, STORED))
        findings = check_detection_data(settings, 1).findings
        assert {(f.severity, f.detail) for f in findings if f.problem == "EXIF fits both ways"} == {expected}
