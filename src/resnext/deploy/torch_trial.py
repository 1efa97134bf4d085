"""Try a graph on an input of a shape without computing it: whether its operators fit, and what memory they take."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from resnext.deploy.torch_program import Argument, Graph, Reference
from resnext.errors import RequestError

MAX_LIVE_BYTES = 4 << 30  # of all values of the graph at one time, for each image
MAX_KNOWN = 4096  # elements of a tensor whose numbers are computed in a trial
FAULTS = (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError, ArithmeticError)


def prepare_trial(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights for ``try_graph``: the large ones without their numbers."""
    return {name: value if value.numel() <= MAX_KNOWN else value.to("meta") for name, value in weights.items()}


def try_graph(graph: Graph, weights: Mapping[str, Tensor], given: Tensor) -> list[Any]:
    """Find the shapes of the outputs for an input ``given`` on the device "meta".

    Tensors have only shapes, except small ones that do not depend on the input's numbers, such as where a picture of
    this size is cropped: they are computed, since shapes of others depend on them. So the time is bounded too.
    Raises RequestError if the operators do not fit, or take too much memory.
    """
    values: dict[str, Any] = {**weights, graph.input: given}
    sizes, live = dict[str, int](), 0
    with torch.inference_mode():
        for operation in graph.operations:
            arguments = {name: resolve(value, values) for name, value in operation.arguments.items()}
            try:
                if operation.is_number:
                    values[operation.name] = operation.function(**arguments)
                else:
                    result = operation.function(**{name: _to_meta(value) for name, value in arguments.items()})
                    sizes[operation.name] = result.numel() * result.element_size()
                    live += sizes[operation.name]
                    is_known = result.numel() <= MAX_KNOWN and not any(map(_has_meta, arguments.values()))
                    values[operation.name] = operation.function(**arguments) if is_known else result
            except FAULTS as error:
                raise RequestError(f"its graph cannot be run: {shorten(error)}") from None
            if live > MAX_LIVE_BYTES * len(given):
                raise RequestError(f"its graph takes more than {MAX_LIVE_BYTES >> 30} GB for each image")
            for name in operation.releases:
                del values[name]
                live -= sizes.pop(name, 0)
    return [values[name] for name in graph.outputs]


def resolve(argument: Argument, values: Mapping[str, Any]) -> Any:
    """Replace the references of an argument by values of the graph."""
    if isinstance(argument, Reference):
        return values[argument.name]
    if isinstance(argument, list):
        return [values[item.name] if isinstance(item, Reference) else item for item in argument]
    return argument


def shorten(error: Exception) -> str:
    """Return the first line of an error of PyTorch."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _to_meta(value: Any) -> Any:
    """Replace tensors by tensors that have only shapes."""
    if isinstance(value, list):
        return [_to_meta(item) for item in value]
    return value.to("meta") if isinstance(value, Tensor) else value


def _has_meta(value: Any) -> bool:
    return any(isinstance(item, Tensor) and item.is_meta for item in (value if isinstance(value, list) else [value]))
