"""Copies are found though they are resized, compressed again or brighter; other pictures are not taken for copies."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from resnext.data import near_duplicates
from resnext.data.near_duplicates import COARSE_LIKENESS, LIKENESS, SIDE, find_near_duplicates, shrink_picture

COUNT = 40


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
    [
        compress,
        lambda image: image.resize((41, 41)),
        lambda image: image.resize((200, 90)),
        lambda image: ImageEnhance.Brightness(image).enhance(0.7),
        lambda image: image.point(lambda value: 0.8 * value + 20),
    ],
    ids=["compressed", "smaller", "wider", "darker", "less contrast"],
)
def test_changed_copies_are_found_and_nothing_else(mode: str, change: Callable[[Image.Image], Image.Image]) -> None:
    pictures = draw_pictures(mode)
    found = find_near_duplicates(np.stack([shrink_picture(one) for one in (*pictures, *map(change, pictures[:10]))]))
    assert {(pair.first, pair.second) for pair in found} == {(row, COUNT + row) for row in range(10)}
    assert [pair.likeness for pair in found] == sorted((pair.likeness for pair in found), reverse=True)
    assert all(0.95 <= pair.likeness <= 1 for pair in found)


def test_likeness_is_the_correlation_after_what_all_have_in_common_is_taken_off() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (30, 6, 6, 1), np.uint8)
    pictures[29] = pictures[0] // 2 + 40
    centred = np.array([one - one.mean() for one in pictures.reshape(30, -1).astype(np.float64)])
    scaled = centred / np.sqrt((centred**2).sum(axis=1, keepdims=True))
    rest = scaled - scaled.sum(axis=0) / 50
    (pair,) = find_near_duplicates(pictures)
    assert (pair.first, pair.second) == (0, 29)
    expected = rest[0] @ rest[29] / np.linalg.norm(rest[0]) / np.linalg.norm(rest[29])
    assert pair.likeness == pytest.approx(expected, abs=1e-4)


def test_small_pictures_must_be_more_alike() -> None:
    one, other = (shrink_picture(image.resize((8, 8))).astype(np.float64) for image in draw_pictures("RGB")[:2])
    mixed = [one + share * (other - other.mean()) for share in (0.0, 0.25)]
    pictures = np.stack([(picture / 1.5).astype(np.uint8) for picture in mixed])
    assert pictures.shape == (2, 8, 8, 3)
    assert find_near_duplicates(pictures) == []
    (pair,) = find_near_duplicates(pictures.repeat(2, axis=1).repeat(2, axis=2))
    assert LIKENESS <= pair.likeness < COARSE_LIKENESS


@pytest.mark.parametrize("others", [0, 1, 5])
def test_a_copy_among_few_pictures_is_found(others: int) -> None:
    pictures = [shrink_picture(one) for one in draw_pictures("RGB")[: 1 + others]]
    found = find_near_duplicates(np.stack([*pictures, pictures[0]]))
    assert [(pair.first, pair.second) for pair in found] == [(0, 1 + others)]


def test_pictures_without_contrast_are_like_no_other() -> None:
    ramp = np.linspace(100, 110, SIDE).astype(np.uint8)
    flat = np.stack([np.full((SIDE, SIDE, 3), 7, np.uint8)] * 3 + [np.tile(ramp[:, None], (SIDE, 1, 3))] * 3)
    assert find_near_duplicates(flat) == []
    assert find_near_duplicates(flat[:1]) == []


def test_blocks_of_rows_find_the_same_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    half = random.integers(0, 256, (30, SIDE, SIDE, 1), np.uint8)
    pictures = np.concatenate([half, half[::-1]])
    whole = find_near_duplicates(pictures)
    assert {(pair.first, pair.second) for pair in whole} == {(row, 59 - row) for row in range(30)}
    monkeypatch.setattr(near_duplicates, "ROWS", 7)
    assert [(p.first, p.second) for p in find_near_duplicates(pictures)] == [(p.first, p.second) for p in whole]
