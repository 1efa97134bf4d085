"""Sizes that pictures are brought to, by the oracles of torchvision and of arithmetic, and what the values allow."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms.v2 import functional as F

from resnext.data.preprocessing import Preprocessing
from resnext.detection.preprocessing import IMAGENET_MEAN, DetectPreprocessing
from resnext.detection.settings import DetectDataSettings
from resnext.errors import RequestError
from tests.detection.tiny_detector import noise

SIDES = st.integers(1, 400)


@settings(max_examples=300)
@given(SIDES, SIDES, st.integers(1, 200), st.integers(0, 200))
def test_sizes_are_torchvisions(width: int, height: int, shorter: int, more: int) -> None:
    view = DetectPreprocessing(resize="torchvision", min_size=shorter, max_size=shorter + more)
    if min(shorter, view.max_size * min(width, height) / max(width, height)) < 1.001:
        return  # torchvision cannot make a side of 0 pixels
    transform = GeneralizedRCNNTransform(shorter, shorter + more, [0.0] * 3, [1.0] * 3)
    theirs, _ = transform.resize(torch.zeros(3, height, width))
    assert view.compute_size(width, height) == (theirs.shape[2], theirs.shape[1])


@settings(max_examples=300)
@given(st.integers(1, 10_000), st.integers(1, 10_000), st.integers(1, 1000), st.integers(0, 1000))
def test_sizes_keep_the_bounds_and_the_shape(width: int, height: int, shorter: int, more: int) -> None:
    view = DetectPreprocessing(min_size=shorter, max_size=shorter + more)
    w, h = view.compute_size(width, height)
    assert 1 <= min(w, h) <= shorter
    assert max(w, h) <= shorter + more
    assert min(w, h) == shorter or max(w, h) == shorter + more  # one of the bounds is met
    exact = min(shorter / min(width, height), (shorter + more) / max(width, height))
    assert abs(w - width * exact) <= 0.5 + 1e-6 or w == 1
    assert abs(h - height * exact) <= 0.5 + 1e-6 or h == 1
    assert view.compute_size(height, width) == (h, w)


def test_another_shorter_side_can_be_asked_for() -> None:
    view = DetectPreprocessing(min_size=100, max_size=200)
    assert view.compute_size(300, 150) == (200, 100)
    assert view.compute_size(300, 150, 50) == (100, 50)
    assert view.compute_size(300, 150, 190) == (200, 100)


def test_a_view_is_torchvisions_where_it_is_asked_for() -> None:
    picture = noise(90, 61)
    view = DetectPreprocessing(resize="torchvision", min_size=40, max_size=55)
    floats = F.to_dtype(F.pil_to_tensor(picture), torch.float32, scale=True)
    theirs, _ = GeneralizedRCNNTransform(40, 55, [0.0] * 3, [1.0] * 3).resize(floats)
    torch.testing.assert_close(view.apply(picture), theirs, atol=1e-5, rtol=0)  # sums in another order


def test_antialiased_views_are_bytes_near_pillows() -> None:
    picture = noise(200, 150)
    view = DetectPreprocessing(min_size=50, max_size=100).apply(picture)
    assert view.dtype == torch.uint8
    assert view.shape == (3, 50, 67)
    pillow = np.asarray(picture.resize((67, 50), 2)).astype(int)  # bilinear, which in Pillow averages
    assert int(np.abs(view.permute(1, 2, 0).numpy().astype(int) - pillow).max()) <= 1


def test_a_picture_of_the_right_size_stays_as_it_is() -> None:
    picture = noise(80, 50)
    assert torch.equal(
        DetectPreprocessing(min_size=50, max_size=80).apply(picture),
        torch.from_numpy(np.array(picture)).permute(2, 0, 1),
    )


@given(
    st.integers(1, 500),
    st.integers(0, 500),
    st.sampled_from(["antialias", "torchvision"]),
    st.booleans(),
    st.tuples(*[st.floats(0, 1)] * 3),
    st.tuples(*[st.floats(0.01, 1)] * 3),
)
def test_values_come_back_from_a_file(
    shorter: int, more: int, resize: str, exif: bool, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    view = DetectPreprocessing(min_size=shorter, max_size=shorter + more, resize=resize, exif=exif, mean=mean, std=std)
    assert DetectPreprocessing.from_dict(view.to_dict()) == view


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"min_size": 0}, "min_size"),
        ({"min_size": 1.5}, "min_size"),
        ({"max_size": 10**9}, "max_size"),
        ({"min_size": 100, "max_size": 99}, "max_size 99 is below min_size 100"),
        ({"resize": "antialais"}, "did you mean 'antialias'"),
        ({"resize": ["antialias"]}, "resize"),
        ({"exif": 1}, "exif must be true or false"),
        ({"mean": [0.5]}, "mean"),
        ({"mean": "0.5"}, "mean"),
        ({"mean": [0.5, float("nan"), 0.5]}, "mean"),
        ({"std": [0.5, 0.0, 0.5]}, "std .* above 0"),
        ({"minsize": 3}, "unknown key 'minsize'; did you mean 'min_size'"),
        ([1], "must be a table"),
    ],
)
def test_values_that_make_no_sense_are_refused(values: Any, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        DetectPreprocessing.from_dict(values)


def test_colours_are_those_said_else_of_the_weights_else_imagenets() -> None:
    base = Preprocessing(image_size=32, resize=32, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), channels=3)
    said = DetectDataSettings(mean=(0.5,) * 3, std=(0.25,) * 3)
    assert DetectPreprocessing.from_settings(DetectDataSettings()).mean == IMAGENET_MEAN
    assert DetectPreprocessing.from_settings(DetectDataSettings(), base).std == (0.4, 0.5, 0.6)
    assert DetectPreprocessing.from_settings(said, base).mean == (0.5,) * 3
