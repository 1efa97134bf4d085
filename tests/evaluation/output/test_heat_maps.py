"""Tests of the drawn maps: they lie where the network's view lies in the upright image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from resnext.data.preprocessing import Preprocessing
from resnext.data.transforms.eval_view import prepare_pixels
from resnext.data.transforms.view_region import compute_view_region
from resnext.evaluation.output.heat_maps import blend_map, darken_outside, plot_explanation, resample_map
from resnext.evaluation.predict import Prediction


def make_preprocessing(crop_mode: str, size: int = 32, resize: int = 40) -> Preprocessing:
    return Preprocessing(
        image_size=size, resize=resize, crop_mode=crop_mode, channels=3, mean=(0.5,) * 3, std=(0.2,) * 3
    )  # type: ignore[arg-type]


@given(
    st.integers(40, 400),
    st.integers(40, 400),
    st.sampled_from(["crop", "squash", "pad"]),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_a_bright_spot_is_found_again_where_the_region_says(
    width: int, height: int, crop_mode: str, at_x: float, at_y: float
) -> None:
    p = make_preprocessing(crop_mode)
    left, top, right, bottom = compute_view_region((width, height), p)
    x_low, x_high, y_low, y_high = max(left, 0), min(right, width), max(top, 0), min(bottom, height)
    x, y = x_low + at_x * (x_high - x_low - 1), y_low + at_y * (y_high - y_low - 1)
    radius = max(width, height) / 16
    yy, xx = np.mgrid[:height, :width]
    spot = np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / (2 * radius**2))
    image = Image.fromarray(np.rint(255 * spot).astype(np.uint8)).convert("RGB")
    seen = prepare_pixels(image, p)[..., 0].astype(float)
    found = resample_map(seen, (width, height), (left, top, right, bottom))
    peak_y, peak_x = np.unravel_index(found.argmax(), found.shape)
    cell = max((right - left), (bottom - top)) / p.image_size
    assert abs(peak_x - x) <= 3 * cell + 1
    assert abs(peak_y - y) <= 3 * cell + 1


def test_nothing_is_drawn_outside_of_the_region() -> None:
    heat = np.ones((2, 2))
    found = resample_map(heat, (10, 10), (2.0, 4.0, 8.0, 10.0))
    assert found[4:, 2:8].min() == 1
    assert found.sum() == 36
    pixels = np.full((10, 10, 3), 100, np.uint8)
    assert np.array_equal(blend_map(pixels, heat, (2.0, 4.0, 8.0, 10.0))[:4], pixels[:4])
    assert not np.array_equal(darken_outside(pixels, (2.0, 4.0, 8.0, 10.0))[:4], pixels[:4])


def test_the_middle_of_a_map_is_the_middle_of_its_region() -> None:
    heat = np.zeros((7, 7))
    heat[3, 3] = 1
    found = resample_map(heat, (101, 51), (0.0, 0.0, 101.0, 51.0))
    assert np.unravel_index(found.argmax(), found.shape) == (25, 50)
    np.testing.assert_allclose(found, found[::-1, ::-1], atol=1e-12)


@pytest.mark.parametrize("name", ["a", "x" * 300, "$\\frac$ <b> 猫\n"])
def test_every_class_name_can_be_drawn(name: str) -> None:
    prediction = Prediction("dir/a.png", (name, "b"), np.array([0.75, 0.25]), maps=np.ones((2, 3, 3)))
    figure = plot_explanation(prediction, Image.new("RGB", (1600, 40)), make_preprocessing("crop"))
    assert len(figure.axes) == 3
