"""Flips, sizes and colours of training: boxes go with their pixels, and no setting moves another's draws."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resnext.detection.data.augment import Augment
from resnext.detection.preprocessing import DetectPreprocessing
from resnext.detection.settings import DetectAugmentSettings
from tests.detection.tiny_detector import noise

VIEW = DetectPreprocessing(min_size=60, max_size=120)


def augmented(
    picture: Image.Image, boxes: list[list[float]], seed: int = 0, view: DetectPreprocessing = VIEW, **changes: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return Augment(DetectAugmentSettings(**changes), view)(picture, torch.tensor(boxes).reshape(-1, 4))


@pytest.mark.parametrize(("setting", "dim"), [("flip", 2), ("vertical_flip", 1)])
def test_a_flip_of_image_and_boxes_flipped_again_gives_them_back(setting: str, dim: int) -> None:
    picture, boxes = noise(80, 60), [[1.0, 2, 30, 40], [50, 0, 80, 60]]
    off = {"flip": 0.0, "vertical_flip": 0.0}
    plain, there = augmented(picture, boxes, **off)
    view, moved = augmented(picture, boxes, **off | {setting: 1.0})
    assert torch.equal(view.flip(dim), plain)
    assert not torch.equal(moved, there)
    assert bool((moved[:, 2:] > moved[:, :2]).all())
    again, back = augmented(Image.fromarray(view.permute(1, 2, 0).numpy()), moved.tolist(), **off | {setting: 1.0})
    assert torch.equal(again, plain)
    torch.testing.assert_close(back, there)


@settings(max_examples=150)
@given(
    st.integers(0, 2**31),
    st.tuples(st.integers(0, 50), st.integers(0, 30), st.integers(8, 40), st.integers(8, 40)),
    st.sampled_from(["antialias", "torchvision"]),
    st.floats(0, 0.5),
)
def test_a_bright_block_stays_in_its_box_under_any_draw(
    seed: int, place: tuple[int, int, int, int], resize: str, jitter: float
) -> None:
    x, y, w, h = place
    pixels = np.zeros((70, 90, 3), np.uint8)
    pixels[y : y + h, x : x + w] = 255
    view = DetectPreprocessing(min_size=64, max_size=160, resize=resize)
    image, boxes = augmented(
        Image.fromarray(pixels),
        [[float(x), float(y), float(x + w), float(y + h)]],
        seed,
        view,
        flip=0.5,
        vertical_flip=0.5,
        min_sizes=(33, 64, 101),
        color_jitter=jitter,
    )
    assert min(image.shape[1:]) in (33, 64, 101)
    light = image.float() if image.is_floating_point() else image.float() / 255
    grey = light.mean(0)
    inside = (grey > (grey.max() + grey.min()) / 2).nonzero().float()
    y1, x1 = inside.min(0).values.tolist()
    y2, x2 = (inside.max(0).values + 1).tolist()
    assert torch.allclose(boxes[0], torch.tensor([x1, y1, x2, y2]), atol=1.01), (boxes, (x1, y1, x2, y2))


def test_boxes_grow_with_the_image_to_the_pixel() -> None:
    view, boxes = augmented(noise(30, 40), [[3.0, 4, 15, 20]], flip=0.0)
    assert view.shape == (3, 80, 60)
    assert boxes.tolist() == [[6, 8, 30, 40]]


def test_no_setting_moves_anothers_draws() -> None:
    """Whether and how an image is flipped and sized stays the same when other settings change."""
    for seed in range(20):
        flipped = augmented(noise(80, 60), [[0.0, 0, 10, 10]], seed, flip=0.5)[1][0, 0] > 0
        for changes in ({"color_jitter": 0.3}, {"min_sizes": (60, 60)}, {"min_sizes": (60, 30), "color_jitter": 0.1}):
            view, boxes = augmented(noise(80, 60), [[0.0, 0, 10, 10]], seed, flip=0.5, **changes)
            assert (boxes[0, 0] > 0) == flipped
        torch.manual_seed(seed)
        size = torch.rand(3)[2]
        assert view.shape[1] == (60 if size < 0.5 else 30)
        _, upside = augmented(noise(80, 60), [[0.0, 0, 10, 10]], seed, flip=0.5, vertical_flip=1.0)
        assert (upside[0, 0] > 0) == flipped


def test_jitter_changes_colours_alone_and_keeps_the_kind_of_view() -> None:
    picture, boxes = noise(80, 60), [[5.0, 6, 20, 30]]
    for resize, dtype in (("antialias", torch.uint8), ("torchvision", torch.float32)):
        view = DetectPreprocessing(min_size=60, max_size=120, resize=resize)
        plain, there = augmented(picture, boxes, 3, view)
        image, moved = augmented(picture, boxes, 3, view, color_jitter=0.4)
        assert image.dtype == plain.dtype == dtype
        assert image.shape == plain.shape
        assert torch.equal(moved, there)
        assert not torch.equal(image, plain)
        assert float(image.float().max()) <= (255 if dtype == torch.uint8 else 1)


def test_an_image_without_boxes_has_none() -> None:
    view, boxes = augmented(noise(80, 60), [], flip=1.0, vertical_flip=1.0)
    assert view.shape == (3, 60, 80)
    assert boxes.shape == (0, 4)
