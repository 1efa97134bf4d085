"""Quantise a network to int8 with NNCF, and load the images it is calibrated on.

Weights are quantised per channel and activations by their statistics over the calibration images; biases are corrected.
Calibrate on training images: with test images, the measured error would be too low.
"""

import io
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from resnext.deploy.graph_interface import INPUT_NAME
from resnext.deploy.openvino_engine import import_openvino, suppress_warnings
from resnext.deploy.signal_stack import preserve_signal_stack
from resnext.errors import RequestError
from resnext.evaluation.images import pick_evenly, read_some_images

if TYPE_CHECKING:
    from PIL.Image import Image

    from resnext.data.dataset import Dataset
    from resnext.data.preprocessing import Preprocessing
    from resnext.model.network import Network

CALIBRATION_IMAGES = 300  # number of calibration images, NNCF's default
LAYERS = ("Convolution", "GroupConvolution", "MatMul", "Conv", "Gemm")  # of OpenVINO and ONNX, those with weights


def check_calibration(images: Tensor | None) -> Tensor:
    """Return the images; raise RequestError if there are none."""
    if images is None or not len(images):
        raise RequestError("int8 needs calibration images from the training data; without them, use bf16 or fp32")
    return images


@dataclass(frozen=True)
class Int8Step:
    """One way to quantise; later ones lose less accuracy but take longer or give a slower network."""

    images: int = CALIBRATION_IMAGES  # number of calibration images
    has_fast_bias: bool = True  # whether biases are corrected by the faster, coarser method
    keeps_ends: bool = False  # whether the first convolution and the classifier stay in floating point
    has_accuracy_control: bool = False  # whether NNCF then returns layers to floating point one by one

    @property
    def name(self) -> str:
        """The step in words."""
        words = [f"{self.images:,} calibration images", *["accurate bias correction"] * (not self.has_fast_bias)]
        words += ["first convolution and classifier in floating point"] * self.keeps_ends
        return ", ".join([*words, *["accuracy control"] * self.has_accuracy_control])


STEPS = (
    Int8Step(),
    Int8Step(1000, has_fast_bias=False),
    Int8Step(1000, has_fast_bias=False, keeps_ends=True),
    Int8Step(1000, has_fast_bias=False, keeps_ends=True, has_accuracy_control=True),
)


def is_onnx_model(model: Any) -> bool:
    """Return whether a model is an onnx.ModelProto, and not an openvino.Model."""
    return not hasattr(model, "get_ordered_ops")


def list_steps(model: Any) -> list[Int8Step]:
    """List the ways to quantise a model, the fastest first. NNCF's accurate bias correction breaks ONNX models."""
    return [replace(step, has_fast_bias=True) for step in STEPS] if is_onnx_model(model) else list(STEPS)


def quantize_int8(model: Any, calibration: Tensor | None, step: Int8Step = STEPS[0], max_drop: float = 0.005) -> Any:
    """Quantise an openvino.Model, or an onnx.ModelProto, to int8.

    Args:
        model: A network that takes normalised images.
        calibration: Normalised training images [N, C, S, S]; the first ``step.images`` are used.
        step: How to quantise.
        max_drop: With accuracy control: the largest share of predictions of calibration images that may change.

    Raises RequestError if calibration images or NNCF are missing.
    """
    images = check_calibration(calibration)[: step.images]
    try:
        with suppress_warnings():
            import nncf
    except ImportError:
        raise RequestError("int8 needs nncf: pip install 'resnext[openvino]'") from None
    nncf.set_log_level(logging.ERROR)
    is_onnx = is_onnx_model(model)
    batches = [{INPUT_NAME: image} if is_onnx else image for image in images.contiguous()[:, None].numpy()]
    options: dict[str, Any] = {"subset_size": len(batches), "preset": nncf.QuantizationPreset.MIXED}
    options["fast_bias_correction"] = step.has_fast_bias
    if is_onnx:  # 7 bits for weights: on processors without VNNI, ONNX Runtime's sums of 8 bits overflow
        overflow = nncf.quantization.advanced_parameters.OverflowFix.ENABLE
        options["advanced_parameters"] = nncf.AdvancedQuantizationParameters(overflow_fix=overflow)
    if step.keeps_ends:
        options["ignored_scope"] = nncf.IgnoredScope(names=(find_onnx_ends if is_onnx else find_openvino_ends)(model))
    with redirect_stdout(io.StringIO()), preserve_signal_stack():  # NNCF prints progress bars
        if not step.has_accuracy_control:
            return nncf.quantize(model, nncf.Dataset(batches), **options)
        return _quantize_with_control(nncf, model, batches, options, max_drop)


def _quantize_with_control(
    nncf: ModuleType, model: Any, batches: Sequence[Any], options: dict[str, Any], max_drop: float
) -> Any:
    """Quantise, then return layers to floating point until few predictions differ from those of ``model``.

    No labels are needed, and the images that judge the result stay unseen.
    """
    predict = _run_onnx if is_onnx_model(model) else _compile_openvino
    first = predict(model)
    items = [(batch, int(first(batch).argmax())) for batch in batches]

    def measure(compiled: Any, dataset: Iterable[tuple[Any, int]]) -> tuple[float, None]:
        run = predict(compiled)
        same = [int(run(batch).argmax()) == expected for batch, expected in dataset]
        return sum(same) / len(same), None

    dataset = nncf.Dataset(items, lambda item: item[0])
    if "advanced_parameters" in options:
        options["advanced_quantization_parameters"] = options.pop("advanced_parameters")
    return nncf.quantize_with_accuracy_control(model, dataset, dataset, measure, max_drop=max_drop, **options)


def _compile_openvino(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from a batch to the logits, of an openvino.Model or CompiledModel."""
    if hasattr(model, "get_ordered_ops"):
        model = import_openvino().Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda batch: np.array(model(batch)[0])


def _run_onnx(model: Any) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """Return a function from inputs to the logits, of an onnx.ModelProto."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda inputs: np.asarray(session.run(["logits"], inputs)[0])


def find_openvino_ends(model: Any) -> list[str]:
    """Find the nodes of the first convolution and of the classifier, also where it gives class activation maps."""
    layers = [op for op in model.get_ordered_ops() if op.get_type_name() in LAYERS]
    return [op.get_friendly_name() for op in layers if op is layers[0] or _is_last(op)]


def _is_last(op: Any) -> bool:
    """Return whether no convolution or matrix product follows."""
    targets = [t.get_node() for output in op.outputs() for t in output.get_target_inputs()]
    return all(target.get_type_name() not in LAYERS and _is_last(target) for target in targets)


def find_onnx_ends(model: Any) -> list[str]:
    """Find the nodes of the first convolution and of the classifier in an onnx.ModelProto."""
    layers = [node for node in model.graph.node if node.op_type in LAYERS]
    followed: set[str] = set()  # values that lead to a convolution or a matrix product
    for node in reversed(model.graph.node):
        if node.op_type in LAYERS or followed & set(node.output):
            followed |= set(node.input)
    return [node.name for node in layers if node is layers[0] or not followed & set(node.output)]


def count_int8_layers(model: Any) -> tuple[int, int]:
    """Count the convolutions and matrix products that take quantised images, and all of them."""
    if is_onnx_model(model):
        made = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
        layers = [node for node in model.graph.node if node.op_type in LAYERS]
        return sum(node.input[0] in made for node in layers), len(layers)
    ops = [op for op in model.get_ordered_ops() if op.get_type_name() in LAYERS]
    return sum(op.input_value(0).get_node().get_type_name() == "FakeQuantize" for op in ops), len(ops)


def sample_calibration_images(
    dataset: "Dataset", preprocessing: "Preprocessing", count: int = CALIBRATION_IMAGES
) -> Tensor:
    """Sample ``count`` evenly spaced images of ``dataset``; return them preprocessed, float32 [N, C, S, S]."""
    if not len(dataset):
        raise RequestError(f"{dataset.name} has no images to calibrate on")
    return _preprocess((dataset.image(i) for i in pick_evenly(range(len(dataset)), count)), preprocessing)


def load_calibration_images(
    network: "Network", run: Path | None, folder: str | None, count: int = CALIBRATION_IMAGES
) -> Tensor:
    """Load calibration images from ``folder``, or else from the training data of ``run``; one must be given."""
    from resnext.evaluation.outputs import get_preprocessing

    preprocessing = get_preprocessing(network)
    if folder is not None:
        return _preprocess(read_some_images(folder, count, preprocessing.channels, preprocessing.exif), preprocessing)
    if run is None:
        raise RequestError("int8 needs calibration images from the training data: give --calibration DIR")
    from resnext.data.sources.registry import open_data
    from resnext.run_directory import read_run_recipe

    return sample_calibration_images(open_data(read_run_recipe(run).data).train, preprocessing, count)


def _preprocess(images: Iterable["Image"], preprocessing: "Preprocessing") -> Tensor:
    from resnext.data.transforms.eval_view import normalize_pixels, prepare_pixels

    pixels = np.stack([prepare_pixels(image, preprocessing) for image in images])
    return torch.from_numpy(normalize_pixels(pixels, preprocessing))
