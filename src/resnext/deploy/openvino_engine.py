"""Running in OpenVINO: converted in memory, synchronous or in streams, int8 by NNCF."""

import logging
import os
import sys
import warnings
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnext.deploy.signal_stack import signal_stack_kept

KEPT = 4  # compiled models of different shapes
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # int8: what is left in floating point


def openvino() -> ModuleType:
    """The package, kept from reporting its use to its makers, which it does unless it is told not to."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    os.environ.setdefault("NNCF_CI", "1")
    import openvino

    return openvino


@contextmanager
def hushed() -> Iterator[None]:
    """Without the warnings of PyTorch and its tracer, which are not about the network: on CUDA, on shapes in Python."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def convert(model: torch.nn.Module, channels: int, size: int) -> Any:
    """An openvino.Model of a network, for images of any number and size."""
    ov = openvino()
    with hushed(), signal_stack_kept(), torch.inference_mode():
        return ov.convert_model(model, example_input=torch.zeros(2, channels, size, size), input=[-1, channels, -1, -1])


class OpenVinoEngine:
    """A compiled model for each shape met. With ``piece``, batches run as pieces of so many images in ``streams``."""

    def __init__(self, model: Any, precision: str, piece: int, streams: int, threads: int) -> None:
        self.model = model
        self.piece, self.streams = piece, streams
        self.settings = {
            "NUM_STREAMS": str(streams),
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": HINTS[precision],
        }
        self._compiled: OrderedDict[tuple[int, ...], Any] = OrderedDict()

    def __call__(self, images: Tensor) -> Tensor:
        array = np.ascontiguousarray(images.numpy())
        size = min(self.piece, len(array)) or len(array)
        with signal_stack_kept():
            compiled = self._for((size, *array.shape[1:]))
            if size == len(array):
                return torch.from_numpy(compiled.request.infer({0: array}, share_inputs=True)[0].copy())
            return torch.from_numpy(compiled.queued(array, size)[: len(array)])

    def _for(self, shape: tuple[int, ...]) -> "_Compiled":
        """The model compiled for a shape; the one not used for longest is forgotten."""
        if shape not in self._compiled:
            model = self.model.clone()
            model.reshape(list(shape))
            self._compiled[shape] = _Compiled(
                openvino().Core().compile_model(model, "CPU", self.settings), self.streams
            )
            if len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(shape)
        return self._compiled[shape]


class _Compiled:
    """A compiled model with its requests."""

    def __init__(self, compiled: Any, streams: int) -> None:
        self.request = compiled.create_infer_request()
        self.requests = [compiled.create_infer_request() for _ in range(2 * streams)]

    def queued(self, array: np.ndarray, size: int) -> np.ndarray:
        """``array`` in pieces of ``size``, the last filled up with zeros; as many under way as there are requests.

        Requests are waited for in turn. OpenVINO's own AsyncInferQueue calls Python from its threads instead.
        """
        done: list[np.ndarray] = []
        under_way: deque[Any] = deque()
        for number in range(-(-len(array) // size)):
            piece = array[number * size : (number + 1) * size]
            if len(piece) < size:
                piece = np.concatenate([piece, np.zeros((size - len(piece), *piece.shape[1:]), piece.dtype)])
            if len(under_way) == len(self.requests):
                done.append(_result(under_way.popleft()))
            request = self.requests[number % len(self.requests)]
            request.start_async({0: piece}, share_inputs=True)
            under_way.append(request)
        return np.concatenate([*done, *map(_result, under_way)])


def _result(request: Any) -> np.ndarray:
    request.wait()
    return np.array(request.get_output_tensor(0).data)
