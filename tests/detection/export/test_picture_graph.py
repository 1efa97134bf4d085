"""A graph resizes, normalises and pads a picture as ``DetectPreprocessing`` and ``FasterRcnn.make_batch`` do."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnext.deploy.graph_expression import Expression
from resnext.detection.export.picture_graph import add_picture
from resnext.detection.export.size_graph import add_new_size, compute_quotient_errors
from resnext.detection.preprocessing import DetectPreprocessing
from tests.deploy.exported import compile_openvino

ENGINES = ("onnxruntime", "openvino")
# height and width: smaller, larger, the right size already, wide, tall, one pixel, a photograph
SIZES = [(30, 45), (240, 317), (64, 96), (20, 400), (401, 33), (1, 5), (7, 1), (333, 250), (900, 1200)]
Graph = Callable[..., list[np.ndarray]]


def build(engine: str, inputs: dict[str, tuple[type[np.generic], list[Any]]], add: Callable[..., list[Any]]) -> Graph:
    """Build a graph of operators and return a function from the inputs to the outputs."""
    pytest.importorskip(engine)
    if engine == "openvino":
        import openvino as ov

        from resnext.detection.export.openvino_operators import DetectorOpenVinoGraph

        operators = DetectorOpenVinoGraph()
        given = [
            operators.ops.parameter([side if isinstance(side, int) else -1 for side in shape], dtype, name)
            for name, (dtype, shape) in inputs.items()
        ]
        model = ov.Model(add(operators, *given), given, "graph")
        compiled = compile_openvino(model, INFERENCE_PRECISION_HINT="f32", INFERENCE_NUM_THREADS=1)
        return lambda *values: [np.array(value) for value in compiled(list(values)).values()]
    import onnx
    import onnxruntime
    from onnx import helper

    from resnext.detection.export.onnx_operators import DetectorOnnxGraph

    graph = DetectorOnnxGraph()
    outputs = [graph.add_node("Identity", [value]) for value in add(graph, *inputs)]
    kinds = {name: helper.np_dtype_to_tensor_dtype(np.dtype(dtype)) for name, (dtype, _) in inputs.items()}
    made = helper.make_graph(
        graph.nodes,
        "graph",
        [helper.make_tensor_value_info(name, kinds[name], shape) for name, (_, shape) in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        graph.constants,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda *values: session.run(None, dict(zip(inputs, values, strict=True)))


def normalize(view: DetectPreprocessing, picture: np.ndarray) -> np.ndarray:
    """The resized, normalised picture [3, h, w], by PyTorch."""
    pixels = view.apply(Image.fromarray(picture))
    floats = pixels if pixels.is_floating_point() else pixels.float().div_(255)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (view.mean, view.std))
    normalized: np.ndarray = ((floats - mean) / std).numpy()
    return normalized


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("resize", "tolerance"), [("antialias", 0.0), ("torchvision", 1e-3)])
def test_pixels_are_those_of_pytorch(engine: str, resize: str, tolerance: float) -> None:
    view = DetectPreprocessing(min_size=64, max_size=120, resize=resize)

    def add(graph: Any, picture: Any) -> list[Any]:
        images, _, factors = add_picture(graph, picture, view)
        return [images, factors.value]

    run = build(engine, {"picture": (np.uint8, [1, "H", "W", 3])}, add)
    for number, (height, width) in enumerate(SIZES):
        picture = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        images, factors = run(picture[None])
        expected = normalize(view, picture)
        _, new_height, new_width = expected.shape
        assert images.shape == (1, 3, -(-new_height // 32) * 32, -(-new_width // 32) * 32)
        np.testing.assert_allclose(images[0, :, :new_height, :new_width], expected, rtol=0, atol=tolerance)
        assert not images[0, :, new_height:].any()
        assert not images[0, :, :, new_width:].any()
        np.testing.assert_allclose(factors, [width / new_width, height / new_height] * 2, rtol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("resize", ["antialias", "torchvision"])
def test_sizes_are_those_of_the_preprocessing_to_the_pixel(engine: str, resize: str) -> None:
    """Also where the exact size is a whole number or a half, and the float64 product of the preprocessing is not."""
    view = DetectPreprocessing(min_size=800, max_size=1333, resize=resize)

    def add(graph: Any, *sides: Any) -> list[Any]:
        height, width = (Expression(graph, side, np.int64) for side in sides)
        return [side.value for side in add_new_size(graph, height, width, view)]

    run = build(engine, {"height": (np.int64, []), "width": (np.int64, [])}, add)
    random = np.random.default_rng(0).integers(1, 4000, (200, 2)).tolist()
    multiples = [(a * k, b * k) for a, b in ((3, 4), (9, 16), (2, 3), (5, 8), (12, 19)) for k in range(1, 250, 3)]
    halves = [(960, width) for width in range(961, 1500, 6)] + [(height, 640) for height in range(642, 1000, 4)]
    whole = 0
    for height, width in [*random, *multiples, *halves]:
        new_width, new_height = view.compute_size(width, height)
        whole += 2 * max(height, width) * 800 % min(height, width) == 0
        found = run(np.array(height), np.array(width))
        assert [int(value) for value in found] == [new_height, new_width], (height, width)
    assert whole > 100


def test_errors_of_quotients_are_small_and_some_decide() -> None:
    errors = compute_quotient_errors(800)
    assert np.abs(errors).max() <= 1
    assert errors[800] == errors[100] == 0
    below = [d for d in range(1, 2000) if d * (800 / d) < 800]
    assert below
    assert all(errors[d] < 0 for d in below)
