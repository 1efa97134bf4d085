"""The OpenVINO engine: whole batches, or micro-batches in parallel streams."""

import logging
import os
import sys
import warnings
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from types import ModuleType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from resnext.deploy.signal_stack import signal_stack_kept

KEPT = 4  # compiled models of different input shapes that an engine keeps
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # int8: for the operators that remain in floating point


def openvino() -> ModuleType:
    """Import OpenVINO with its telemetry, and NNCF's, switched off."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    os.environ.setdefault("NNCF_CI", "1")
    import openvino

    return openvino


@contextmanager
def hushed() -> Iterator[None]:
    """Suppress warnings and log messages, such as those of PyTorch about CUDA, that do not concern the network."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


class OpenVinoEngine:
    """Run a network in OpenVINO, with a compiled model for each input shape.

    With ``piece`` > 0, a batch runs as micro-batches of ``piece`` images in ``streams`` parallel streams. Thread-safe:
    each call uses its own inference requests.
    """

    def __init__(self, model: Any, precision: str, piece: int, streams: int, threads: int) -> None:
        self.model = model
        self.piece, self.streams = piece, streams
        self.settings = {
            "NUM_STREAMS": str(streams),
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": HINTS[precision],
        }
        self._compiled: OrderedDict[tuple[int, ...], _Compiled] = OrderedDict()
        self._reading, self._compiling = Lock(), Lock()

    def __call__(self, images: Tensor) -> Tensor:
        """Compute logits of normalised images."""
        array = np.ascontiguousarray(images.numpy())
        size = min(self.piece, len(array)) or len(array)
        with signal_stack_kept():
            compiled = self._for((size, *array.shape[1:]))
            if size == len(array):
                return torch.from_numpy(compiled.infer(array))
            return torch.from_numpy(compiled.infer_pieces(array, size)[: len(array)])

    def _for(self, shape: tuple[int, ...]) -> "_Compiled":
        """Return the model compiled for a shape, from a cache that drops the least recently used one.

        One thread compiles at a time; other threads can use compiled models meanwhile.
        """
        compiled = self._known(shape)
        if compiled is None:
            with self._compiling:
                compiled = self._known(shape) or self._compile(shape)
        return compiled

    def _known(self, shape: tuple[int, ...]) -> "_Compiled | None":
        with self._reading:
            if shape in self._compiled:
                self._compiled.move_to_end(shape)
            return self._compiled.get(shape)

    def _compile(self, shape: tuple[int, ...]) -> "_Compiled":
        model = self.model.clone()
        model.reshape(list(shape))
        compiled = _Compiled(openvino().Core().compile_model(model, "CPU", self.settings), self.streams)
        with self._reading:
            self._compiled[shape] = compiled
            if len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
        return compiled


class _Compiled:
    """A compiled model with a pool of inference requests; a call owns its request until the output is copied."""

    def __init__(self, compiled: Any, streams: int) -> None:
        self.compiled, self.at_once = compiled, 2 * streams
        self._idle: list[Any] = []

    def infer(self, array: np.ndarray) -> np.ndarray:
        """Run ``array`` as one batch and return the model's output."""
        request = self._request()
        result = request.infer({0: array}, share_inputs=True)[0].copy()
        self._idle.append(request)
        return cast(np.ndarray, result)

    def infer_pieces(self, array: np.ndarray, size: int) -> np.ndarray:
        """Run ``array`` in micro-batches of ``size``, the last padded with zeros, up to ``max_requests`` in parallel.

        Results are awaited in order, without OpenVINO's AsyncInferQueue, which calls Python from its own threads.
        """
        done: list[np.ndarray] = []
        under_way: deque[Any] = deque()
        for start in range(0, len(array), size):
            piece = array[start : start + size]
            if len(piece) < size:
                piece = np.concatenate([piece, np.zeros((size - len(piece), *piece.shape[1:]), piece.dtype)])
            if len(under_way) < self.at_once:
                request = self._request()
            else:
                request = under_way.popleft()
                done.append(_result(request))
            request.start_async({0: piece}, share_inputs=True)
            under_way.append(request)
        results = [*done, *map(_result, under_way)]
        self._idle += under_way
        return np.concatenate(results)

    def _request(self) -> Any:
        """Return a request that no other call uses; requests of failed calls do not return to the pool."""
        try:
            return self._idle.pop()
        except IndexError:
            return self.compiled.create_infer_request()


def _result(request: Any) -> np.ndarray:
    request.wait()
    return np.array(request.get_output_tensor(0).data)
