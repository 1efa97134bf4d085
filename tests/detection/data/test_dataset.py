"""A split of images with boxes: sizes, EXIF, parts of it, and COCO's dictionary back."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from resnext.data.dataset import BadImageError
from resnext.detection.data.dataset import DetectionDataset, drop_empty_images, random_subset
from tests.detection.annotation_files import box_row, coco_content, coco_folder, image_row, photo, read_coco, write_json


def one_photo(folder: Path, stored: tuple[int, int], stated: tuple[int, int], orientation: int) -> DetectionDataset:
    photo(folder / "p.jpg", *stored, orientation=orientation)
    content = coco_content(images=[image_row(1, "p.jpg", *stated)], annotations=[])
    return read_coco(write_json(folder / "p.json", content), folder)


def upright(folder: Path) -> np.ndarray:
    with Image.open(folder / "p.jpg") as image:
        return np.asarray(ImageOps.exif_transpose(image))


def as_stored(folder: Path) -> np.ndarray:
    with Image.open(folder / "p.jpg") as image:
        return np.asarray(image)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_upright_where_that_gives_the_stated_size(tmp_path: Path, orientation: int) -> None:
    stated = (30, 40) if orientation >= 5 else (40, 30)
    dataset = one_photo(tmp_path, (40, 30), stated, orientation)
    assert np.array_equal(np.asarray(dataset.load_image(0)), upright(tmp_path))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_photograph_whose_stored_size_is_stated_stays_as_it_is_stored(tmp_path: Path, orientation: int) -> None:
    dataset = one_photo(tmp_path, (40, 30), (40, 30), orientation)
    assert np.array_equal(np.asarray(dataset.load_image(0)), as_stored(tmp_path))


def test_a_square_photograph_fits_both_ways_and_is_turned_upright(tmp_path: Path) -> None:
    dataset = one_photo(tmp_path, (32, 32), (32, 32), 6)
    assert not np.array_equal(upright(tmp_path), as_stored(tmp_path))
    assert np.array_equal(np.asarray(dataset.load_image(0)), upright(tmp_path))


def test_without_exif_a_photograph_stays_as_it_is_stored(tmp_path: Path) -> None:
    one_photo(tmp_path, (40, 30), (40, 30), 6)
    dataset = read_coco(tmp_path / "p.json", tmp_path, exif=False)
    assert np.array_equal(np.asarray(dataset.load_image(0)), as_stored(tmp_path))
    one_photo(tmp_path, (40, 30), (30, 40), 6)
    with pytest.raises(BadImageError, match=r"it has 40 x 30 pixels, but its annotations say 30 x 40"):
        read_coco(tmp_path / "p.json", tmp_path, exif=False).load_image(0)


def test_another_size_than_stated_names_the_file_and_both_sizes(tmp_path: Path) -> None:
    dataset = one_photo(tmp_path, (40, 30), (41, 30), 1)
    with pytest.raises(BadImageError, match=r"p\.jpg: it has 40 x 30 pixels, but its annotations say 41 x 30"):
        dataset.load_image(0)


def test_a_part_has_the_images_asked_for_with_their_own_boxes(tmp_path: Path) -> None:
    root = coco_folder(tmp_path)
    whole = read_coco(root / "annotations/instances_train.json", root / "train")
    part = whole.select_images(np.array([2, 0, 1, 2]))
    assert part.files == ("c.jpg", "a.jpg", "b.jpg", "c.jpg")
    assert part.image_ids.tolist() == [30, 20, 10, 30]
    for place, of_whole in enumerate([2, 0, 1, 2]):
        for found, expected in zip(part.get_boxes(place), whole.get_boxes(of_whole), strict=True):
            assert np.array_equal(found, expected)
    assert len(whole.select_images(np.array([], np.int64)).boxes) == 0


def test_a_limit_draws_by_the_seed_and_keeps_the_order(tmp_path: Path) -> None:
    images = [image_row(i, f"{i}.jpg") for i in range(50)]
    annotations = [box_row(i, i, [i % 10, 1, 5, 5]) for i in range(50)]
    path = write_json(tmp_path / "x.json", coco_content(images=images, annotations=annotations))
    whole = read_coco(path, tmp_path, check_files=False)
    drawn = random_subset(whole, 20, 1)
    ids = drawn.image_ids.tolist()
    assert ids == sorted(ids)
    assert len(set(ids)) == 20
    assert ids == random_subset(whole, 20, 1).image_ids.tolist() != random_subset(whole, 20, 2).image_ids.tolist()
    assert drawn.boxes[:, 0].tolist() == [i % 10 for i in ids]
    assert random_subset(whole, 50, 1) is whole
    assert random_subset(whole, None, 1) is whole


def test_ground_truth_is_the_file_with_annotations_numbered_from_1(tmp_path: Path) -> None:
    content = coco_content()
    content["annotations"].append(box_row(0, 10, [35, 25, 10, 10], 3, area=100, iscrowd=0))  # sticks out
    dataset = read_coco(write_json(tmp_path / "x.json", content), tmp_path, check_files=False)
    truth = dataset.to_coco_dict()
    assert truth["images"] == content["images"]
    assert truth["categories"] == [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    assert [row["id"] for row in truth["annotations"]] == [1, 2, 3, 4]
    order = [1, 2, 3, 0]  # image by image, within one as in the file
    keys = ("image_id", "category_id", "bbox", "area", "iscrowd")
    for row, place in zip(truth["annotations"], order, strict=True):
        assert [row[key] for key in keys] == [content["annotations"][place][key] for key in keys]
    assert dataset.get_boxes(1).boxes.tolist() == [[35, 25, 40, 30]]


def test_images_without_a_box_to_train_on_can_be_left_out(tmp_path: Path) -> None:
    content = coco_content()
    content["annotations"].append(box_row(9, 10, [1, 1, 5, 5], iscrowd=1))  # an image of nothing but a crowd
    whole = read_coco(write_json(tmp_path / "x.json", content), tmp_path, check_files=False)
    kept = drop_empty_images(whole)
    assert kept.files == ("a.jpg", "c.jpg")
    assert kept.counts == {"images without boxes left out": 1}
    assert drop_empty_images(kept) is kept


def test_a_split_goes_to_other_processes(tmp_path: Path) -> None:
    root = coco_folder(tmp_path)
    dataset = read_coco(root / "annotations/instances_train.json", root / "train")
    there = pickle.loads(pickle.dumps(dataset))
    assert there.to_coco_dict() == dataset.to_coco_dict()
    assert there.load_image(1).tobytes() == dataset.load_image(1).tobytes()
