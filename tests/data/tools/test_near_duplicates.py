"""Pictures that look alike are found whatever was done to them, and different ones are not."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from resnext.data.tools.check_folder import check_image_folder
from resnext.data.tools.near_duplicates import BLOCK, SIDE, describe_look, match_looks
from resnext.settings import DataSettings


def paint(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Paint smooth blobs, as photographs have."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))


def as_jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=40)
    return Image.open(file)


@pytest.mark.parametrize(
    "change",
    [as_jpeg, lambda i: i.resize((70, 55)), lambda i: i.convert("L"), lambda i: i.point(lambda x: 0.8 * x + 20)],
)
def test_a_changed_copy_looks_alike_and_other_pictures_do_not(change: Callable[[Image.Image], Image.Image]) -> None:
    pictures = [paint(seed) for seed in range(60)]
    looks = [describe_look(picture) for picture in (*pictures, *map(change, pictures))]
    assert sorted(match_looks(looks)) == [(i, i + 60) for i in range(60)]


def test_pairs_of_all_blocks_are_found_and_flat_pictures_have_no_look() -> None:
    draws = np.random.default_rng(0)
    looks = [draws.integers(0, 256, SIDE * SIDE, np.uint8).tobytes() for _ in range(2 * BLOCK + 5)]
    pairs = [(3, 5), (7, BLOCK + 7), (BLOCK + 1, 2 * BLOCK + 2), (2 * BLOCK + 3, 2 * BLOCK + 4)]
    for one, other in pairs:
        looks[other] = looks[one]
    assert sorted(match_looks(looks)) == pairs
    assert describe_look(Image.new("RGB", (50, 50), "red")) == b""
    assert list(match_looks([])) == []


def test_a_smaller_copy_in_another_class_or_split_is_a_finding_and_one_within_is_not(tmp_path: Path) -> None:
    for place, seed in {"train/a/1": 1, "train/a/2": 2, "train/b/3": 3, "val/a/4": 4, "val/b/5": 5}.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        paint(seed).save(tmp_path / f"{place}.png")
    for source, copy in (("train/a/1", "train/a/6"), ("train/a/2", "train/b/7"), ("val/a/4", "train/a/8")):
        as_jpeg(Image.open(tmp_path / f"{source}.png")).resize((80, 60)).save(tmp_path / f"{copy}.png")
    report = check_image_folder(DataSettings(source="folder", path=str(tmp_path)), workers=1)
    found = {(f.path, f.problem, f.detail) for f in report.findings}
    assert found == {
        ("train/a/2.png", "near-duplicate in two classes", "looks like train/b/7.png"),
        ("train/b/7.png", "near-duplicate in two classes", "looks like train/a/2.png"),
        ("val/a/4.png", "near-duplicate across splits", "looks like train/a/8.png"),
        ("train/a/8.png", "near-duplicate across splits", "looks like val/a/4.png"),
    }
    assert any("look like one in another split" in sentence for sentence in report.advice)
