"""Test that pictures of any size get Pillow's pixels, and the evaluation view's, inside exported graphs."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resnext import Preprocessing
from resnext.data.normalization import normalize
from resnext.data.transforms.eval_view import EvalView
from resnext.deploy.graph_interface import GraphInterface
from resnext.deploy.preprocess_graph import add_eval_view
from tests.deploy.exported import ENGINES, Graph, build_graph_model, compile_openvino, export
from tests.deploy.networks import lived
from tests.deploy.test_graph_outputs import close

pytestmark = pytest.mark.usefixtures("one_thread")
MODES = ["crop", "squash", "pad"]
FILTERS = ["bicubic", "bilinear"]
SIZES = [(36, 36), (32, 32), (36, 2000), (1, 100), (100, 1), (1, 1), (33, 3000), (72, 72), (108, 216), (192, 96)]


def preprocessing(channels: int = 3, **changes: Any) -> Preprocessing:
    values = {"image_size": 32, "resize": 36, "mean": (0.485,) * channels, "std": (0.229,) * channels}
    return Preprocessing(**(values | {"channels": channels} | changes))


@cache
def view_graph(engine: str, p: Preprocessing, bgr: bool = False) -> Graph:
    """A graph from a picture [1, H, W, C] to the pixels of its view [1, C, S, S]."""
    interface = GraphInterface(input="picture", preprocessing=p, bgr=bgr)
    return build_graph_model(engine, interface, lambda x, to: add_eval_view(x, p, to, bgr))


def draw(height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    """Noise; for odd seeds of black and white only, whose resized values leave 0..255 before they are clamped."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return (noise >> 7) * np.uint8(255) if seed % 2 else noise


def expect(picture: np.ndarray, p: Preprocessing) -> np.ndarray:
    image = Image.fromarray(picture[..., 0] if p.channels == 1 else picture)
    return np.array(EvalView(p)(image)).reshape(p.image_size, p.image_size, -1).transpose(2, 0, 1)


def assert_pixels(engine: str, picture: np.ndarray, p: Preprocessing) -> None:
    difference = np.abs(view_graph(engine, p)(picture[None])[0].astype(int) - expect(picture, p))
    if engine == "openvino" and p.interpolation == "bicubic":  # computes the weights in float32
        assert difference.max() <= 1
        assert (difference > 0).mean() <= 0.01
    else:
        assert difference.max() == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("engine", ENGINES)
def test_odd_and_extreme_sizes_give_the_views_pixels(engine: str, interpolation: str, mode: str) -> None:
    p = preprocessing(crop_mode=mode, interpolation=interpolation)
    for seed, size in enumerate(SIZES):
        assert_pixels(engine, draw(*size, 3, seed), p)


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=80, deadline=None)
@given(
    size=st.tuples(st.integers(1, 600), st.integers(1, 600)),
    view=st.sampled_from([(1, 2), (31, 0)]),
    mode=st.sampled_from(MODES),
    interpolation=st.sampled_from(FILTERS),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 9),
)
def test_any_size_gives_the_views_pixels(
    engine: str,
    size: tuple[int, int],
    view: tuple[int, int],
    mode: str,
    interpolation: str,
    channels: int,
    seed: int,
) -> None:
    side, border = view
    values = {"image_size": side, "resize": side + border, "crop_mode": mode, "interpolation": interpolation}
    p = preprocessing(channels, **values)
    picture = draw(*size, channels, seed)
    difference = np.abs(view_graph(engine, p)(picture[None])[0].astype(int) - expect(picture, p))
    assert difference.max() <= (1 if engine == "openvino" and interpolation == "bicubic" else 0)


@pytest.mark.parametrize("engine", ENGINES)
def test_openvino_and_onnx_differ_from_pillow_in_less_than_one_pixel_in_a_thousand(engine: str) -> None:
    p = preprocessing()
    different = total = 0
    for seed in range(60):
        height, width = np.random.default_rng(seed).integers(1, 500, 2)
        picture = draw(height, width, 3, seed)
        different += (view_graph(engine, p)(picture[None])[0] != expect(picture, p)).sum()
        total += 3 * p.image_size**2
    assert different / total < 1e-3


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", MODES)
def test_a_picture_of_the_right_size_is_not_changed(engine: str, mode: str) -> None:
    p = preprocessing(resize=32, crop_mode=mode)
    picture = draw(32, 32, 3)
    np.testing.assert_array_equal(view_graph(engine, p)(picture[None])[0], picture.transpose(2, 0, 1))


@pytest.mark.parametrize("engine", ENGINES)
def test_bgr_pictures_give_the_pixels_of_their_rgb_order(engine: str) -> None:
    p = preprocessing(crop_mode="pad", mean=(0.1, 0.4, 0.7))  # padding is coloured
    picture = draw(50, 90, 3)
    rgb = view_graph(engine, p)(picture[None])
    bgr = view_graph(engine, p, bgr=True)(np.ascontiguousarray(picture[None, ..., ::-1]))
    np.testing.assert_array_equal(bgr, rgb)


@pytest.mark.parametrize("mode", MODES)
def test_a_saved_openvino_model_resizes_in_float32_where_it_computes_in_bf16(tmp_path: Path, mode: str) -> None:
    p = preprocessing(interpolation="bilinear", crop_mode=mode)
    interface = GraphInterface(input="picture", preprocessing=p)
    saved = tmp_path / "view.xml"
    run = build_graph_model("openvino", interface, lambda x, to: add_eval_view(x, p, to), "bf16", saved)
    for seed, size in enumerate(SIZES):
        picture = draw(*size, 3, seed)
        np.testing.assert_array_equal(run(picture[None])[0], expect(picture, p))


@pytest.mark.slow
def test_a_quantised_model_takes_pictures_as_it_takes_their_pixels(tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    ov = pytest.importorskip("openvino")
    from resnext.deploy.fold import fold
    from resnext.deploy.int8 import quantize_int8
    from resnext.deploy.openvino_graph import build_openvino_model, replace_input

    p = preprocessing()
    images = normalize(torch.randint(0, 256, (30, 3, 32, 32), dtype=torch.uint8), p, "cpu")
    quantised = quantize_int8(build_openvino_model(fold(lived())), images)

    def load(kind: Any) -> Any:
        model = replace_input(quantised, GraphInterface(input=kind, preprocessing=p, batch=1))
        ov.save_model(model, tmp_path / f"{kind}.xml", compress_to_fp16=False)
        return compile_openvino(tmp_path / f"{kind}.xml")  # by default partly in bf16, if there is bf16

    from_picture, from_pixels = load("picture"), load("pixels")
    for seed, size in enumerate([*SIZES, (41, 1300), (1999, 1501)]):
        picture = draw(*size, 3, seed)
        logits = from_pixels(np.ascontiguousarray(expect(picture, p).transpose(1, 2, 0)[None]))[0]
        difference = np.abs(from_picture(picture[None])[0] - logits).max()
        assert difference <= 0.01 * np.abs(logits).max()  # pixels of the float32 resizing may be a level off


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", MODES)
def test_a_picture_gives_the_networks_logits_of_its_view(engine: str, mode: str) -> None:
    network, p = lived(), preprocessing(crop_mode=mode)
    run = export(engine, network, GraphInterface(input="picture", preprocessing=p))
    for size in ((50, 70), (200, 31), (32, 32)):
        picture = draw(*size, 3)
        with torch.no_grad():
            expected = network(normalize(torch.from_numpy(expect(picture, p))[None], p, "cpu"))
        got = run(picture[None])["logits"]
        if engine == "onnxruntime":
            close(got, expected)
        else:  # single pixels may be one level off
            assert np.abs(got - expected.numpy()).max() < 0.01 * expected.abs().max().item()


def test_the_convolutions_of_a_picture_model_have_constant_shapes() -> None:
    pytest.importorskip("openvino")
    from resnext.deploy.fold import fold
    from resnext.deploy.openvino_graph import build_openvino_model

    model = build_openvino_model(fold(lived()), GraphInterface(input="picture", preprocessing=preprocessing()))
    shapes = [node.output(0).get_partial_shape() for node in model.get_ops() if node.get_type_name() == "Convolution"]
    assert shapes
    assert all(shape.is_static for shape in shapes)


def test_the_onnx_model_of_a_picture_is_one_by_the_standard() -> None:
    onnx = pytest.importorskip("onnx")
    from resnext.deploy.fold import fold
    from resnext.deploy.onnx_graph import build_onnx_model

    p = preprocessing(crop_mode="pad")
    model = build_onnx_model(fold(lived()), GraphInterface(input="picture", preprocessing=p, bgr=True))
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
