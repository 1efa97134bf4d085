"""The engine of .pt2 files: PyTorch runs the operators of a graph, one by one."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnext.deploy.engines import Outputs
from resnext.deploy.export_info import ExportInfo
from resnext.deploy.torch_export_reader import TorchProgram
from resnext.deploy.torch_operators import aten
from resnext.deploy.torch_program import Argument, Graph, Operation, Reference
from resnext.errors import RequestError, WorkError

MAX_LIVE_BYTES = 4 << 30  # of all values of the graph at one time, for each image
MAX_SHAPES = 256  # remembered as checked
TEST_SIDE = 8  # pixels of the picture on which a graph is tried
AXES = {"logits": 2, "probabilities": 2, "cam": 4}
FAULTS = (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError, ArithmeticError)
Values = dict[str, Any]  # tensors and whole numbers, by their names in the graph


class TorchExportEngine:
    """Run a program that was read from a file.

    Each operator is tried without computing, on tensors that have only shapes: whether it fits the others, and how
    much memory its result takes. This is done once for each shape of the input; for pictures, where the shapes depend
    on numbers that are computed, at each call. Raises RequestError if the program cannot be run.
    """

    def __init__(self, program: TorchProgram, info: ExportInfo) -> None:
        self.info, self.graph = info, program.graph
        if len(info.outputs) != len(self.graph.outputs) or "logits" not in info.outputs:
            raise RequestError(f"its graph has {len(self.graph.outputs)} outputs, not {', '.join(info.outputs)}")
        self.weights: Values | None = _prepare_weights(program)
        self.releases = _plan_releases(self.graph)
        self.shapes = set[tuple[int, ...]]()  # of inputs, that were tried
        p, batch = info.parse_preprocessing(), info.batch or 1
        if info.input == "picture":
            self(np.zeros((1, TEST_SIDE, TEST_SIDE, p.channels), np.uint8))
        elif info.input == "pixels":
            self._try_shape((batch, p.image_size, p.image_size, p.channels), self.weights)
        else:
            self._try_shape((batch, p.channels, p.image_size, p.image_size), self.weights)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the input's numbers."""
        return torch.float32 if self.info.input == "normalised" else torch.uint8

    def __call__(self, images: np.ndarray) -> Outputs:
        """Compute the outputs of a batch. Raises RequestError for an array that the program does not take."""
        weights = self.weights
        if weights is None:
            raise WorkError("the engine is closed")
        given = torch.from_numpy(images if images.flags.writeable else images.copy())
        if given.dtype != self.dtype or given.ndim != 4 or not len(given):
            raise RequestError(f"the file takes 4 axes of {self.dtype}, not {given.dtype} {list(given.shape)}")
        is_picture = self.info.input == "picture"
        if not is_picture and images.shape not in self.shapes:
            self._try_shape(images.shape, weights)
        found = self._run(given, weights, is_tried=not is_picture)
        arrays = [value.float().contiguous().numpy() for value in found]
        return Outputs.from_named(dict(zip(self.info.outputs, arrays, strict=True)))

    def warm_up(self, shapes: Iterable[tuple[int, ...]]) -> None:
        """Run a batch of each shape, so that oneDNN has prepared its kernels."""
        for shape in shapes:
            self(np.zeros(shape, np.float32 if self.dtype == torch.float32 else np.uint8))

    def close(self) -> None:
        """Release the weights. The engine cannot be called any more."""
        self.weights = None

    def _try_shape(self, shape: tuple[int, ...], weights: Values) -> None:
        """Try all operators on an input of a shape, without computing."""
        given = torch.empty(shape, dtype=self.dtype, device="meta")
        self._run(given, {name: value.to("meta") for name, value in weights.items()}, is_tried=False)
        if len(self.shapes) >= MAX_SHAPES:
            self.shapes.clear()
        self.shapes.add(shape)

    def _run(self, given: Tensor, weights: Values, is_tried: bool) -> list[Tensor]:
        """Compute the outputs. Unless ``is_tried``, each operator is tried before."""
        values, sizes = {**weights, self.graph.input: given}, dict[str, int]()
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            for operation, release in zip(self.graph.operations, self.releases, strict=True):
                arguments = {name: _resolve(value, values) for name, value in operation.arguments.items()}
                try:
                    if not is_tried:
                        sizes[operation.name] = _measure(operation, arguments)
                        if sum(sizes.values()) > MAX_LIVE_BYTES * len(given):
                            raise RequestError(f"its graph takes more than {MAX_LIVE_BYTES >> 30} GB for each image")
                    values[operation.name] = operation.function(**arguments)
                except FAULTS as error:
                    raise RequestError(f"its graph cannot be run: {str(error).splitlines()[0][:200]}") from None
                for name in release:
                    del values[name]
                    sizes.pop(name, None)
        found = [values[name] for name in self.graph.outputs]
        self._check_outputs(found, len(given))
        return found

    def _check_outputs(self, found: list[Any], count: int) -> None:
        classes = self.info.classes
        for name, value in zip(self.info.outputs, found, strict=True):
            fits = isinstance(value, Tensor) and value.ndim == AXES.get(name) and len(value) == count
            if not fits or (classes is not None and value.shape[1] != len(classes)):
                raise RequestError(f"its output {name} does not have one row of classes for each image")


def _resolve(argument: Argument, values: Values) -> Any:
    """Replace the references of an argument by values of the graph."""
    if isinstance(argument, Reference):
        return values[argument.name]
    if isinstance(argument, list):
        return [values[item.name] if isinstance(item, Reference) else item for item in argument]
    return argument


def _measure(operation: Operation, arguments: Mapping[str, Any]) -> int:
    """Return the bytes of an operator's result, without computing it."""
    if operation.is_number:
        return 0
    result = operation.function(**{name: _to_meta(value) for name, value in arguments.items()})
    return int(result.numel()) * int(result.element_size())


def _to_meta(value: Any) -> Any:
    """Replace tensors by tensors that have only shapes."""
    if isinstance(value, list):
        return [_to_meta(item) for item in value]
    return value.to("meta") if isinstance(value, Tensor) else value


def _prepare_weights(program: TorchProgram) -> Values:
    """Return the weights, those of convolutions in channels_last, in which PyTorch convolves fastest on the CPU."""
    weights: Values = dict(program.weights)
    for operation in program.graph.operations:
        match operation.arguments.get("weight"):
            case Reference(name) if operation.function is aten.conv2d.default and name in weights:
                if weights[name].ndim == 4:
                    weights[name] = weights[name].contiguous(memory_format=torch.channels_last)
    return weights


def _plan_releases(graph: Graph) -> list[list[str]]:
    """List, for each operation, the values that no later one takes."""
    kept, plan = set(graph.outputs), []
    for operation in reversed(graph.operations):
        last = sorted(set(operation.list_references()) - kept)
        kept.update(last)
        plan.append(last)
    return plan[::-1]
