"""Convert a folded network to an openvino.Model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from torch import Tensor, nn

from resnext.deploy.fold import FoldedNetwork
from resnext.deploy.graph import build_graph, to_pair
from resnext.deploy.graph_builder import SLICE_END, Comparison, Elementwise
from resnext.deploy.graph_interface import DEFAULT_INTERFACE, INPUT_NAME, GraphInterface
from resnext.deploy.openvino_engine import import_openvino
from resnext.deploy.preprocess_graph import add_preprocessing
from resnext.model.layers import PadShortcut


def build_openvino_model(folded: FoldedNetwork, interface: GraphInterface = DEFAULT_INTERFACE) -> Any:
    """Build an openvino.Model with the input ``images`` and the outputs of ``interface``.

    Raises RequestError if the interface does not fit the network.
    """
    ov = import_openvino()
    interface.check_channels(folded.architecture.in_channels, folded.architecture.name)
    graph = OpenVinoGraph()
    images = _make_input(interface, folded.architecture.in_channels, graph)
    outputs = []
    for name, value in build_graph(folded, images, graph, interface).items():
        value.output(0).get_tensor().set_names({name})
        outputs.append(value)
    return ov.Model(outputs, [images], folded.architecture.name)


def replace_input(model: Any, interface: GraphInterface) -> Any:
    """Return a copy of an openvino.Model of normalised images, such as a quantised one, that takes another input.

    Quantise first and replace then: NNCF would quantise the resizing too. The copy takes images of the network's size
    only, ``interface.preprocessing.image_size``; its outputs stay. Raises RequestError if the channels do not fit.
    """
    p = interface.preprocessing
    assert p is not None
    copy = model.clone()
    (old,) = copy.get_parameters()
    channels = old.get_partial_shape()[1].get_length()
    interface.check_channels(channels, model.get_friendly_name())
    batch = 1 if interface.input == "picture" else interface.batch
    copy.reshape([-1 if batch is None else batch, channels, p.image_size, p.image_size])
    graph = OpenVinoGraph()
    images = _make_input(interface, channels, graph)
    old.output(0).replace(add_preprocessing(images, interface, graph).output(0))
    copy.remove_parameter(old)
    copy.add_parameters([images])
    copy.validate_nodes_and_infer_types()
    return copy


def _make_input(interface: GraphInterface, channels: int, graph: "OpenVinoGraph") -> Any:
    ov = import_openvino()
    shape = [size if isinstance(size, int) else -1 for size in interface.get_shape(channels)]
    images = graph.ops.parameter(ov.PartialShape(shape), interface.dtype, INPUT_NAME)
    images.output(0).get_tensor().set_names({INPUT_NAME})
    images.layout = ov.Layout(interface.layout)
    return images


class OpenVinoGraph:
    """A ``GraphBuilder`` (which documents the methods) whose values are OpenVINO nodes.

    The operators of preprocessing stay in float32 where the engine computes the network in bf16 (``keep_float32``).
    """

    real = np.float32  # the CPU plugin computes float64 in float32

    def __init__(self) -> None:
        from openvino import opset13

        self.ops: Any = opset13

    def conv(self, x: Any, conv: nn.Conv2d) -> Any:
        weight, groups = conv.weight, conv.groups
        places = [to_pair(value) for value in (conv.stride, conv.padding, conv.padding, conv.dilation)]
        if groups == 1:
            y = self.ops.convolution(x, self._make_constant(weight), *places)
        else:
            grouped = weight.unflatten(0, (groups, -1))
            y = self.ops.group_convolution(x, self._make_constant(grouped), *places)
        return y if conv.bias is None else self.ops.add(y, self._make_constant(conv.bias.view(1, -1, 1, 1)))

    def add(self, x: Any, y: Any) -> Any:
        return self.ops.add(x, y)

    def relu(self, x: Any) -> Any:
        return self.ops.relu(x)

    def scale(self, x: Any, scale: Tensor, shift: Tensor) -> Any:
        return self.ops.add(self.ops.multiply(x, self._make_constant(scale[None])), self._make_constant(shift[None]))

    def max_pool(self, x: Any, pool: nn.MaxPool2d) -> Any:
        padding = to_pair(pool.padding)
        kernel, stride, dilation = to_pair(pool.kernel_size), to_pair(pool.stride), to_pair(pool.dilation)
        return self.ops.max_pool(x, stride, dilation, padding, padding, kernel).output(0)

    def pad_shortcut(self, x: Any, shortcut: PadShortcut) -> Any:
        begin, end, step, axes = [0, 0], [SLICE_END, SLICE_END], to_pair(shortcut.stride), [2, 3]
        x = self.ops.slice(x, *map(np.array, (begin, end, step, axes)))
        return self.ops.pad(x, np.zeros(4, int), np.array([0, shortcut.extra_channels, 0, 0]), "constant", np.float32())

    def mean(self, x: Any) -> Any:
        return self.ops.reduce_mean(x, np.array([2, 3]), False)

    def linear(self, x: Any, linear: nn.Linear) -> Any:
        y = self.ops.matmul(x, self._make_constant(linear.weight), False, True)
        return self.ops.add(y, self._make_constant(linear.bias[None]))

    def softmax(self, x: Any) -> Any:
        return self.ops.softmax(x, -1)

    def constant(self, value: np.ndarray) -> Any:
        return self.ops.constant(value)

    def cast(self, x: Any, dtype: DTypeLike) -> Any:
        return keep_float32(self.ops.convert(x, np.dtype(dtype)))

    def transpose(self, x: Any, axes: Sequence[int]) -> Any:
        return self.ops.transpose(x, np.array(axes))

    def gather(self, x: Any, indices: Any, axis: int) -> Any:
        return self.ops.gather(x, indices, np.array(axis))

    def shape(self, x: Any) -> Any:
        return self.ops.shape_of(x)

    def arange(self, count: Any) -> Any:
        return self.ops.range(np.array(0), count, np.array(1), "i64")

    def elementwise(self, operator: Elementwise | Comparison, *values: Any) -> Any:
        if operator == "reciprocal":
            power = keep_float32(self.ops.power(*values, np.float32(-1)))  # alone, it would become a division again
            return keep_float32(self.ops.maximum(power, np.float32(0)))
        return keep_float32(getattr(self.ops, operator)(*values))

    def where(self, condition: Any, x: Any, y: Any) -> Any:
        return keep_float32(self.ops.select(condition, x, y))

    def sum(self, x: Any, axis: int) -> Any:
        return keep_float32(self.ops.reduce_sum(x, np.array([axis]), True))

    def matmul(self, x: Any, y: Any) -> Any:
        return keep_float32(self.ops.matmul(x, y, False, False))

    def slice(self, x: Any, start: Any, stop: Any, axis: int) -> Any:
        start, stop = (self.ops.unsqueeze(value, np.array(0)) for value in (start, stop))
        return self.ops.slice(x, start, stop, np.array([1]), np.array([axis]))

    def _make_constant(self, value: Tensor) -> Any:
        return self.ops.constant(value.detach().contiguous().numpy())


def keep_float32(node: Any) -> Any:
    """Mark a node as one that is not converted to bf16 or f16.

    The engine heeds the mark in a model that it reads from a file. OpenVINO writes it there as
    ``DisablePrecisionConversion``. Nodes that it rewrites lose it; ``test_resample_graph.py`` checks that none does.
    """
    node.get_rt_info()["precise_0"] = ""
    return node
