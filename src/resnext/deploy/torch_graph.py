"""Convert a folded network to a graph of PyTorch's operators, for ``torch.export``."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor, fx, nn

from resnext.deploy.fold import FoldedNetwork
from resnext.deploy.graph import build_graph, to_pair
from resnext.deploy.graph_builder import SLICE_END, Comparison, Elementwise
from resnext.deploy.graph_interface import INPUT_NAME, GraphInterface
from resnext.model.layers import PadShortcut

aten = torch.ops.aten
OPERATORS: dict[str, Callable[..., Any]] = {
    "add": aten.add.Tensor,
    "subtract": aten.sub.Tensor,
    "multiply": aten.mul.Tensor,
    "divide": aten.floor_divide.default,  # only of integers
    "reciprocal": aten.reciprocal.default,
    "maximum": aten.maximum.default,
    "minimum": aten.minimum.default,
    "absolute": aten.abs.default,
    "floor": aten.floor.default,
    "less": aten.lt.Tensor,
    "less_equal": aten.le.Tensor,
    "equal": aten.eq.Tensor,
}


class ExportedNetwork(nn.Module):
    """A network that maps the input ``images`` to a dict of the outputs of ``interface``.

    Raises RequestError if the interface does not fit the network.
    """

    def __init__(self, folded: FoldedNetwork, interface: GraphInterface) -> None:
        super().__init__()
        interface.check_channels(folded.architecture.in_channels, folded.architecture.name)
        builder = TorchGraph()
        outputs = build_graph(folded, builder.graph.placeholder(INPUT_NAME), builder, interface)
        builder.graph.output(tuple(outputs.values()))
        self.names = list(outputs)
        self.network = fx.GraphModule(builder.root, builder.graph)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute the outputs by their names."""
        return dict(zip(self.names, self.network(images), strict=True))


class TorchGraph:
    """A ``GraphBuilder`` (which documents the methods) whose values are nodes of a ``torch.fx`` graph."""

    real = np.float64

    def __init__(self) -> None:
        self.root, self.graph = nn.Module(), fx.Graph()
        self.count = 0  # tensors in ``root``

    def conv(self, x: fx.Node, conv: nn.Conv2d) -> fx.Node:
        weights = [None if value is None else self._add_tensor(value) for value in (conv.weight, conv.bias)]
        shape = to_pair(conv.stride), to_pair(conv.padding), to_pair(conv.dilation)
        return self._call(aten.conv2d.default, x, *weights, *shape, conv.groups)

    def add(self, x: fx.Node, y: fx.Node) -> fx.Node:
        return self._call(aten.add.Tensor, x, y)

    def relu(self, x: fx.Node) -> fx.Node:
        return self._call(aten.relu.default, x)

    def scale(self, x: fx.Node, scale: Tensor, shift: Tensor) -> fx.Node:
        return self.add(self._call(aten.mul.Tensor, x, self._add_tensor(scale)), self._add_tensor(shift))

    def max_pool(self, x: fx.Node, pool: nn.MaxPool2d) -> fx.Node:
        kernel, stride, padding = to_pair(pool.kernel_size), to_pair(pool.stride), to_pair(pool.padding)
        return self._call(aten.max_pool2d.default, x, kernel, stride, padding, to_pair(pool.dilation))

    def pad_shortcut(self, x: fx.Node, shortcut: PadShortcut) -> fx.Node:
        for axis, step in zip((2, 3), to_pair(shortcut.stride), strict=True):
            x = self._call(aten.slice.Tensor, x, axis, 0, SLICE_END, step)
        return self._call(aten.constant_pad_nd.default, x, [0, 0, 0, 0, 0, shortcut.extra_channels], 0.0)

    def mean(self, x: fx.Node) -> fx.Node:
        return self._call(aten.mean.dim, x, [2, 3])

    def linear(self, x: fx.Node, linear: nn.Linear) -> fx.Node:
        return self._call(aten.linear.default, x, self._add_tensor(linear.weight), self._add_tensor(linear.bias))

    def softmax(self, x: fx.Node) -> fx.Node:
        return self._call(aten.softmax.int, x, -1)

    def constant(self, value: np.ndarray) -> fx.Node:
        return self._add_tensor(torch.from_numpy(np.array(value)))

    def cast(self, x: fx.Node, dtype: DTypeLike) -> fx.Node:
        return self._call(aten.to.dtype, x, torch.from_numpy(np.zeros(0, dtype)).dtype)

    def transpose(self, x: fx.Node, axes: Sequence[int]) -> fx.Node:
        return self._call(aten.permute.default, x, list(axes))

    def gather(self, x: fx.Node, indices: fx.Node, axis: int) -> fx.Node:
        return self._call(aten.index.Tensor, x, [*[None] * axis, indices])

    def shape(self, x: fx.Node) -> fx.Node:
        return self._call(_stack_shape, x)

    def arange(self, count: fx.Node) -> fx.Node:
        return self._call(_arange, count)

    def elementwise(self, operator: Elementwise | Comparison, *values: fx.Node) -> fx.Node:
        return self._call(OPERATORS[operator], *values)

    def where(self, condition: fx.Node, x: fx.Node, y: fx.Node) -> fx.Node:
        return self._call(aten.where.self, condition, x, y)

    def sum(self, x: fx.Node, axis: int) -> fx.Node:
        return self._call(aten.sum.dim_IntList, x, [axis], True)

    def matmul(self, x: fx.Node, y: fx.Node) -> fx.Node:
        return self._call(aten.matmul.default, x, y)

    def slice(self, x: fx.Node, start: fx.Node, stop: fx.Node, axis: int) -> fx.Node:
        return self._call(_slice, x, start, stop, axis)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> fx.Node:
        return self.graph.call_function(function, arguments)

    def _add_tensor(self, value: Tensor) -> fx.Node:
        """Add a weight or constant of the network."""
        name, self.count = f"tensor_{self.count}", self.count + 1
        self.root.register_buffer(name, value.detach().contiguous())
        return self.graph.get_attr(name)


def _stack_shape(x: Tensor) -> Tensor:
    return torch.stack([torch.scalar_tensor(length, dtype=torch.int64) for length in x.shape])


def _arange(count: Tensor) -> Tensor:
    return torch.arange(_to_length(count))


def _slice(x: Tensor, start: Tensor, stop: Tensor, axis: int) -> Tensor:
    """Cut [start, stop) out of an axis; ``torch.export`` must be told that this lies within the axis."""
    first, length = _to_length(start), _to_length(stop - start)
    torch._check(first + length <= x.shape[axis])
    return torch.narrow(x, axis, first, length)


def _to_length(value: Tensor) -> int:
    length = cast(int, value.item())  # while torch.export traces it, a symbol
    torch._check(length >= 0)
    return length
