"""The engine of .pt2 files: PyTorch runs the operators of a graph, one by one."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnext.deploy.engines import Outputs
from resnext.deploy.export_info import ExportInfo
from resnext.deploy.graph_interface import MAX_BATCH
from resnext.deploy.torch_export_reader import TorchProgram
from resnext.deploy.torch_operators import aten
from resnext.deploy.torch_program import Reference
from resnext.deploy.torch_trial import FAULTS, prepare_trial, resolve, shorten, try_graph
from resnext.errors import RequestError, WorkError

MAX_SHAPES = 256  # remembered as tried
TEST_SIDE = 8  # pixels of the picture on which a graph is tried when it is opened
AXES = {"logits": 2, "probabilities": 2, "cam": 4}


class TorchExportEngine:
    """Run a program that was read from a file, in float32 on the CPU.

    The graph is tried without computing (``torch_trial.py``) before the first run of each shape. Raises RequestError if
    it cannot be run.
    """

    def __init__(self, program: TorchProgram, info: ExportInfo) -> None:
        self.info, self.graph = info, program.graph
        self.is_float = info.input == "normalised"
        if len(info.outputs) != len(self.graph.outputs) or "logits" not in info.outputs:
            raise RequestError(f"its graph has {len(self.graph.outputs)} outputs, not {', '.join(info.outputs)}")
        p, batch = info.parse_preprocessing(), 1 if info.batch is None else info.batch
        if not 1 <= batch <= MAX_BATCH:
            raise RequestError(f"its batch {batch} is not between 1 and {MAX_BATCH}")
        self.weights: dict[str, Tensor] | None = _prepare_weights(program)
        self.channels = p.channels
        self.trial_weights = prepare_trial(program.weights)
        self.shapes = set[tuple[int, ...]]()  # of inputs, that were tried
        side = TEST_SIDE if info.input == "picture" else p.image_size
        self._try_shape((batch, p.channels, side, side) if self.is_float else (batch, side, side, p.channels))

    def __call__(self, images: np.ndarray) -> Outputs:
        """Compute the outputs of a batch. Raises RequestError for an array that the program does not take."""
        weights = self.weights
        if weights is None:
            raise WorkError("the engine is closed")
        expected, axis = (np.float32, 1) if self.is_float else (np.uint8, 3)
        if images.dtype != expected or images.ndim != 4 or images.shape[axis] != self.channels or not images.size:
            layout = f"[B, {self.channels}, H, W]" if self.is_float else f"[B, H, W, {self.channels}]"
            what = f"{images.dtype} {list(images.shape)}"
            raise RequestError(f"the exported file takes {np.dtype(expected)} {layout}, not {what}")
        if images.shape not in self.shapes:
            self._try_shape(images.shape)
        found = self._run(torch.from_numpy(images if images.flags.writeable else images.copy()), weights)
        arrays = [value.float().contiguous().numpy() for value in found]
        return Outputs.from_named(dict(zip(self.info.outputs, arrays, strict=True)))

    def warm_up(self, shapes: Iterable[tuple[int, ...]]) -> None:
        """Run a batch of each shape, so that oneDNN has prepared its kernels."""
        for shape in shapes:
            self(np.zeros(shape, np.float32 if self.is_float else np.uint8))

    def close(self) -> None:
        """Release the weights. The engine cannot be called any more."""
        self.weights, self.trial_weights = None, {}

    def _run(self, images: Tensor, weights: dict[str, Tensor]) -> list[Any]:
        values: dict[str, Any] = {**weights, self.graph.input: images}
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            try:
                for operation in self.graph.operations:
                    arguments = {name: resolve(value, values) for name, value in operation.arguments.items()}
                    values[operation.name] = operation.function(**arguments)
                    for name in operation.releases:
                        del values[name]
            except FAULTS as error:
                raise WorkError(f"the graph of the exported file cannot be run: {shorten(error)}") from None
        return [values[name] for name in self.graph.outputs]

    def _try_shape(self, shape: tuple[int, ...]) -> None:
        """Try the graph on an input of a shape. Raises RequestError if it does not fit."""
        try:
            dtype = torch.float32 if self.is_float else torch.uint8
            given = torch.empty(shape, dtype=dtype, device="meta")
        except FAULTS as error:
            raise RequestError(f"its input is too large: {shorten(error)}") from None
        classes = self.info.classes
        found = try_graph(self.graph, self.trial_weights, given)
        for name, value in zip(self.info.outputs, found, strict=True):
            fits = isinstance(value, Tensor) and value.ndim == AXES.get(name) and len(value) == shape[0]
            if not fits or (classes is not None and value.shape[1] != len(classes)):
                raise RequestError(f"its output {name} does not have a row of classes for each image")
        if len(self.shapes) >= MAX_SHAPES:
            self.shapes.clear()
        self.shapes.add(shape)


def _prepare_weights(program: TorchProgram) -> dict[str, Tensor]:
    """Return the weights, those of convolutions in channels_last, in which PyTorch convolves fastest on the CPU."""
    weights = dict(program.weights)
    for operation in program.graph.operations:
        match operation.arguments.get("weight"):
            case Reference(name) if operation.function is aten.conv2d.default and name in weights:
                if weights[name].ndim == 4:
                    weights[name] = weights[name].contiguous(memory_format=torch.channels_last)
    return weights
