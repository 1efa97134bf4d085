"""The OpenVINO engine: whole batches, or micro-batches in parallel streams."""

import logging
import os
import sys
import warnings
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np

from resnext.deploy.engines import Outputs
from resnext.deploy.signal_stack import preserve_signal_stack
from resnext.errors import WorkError

MAX_COMPILED = 4  # compiled models of different input shapes that an engine keeps
INT8_SHAPES = "OpenVINO crashes on some processors with int8 and such dimensions (openvino#37577)"
PRECISION_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # int8: what remains in floating point


def import_openvino() -> ModuleType:
    """Import OpenVINO with its telemetry, and NNCF's, switched off."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    os.environ.setdefault("NNCF_CI", "1")
    return import_module("openvino")


@contextmanager
def suppress_warnings() -> Iterator[None]:
    """Suppress warnings and log messages, such as those of PyTorch about CUDA, that do not concern the network."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def find_dynamic_nodes(model: Any) -> list[str]:
    """Return the names of the nodes of an openvino.Model whose output has a dimension of any size."""
    return [
        node.get_friendly_name()
        for node in model.get_ordered_ops()
        if any(output.get_partial_shape().is_dynamic for output in node.outputs())
    ]


class OpenVinoEngine:
    """Run a model of one input in OpenVINO, with a compiled model for each input shape.

    With ``piece`` > 0, a batch runs as micro-batches of ``piece`` images in ``streams`` parallel streams. Thread-safe:
    each call uses its own inference requests.
    """

    def __init__(self, model: Any, precision: str, piece: int, streams: int, threads: int) -> None:
        self.model = model
        self.precision, self.piece, self.streams, self.threads = precision, piece, streams, threads
        self.max_compiled = MAX_COMPILED
        self._closed = False
        self._compiled: OrderedDict[tuple[int, ...], CompiledModel] = OrderedDict()
        self._cache_lock, self._compile_lock = Lock(), Lock()

    def __call__(self, images: np.ndarray) -> Outputs:
        """Compute the outputs of a batch."""
        if self._closed:
            raise WorkError("the engine is closed")
        array = np.ascontiguousarray(images)
        size = min(self.piece, len(array)) or len(array)
        with preserve_signal_stack():
            compiled = self._get_compiled((size, *array.shape[1:]))
            pieces = [compiled.infer(array)] if size == len(array) else compiled.infer_pieces(array, size)
        joined = {name: np.concatenate([piece[name] for piece in pieces])[: len(array)] for name in pieces[0]}
        return Outputs.from_named(pieces[0] if len(pieces) == 1 else joined)

    def warm_up(self, shapes: Iterable[tuple[int, ...]]) -> None:
        """Compile the model for these shapes of a batch, and keep all of them."""
        wanted = [(min(self.piece, shape[0]) or shape[0], *shape[1:]) for shape in shapes]
        self.max_compiled = max(self.max_compiled, len(wanted))
        for shape in wanted:
            with preserve_signal_stack():
                self._get_compiled(shape).warm_up()

    def close(self) -> None:
        """Release requests, then compiled models, then the model, in this thread."""
        with self._compile_lock, self._cache_lock:
            self._closed = True
            compiled = list(self._compiled.values())
            self._compiled.clear()
        with preserve_signal_stack():
            for one in compiled:
                one.close()
            del compiled
            self.model = None

    def _get_compiled(self, shape: tuple[int, ...]) -> "CompiledModel":
        """Return the model compiled for a shape, from a cache that drops the least recently used one.

        One thread compiles at a time; other threads can use compiled models meanwhile.
        """
        compiled = self._find_compiled(shape)
        if compiled is None:
            with self._compile_lock:
                compiled = self._find_compiled(shape) or self._compile(shape)
        return compiled

    def _find_compiled(self, shape: tuple[int, ...]) -> "CompiledModel | None":
        with self._cache_lock:
            if shape in self._compiled:
                self._compiled.move_to_end(shape)
            return self._compiled.get(shape)

    def _compile(self, shape: tuple[int, ...]) -> "CompiledModel":
        model = self.model.clone()
        model.reshape(list(shape))
        if self.precision == "int8" and (dynamic := find_dynamic_nodes(model)):
            raise WorkError(f"the int8 model has a dimension of any size, at {dynamic[0]}; {INT8_SHAPES}")
        compiled = CompiledModel(model, self.precision, self.streams, self.threads)
        with self._cache_lock:
            self._compiled[shape] = compiled
            if len(self._compiled) > self.max_compiled:
                self._compiled.popitem(last=False)
        return compiled


class CompiledModel:
    """A compiled model with a pool of inference requests; a call owns its request until the output is copied.

    Callers preserve the signal stack around each call.
    """

    def __init__(self, model: Any, precision: str, streams: int, threads: int) -> None:
        settings = {
            "NUM_STREAMS": str(streams),
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": PRECISION_HINTS[precision],
        }
        self.compiled: Any = import_openvino().Core().compile_model(model, "CPU", settings)
        self.max_requests = 2 * streams
        self.names = [_get_output_name(output, number) for number, output in enumerate(self.compiled.outputs)]
        self._idle: list[Any] = []

    def infer(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """Run ``array`` as one batch and return the model's outputs by name."""
        request = self._get_request()
        request.infer({0: array}, share_inputs=True, share_outputs=True)
        result = self._copy_outputs(request)
        self._idle.append(request)
        return result

    def infer_pieces(self, array: np.ndarray, size: int) -> list[dict[str, np.ndarray]]:
        """Run ``array`` in micro-batches of ``size``, the last padded with zeros, up to ``max_requests`` in parallel.

        Results are awaited in order, without OpenVINO's AsyncInferQueue, which calls Python from its own threads.
        """
        done: list[dict[str, np.ndarray]] = []
        under_way: deque[Any] = deque()
        for start in range(0, len(array), size):
            piece = array[start : start + size]
            if len(piece) < size:
                piece = np.concatenate([piece, np.zeros((size - len(piece), *piece.shape[1:]), piece.dtype)])
            if len(under_way) < self.max_requests:
                request = self._get_request()
            else:
                request = under_way.popleft()
                request.wait()
                done.append(self._copy_outputs(request))
            request.start_async({0: piece}, share_inputs=True)
            under_way.append(request)
        for request in under_way:
            request.wait()
            done.append(self._copy_outputs(request))
        self._idle += under_way
        return done

    def warm_up(self) -> None:
        """Make the requests that a call in each stream needs, and allocate their memory."""
        requests = [self._get_request() for _ in range(self.max_requests // 2)]
        for request in requests:
            request.infer()
        self._idle += requests

    def close(self) -> None:
        """Delete the idle requests, then the compiled model."""
        self._idle.clear()
        self.compiled = None

    def _get_request(self) -> Any:
        """Return a request that no other call uses; requests of failed calls do not return to the pool."""
        try:
            return self._idle.pop()
        except IndexError:
            return self.compiled.create_infer_request()

    def _copy_outputs(self, request: Any) -> dict[str, np.ndarray]:
        return {name: np.array(request.get_output_tensor(i).data) for i, name in enumerate(self.names)}


def _get_output_name(output: Any, number: int) -> str:
    """Return the name of a model's output; models that are built in memory name only further outputs."""
    return next(iter(sorted(output.names)), "logits" if number == 0 else f"output {number}")
