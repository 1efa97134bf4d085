"""Copies are found though they are resized, compressed again or brighter; other pictures are not taken for copies."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from resnext.cross_validation import near_duplicates
from resnext.cross_validation.near_duplicates import SIDE, find_near_duplicates

COUNT = 40


def shrink(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def draw_pictures(mode: str) -> list[Image.Image]:
    """Smooth random pictures, which share a bright centre, as photos do that a microscope took."""
    random = np.random.default_rng(0)
    x, y = np.meshgrid(np.linspace(-1, 1, 96), np.linspace(-1, 1, 96))
    centre = 90 * np.exp(-2 * (x**2 + y**2))[..., None]
    noise = [Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8)).resize((96, 96)) for _ in range(COUNT)]
    pixels = [np.clip(centre + 0.6 * np.asarray(one, np.float64), 0, 255).astype(np.uint8) for one in noise]
    return [Image.fromarray(one).convert(mode) for one in pixels]


def compress(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=40)
    return Image.open(file).convert(image.mode)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    "change",
    [compress, lambda image: image.resize((41, 41)), lambda image: ImageEnhance.Brightness(image).enhance(0.7)],
    ids=["compressed", "smaller", "darker"],
)
def test_changed_copies_are_found_and_nothing_else(mode: str, change: Callable[[Image.Image], Image.Image]) -> None:
    pictures = draw_pictures(mode)
    small = np.array([shrink(one) for one in pictures] + [shrink(change(one)) for one in pictures[:10]])
    found = find_near_duplicates(small.reshape(len(small), SIDE, SIDE, -1))
    assert {(pair.first, pair.second) for pair in found} == {(row, COUNT + row) for row in range(10)}
    assert [pair.likeness for pair in found] == sorted((pair.likeness for pair in found), reverse=True)
    assert all(0.95 <= pair.likeness <= 1 for pair in found)


def test_pictures_of_one_colour_are_like_no_other() -> None:
    flat = np.full((5, SIDE, SIDE, 3), 7, np.uint8)
    assert find_near_duplicates(flat) == []


def test_blocks_of_rows_find_the_same_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    half = random.integers(0, 256, (30, SIDE, SIDE, 1), np.uint8)
    pictures = np.concatenate([half, half[::-1]])
    whole = find_near_duplicates(pictures)
    assert {(pair.first, pair.second) for pair in whole} == {(row, 59 - row) for row in range(30)}
    monkeypatch.setattr(near_duplicates, "ROWS", 7)
    assert [(p.first, p.second) for p in find_near_duplicates(pictures)] == [(p.first, p.second) for p in whole]
