"""Candidates of ``resnext bench infer``: our engines and other libraries with the same weights, checked first."""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resnext.bench.check_outputs import check_distances
from resnext.bench.measure import Candidate, measure_peak_memory
from resnext.bench.peers import build_peer
from resnext.choices import EngineChoice, EnginePrecision, Goal
from resnext.deploy.engines import TOLERANCE, compute_relative_error, find_missing_packages
from resnext.deploy.int8 import load_calibration_images, quantize_int8
from resnext.deploy.network_engine import get_expected_image_size
from resnext.deploy.predictor import Predictor
from resnext.errors import RequestError
from resnext.model.complexity import complexity
from resnext.model.network import Network, create_model
from resnext.run_directory import is_run
from resnext.speed.tuning_cache import time_candidates
from resnext.weights import load
from resnext.weights.hub import is_remote

CPU = torch.device("cpu")
# name, precision, engine, function from images to logits
BuiltCandidate = tuple[str, EnginePrecision, str, Callable[[Tensor], Tensor]]


@dataclass(frozen=True, eq=False)
class InferWorkload:
    """One network and batch to be measured."""

    network: Network
    model_name: str  # as the user wrote it
    batch: int
    size: int
    precisions: tuple[EnginePrecision, ...]
    engine: EngineChoice
    calibration: Tensor | None
    no_peers: bool = False

    @property
    def images(self) -> Tensor:
        """The images to run on: calibration images if they have the right size, else noise."""
        if self.calibration is not None and self.calibration.shape[-1] == self.size:
            return self.calibration[torch.arange(self.batch) % len(self.calibration)].contiguous()
        shape = (self.batch, self.network.architecture.in_channels, self.size, self.size)
        return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def build_candidates(case: InferWorkload) -> tuple[list[Candidate], dict[str, dict[str, object]]]:
    """Build the candidates, and for each its precision, engine, and distance of its logits from plain fp32.

    Raises WorkError for a candidate whose logits differ too much.
    """
    images = case.images
    with torch.inference_mode():
        reference = case.network(images).float()
    candidates: list[Candidate] = []
    about: dict[str, dict[str, object]] = {}
    for name, precision, engine_name, work in iterate_candidates(case):
        far = compute_relative_error(work(images), reference)
        check_distances(name, precision, {"logits": far}, {"logits": TOLERANCE[precision]})
        candidates.append(Candidate(name, partial(work, images), case.batch))
        about[name] = {"precision": precision, "way": engine_name, "distance": f"{far:.2g}"}
    return candidates, about


def iterate_candidates(case: InferWorkload) -> Iterator[BuiltCandidate]:
    """Build the candidates one after the other, when the iterator asks for the next one."""
    yield from iterate_eager(case)
    if not case.no_peers:
        if not find_missing_packages("onnxruntime") and "fp32" in case.precisions:
            theirs = build_peer("torchvision", case.network) or case.network
            yield "ONNX Runtime of torchvision's", "fp32", "torch.onnx.export", make_onnx_runtime(theirs)
        if not find_missing_packages("openvino"):
            yield from iterate_openvino(case)
    for precision in case.precisions:
        goal: Goal = "latency" if case.batch == 1 else "throughput"
        predictor = Predictor(
            case.network,
            engine=case.engine,
            precision=precision,
            goal=goal,
            batch=case.batch,
            image_size=case.size,
            calibration=case.calibration if precision == "int8" else None,
        )
        yield f"resnext {precision}", precision, predictor.engine, predictor


def iterate_eager(case: InferWorkload) -> Iterator[BuiltCandidate]:
    """Build eager PyTorch candidates: torchvision and timm in fp32, and in bf16 with channels_last."""
    theirs = build_peer("torchvision", case.network)
    timms = None if case.no_peers else build_peer("timm", case.network)
    for name, network in (
        ("plain PyTorch" if theirs is None else "torchvision", theirs or case.network),
        ("timm", timms),
    ):
        if network is not None:
            yield f"{name} fp32", "fp32", "eager, NCHW", make_eager(network, bf16=False)
            if "bf16" in case.precisions:
                yield f"{name} bf16", "bf16", "eager, channels_last, autocast", make_eager(network, bf16=True)


def make_eager(model: nn.Module, *, bf16: bool) -> Callable[[Tensor], Tensor]:
    """Make a function that runs a network in eager PyTorch."""
    layout = torch.channels_last if bf16 else torch.contiguous_format
    model = copy.deepcopy(model).to(memory_format=layout)

    def run(images: Tensor) -> Tensor:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits: Tensor = model(images.contiguous(memory_format=layout))
            return logits.float()

    return run


def make_onnx_runtime(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Make a function that runs PyTorch's own ONNX export, for any batch and image size, in ONNX Runtime."""
    from resnext.deploy.onnx_engine import OnnxEngine

    channels = next(model.parameters()).shape[1]
    file, free = io.BytesIO(), torch.export.Dim.DYNAMIC
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # the exporter prints its progress
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(2, channels, 64, 64),),
            file,  # type: ignore[arg-type]  # a file object works too
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: free, 2: free, 3: free},),
        )
    engine = OnnxEngine(file.getvalue(), torch.get_num_threads())
    return lambda images: torch.from_numpy(engine(images.numpy()).logits)


def iterate_openvino(case: InferWorkload) -> Iterator[BuiltCandidate]:
    """Build OpenVINO candidates from its own conversion: synchronous, and a queue of single images for throughput."""
    theirs = build_peer("torchvision", case.network) or case.network
    converted = convert_to_openvino(theirs, case.network.architecture.in_channels)
    for precision in case.precisions:
        model = quantize_int8(converted.clone(), case.calibration) if precision == "int8" else converted
        yield f"OpenVINO {precision}", precision, "its own conversion, synchronous", make_synchronous(model, precision)
        if case.batch > 1:
            engine_name = "its own conversion, AsyncInferQueue of single images"
            yield f"OpenVINO {precision} queue", precision, engine_name, make_asynchronous(model, precision)


def convert_to_openvino(model: nn.Module, channels: int) -> Any:
    """Convert a network with OpenVINO's own converter, for any batch and image size."""
    from resnext.deploy.openvino_engine import import_openvino, suppress_warnings
    from resnext.deploy.signal_stack import preserve_signal_stack

    ov, example = import_openvino(), torch.zeros(2, channels, 64, 64)
    with suppress_warnings(), preserve_signal_stack(), torch.inference_mode():
        return ov.convert_model(model, example_input=example, input=[-1, channels, -1, -1])


def make_synchronous(model: Any, precision: str) -> Callable[[Tensor], Tensor]:
    """Make a function that runs one request at a time, compiled for latency."""
    compiled: dict[Any, Any] = {}

    def run(images: Tensor) -> Tensor:
        if images.shape not in compiled:
            compiled[images.shape] = _compile(model, precision, images.shape, "LATENCY").create_infer_request()
        return torch.from_numpy(compiled[images.shape].infer({0: images.numpy()}, share_inputs=True)[0].copy())

    return run


def make_asynchronous(model: Any, precision: str) -> Callable[[Tensor], Tensor]:
    """Make a function that runs a batch as a queue of single images, compiled for throughput."""
    from resnext.deploy.openvino_engine import import_openvino

    queues: dict[Any, Any] = {}
    logits: list[Any] = []

    def keep(request: Any, number: int) -> None:
        logits[number] = request.get_output_tensor(0).data.copy()

    def run(images: Tensor) -> Tensor:
        if images.shape not in queues:
            compiled = _compile(model, precision, (1, *images.shape[1:]), "THROUGHPUT")
            queues[images.shape] = import_openvino().AsyncInferQueue(compiled)
            queues[images.shape].set_callback(keep)
        logits[:] = [None] * len(images)
        array = images.numpy()
        for number in range(len(array)):
            queues[images.shape].start_async({0: array[number : number + 1]}, number, share_inputs=True)
        queues[images.shape].wait_all()
        return torch.cat([torch.from_numpy(row) for row in logits])

    return run


def _compile(model: Any, precision: str, shape: Any, hint: str) -> Any:
    from resnext.deploy.openvino_engine import PRECISION_HINTS, import_openvino

    model = model.clone()
    model.reshape(list(shape))
    settings = {
        "PERFORMANCE_HINT": hint,
        "INFERENCE_PRECISION_HINT": PRECISION_HINTS[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    return import_openvino().Core().compile_model(model, "CPU", settings)


def compute_bound(case: InferWorkload, precision: str) -> float:
    """Compute an upper bound in images per second from the fastest large matrix product measured here.

    Products of NumPy, PyTorch, and oneDNN with a prepacked weight are timed. int8 counts as twice bf16.
    """
    from resnext.deploy.pytorch_engine import has_fused_convolutions

    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    a, b = (torch.randn(side, 1024).to(dtype) for side in (2048, 1024))
    products: dict[str, Callable[[], object]] = {"PyTorch": lambda: a @ b}
    if precision == "fp32":
        products["NumPy"] = lambda: a.numpy() @ b.numpy()
    if has_fused_convolutions():
        weight = torch.ops.mkldnn._reorder_linear_weight(b, 2048)
        products["oneDNN"] = lambda: torch.ops.mkldnn._linear_pointwise(a, weight, None, "none", [], "")
    seconds = min(time_candidates(products, CPU).values())
    rate = 2 * 2048 * 1024 * 1024 / seconds * (2 if precision == "int8" else 1)
    return rate / (2 * complexity(case.network.architecture, case.size).macs)


def load_network(
    model: str, precisions: Sequence[str], calibration: str | None, size: int | None
) -> tuple[Network, Tensor | None]:
    """Load the network and, for int8, calibration images of the run or folder, else noise (enough to time it)."""
    path = Path(model)
    known = path.exists() or is_remote(model)
    network = (load(model) if known else create_model(model, seed=0)).eval()
    if "int8" not in precisions:
        return network, None
    run = path if known and is_run(path) else None
    if calibration or run is not None:
        return network, load_calibration_images(network, run, calibration)
    side = size or get_expected_image_size(network)
    generator = torch.Generator().manual_seed(0)
    return network, torch.randn(32, network.architecture.in_channels, side, side, generator=generator)


def measure_memory(case: InferWorkload, name: str, calibration: str | None) -> float:
    """Measure the peak memory of a candidate in MiB, above what it holds before its first batch."""
    values = [case.model_name, case.batch, case.size, list(case.precisions), case.engine, calibration, name]
    return measure_peak_memory(prepare_work, *values)


def prepare_work(
    named: str,
    batch: int,
    size: int,
    precisions: list[EnginePrecision],
    engine: EngineChoice,
    calibration: str | None,
    name: str,
) -> Callable[[], object]:
    """Prepare the work of one candidate in a fresh process, for ``measure_peak_memory``."""
    network, images = load_network(named, precisions, calibration, size)
    precision: EnginePrecision = next((p for p in precisions if p in name.split()), "fp32")
    case = InferWorkload(network, named, batch, size, (precision,), engine, images)
    for found, _, _, work in iterate_candidates(replace(case, no_peers=name.startswith(("resnext", "plain")))):
        if found == name:
            return partial(work, case.images)
    raise RequestError(f"there is no candidate {name!r}")
