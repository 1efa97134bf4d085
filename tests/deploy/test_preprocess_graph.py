"""Test that preprocessing inside exported graphs gives the pixels of the preprocessing outside."""

from typing import Any

import numpy as np
import pytest
import torch

from resnext import Preprocessing, RequestError
from resnext.data.normalization import normalize
from resnext.deploy.graph_interface import GraphInterface
from resnext.deploy.preprocess_graph import add_preprocessing
from tests.deploy.exported import ENGINES, Graph, build_graph_model

pytestmark = pytest.mark.usefixtures("one_thread")


def preprocessing(channels: int = 3, **changes: Any) -> Preprocessing:
    values = {"image_size": 16, "resize": 16, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    values |= {"channels": channels} | changes
    if channels == 1:
        values |= {"mean": (0.2860,), "std": (0.3530,)}
    return Preprocessing(**values)


def every_level(channels: int) -> np.ndarray:
    """Two images in which each channel takes each of the 256 values, in another order."""
    generator = np.random.default_rng(0)
    planes = [generator.permutation(256).reshape(16, 16) for _ in range(2 * channels)]
    return np.stack(planes).reshape(2, channels, 16, 16).transpose(0, 2, 3, 1).astype(np.uint8)


def normalization(engine: str, p: Preprocessing, bgr: bool = False, **options: Any) -> Graph:
    interface = GraphInterface(input="pixels", preprocessing=p, bgr=bgr)
    return build_graph_model(engine, interface, lambda x, to: add_preprocessing(x, interface, to), **options)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("engine", ENGINES)
def test_pixels_normalise_to_the_bit(engine: str, channels: int) -> None:
    p, pixels = preprocessing(channels), every_level(channels)
    expected = normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2), p, "cpu").numpy()
    np.testing.assert_array_equal(normalization(engine, p)(pixels), expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_bgr_pixels_normalise_as_their_rgb_order(engine: str) -> None:
    p, pixels = preprocessing(), every_level(3)
    expected = normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2), p, "cpu").numpy()
    bgr = np.ascontiguousarray(pixels[..., ::-1])
    np.testing.assert_array_equal(normalization(engine, p, bgr=True)(bgr), expected)


def test_pixels_are_exact_even_where_openvino_computes_in_bf16() -> None:
    p, pixels = preprocessing(), every_level(3)
    expected = normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2), p, "cpu").numpy()
    np.testing.assert_array_equal(normalization("openvino", p, precision="bf16")(pixels), expected)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"input": "pixel"}, "did you mean 'pixels'"),
        ({"input": "pixels"}, "needs preprocessing"),
        ({"input": "picture", "preprocessing": preprocessing(), "batch": 2}, "one image at a time"),
        ({"bgr": True}, "bgr needs"),
        ({"input": "pixels", "preprocessing": preprocessing(1), "bgr": True}, "bgr needs"),
        ({"batch": 0}, "batch must be"),
    ],
)
def test_an_interface_that_contradicts_itself_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        GraphInterface(**values)
