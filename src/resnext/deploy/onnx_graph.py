"""Convert a folded network to an ONNX model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from torch import Tensor, nn

from resnext.deploy.fold import FoldedNetwork
from resnext.deploy.graph import build_graph, to_pair
from resnext.deploy.graph_builder import SLICE_END, Comparison, Elementwise
from resnext.deploy.graph_interface import DEFAULT_INTERFACE, INPUT_NAME, GraphInterface
from resnext.deploy.preprocess_graph import add_preprocessing
from resnext.model.layers import PadShortcut

OPSET, IR_VERSION = 18, 8  # old enough for every supported release of ONNX Runtime
OUTPUT_AXES = {"logits": 1, "probabilities": 1, "cam": 3}  # number of axes after that of the batch


def build_onnx_model(folded: FoldedNetwork, interface: GraphInterface = DEFAULT_INTERFACE) -> bytes:
    """Build an ONNX model with the input ``images`` and the outputs of ``interface``.

    Raises RequestError if the interface does not fit the network.
    """
    import onnx
    from onnx import helper

    interface.check_channels(folded.architecture.in_channels, folded.architecture.name)
    graph = OnnxGraph()
    values = build_graph(folded, INPUT_NAME, graph, interface)
    for name, value in values.items():
        graph.add_node("Identity", [value], name)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(interface.dtype))
    given = helper.make_tensor_value_info(INPUT_NAME, kind, interface.get_shape(folded.architecture.in_channels))
    batch = "B" if interface.batch is None else interface.batch
    outputs = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [batch, *[None] * OUTPUT_AXES[name]])
        for name in values
    ]
    used = {name for node in graph.nodes for name in node.input}
    constants = [constant for constant in graph.constants if constant.name in used]  # ONNX Runtime warns of others
    made = helper.make_graph(graph.nodes, folded.architecture.name, [given], outputs, constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    made_bytes: bytes = model.SerializeToString()
    return made_bytes


def replace_onnx_input(model: Any, interface: GraphInterface) -> Any:
    """Return a copy of an onnx.ModelProto of normalised images, such as a quantised one, that takes another input.

    As ``openvino_graph.replace_input``.
    """
    from onnx import compose, helper

    copy = type(model).FromString(model.SerializeToString())
    p = interface.preprocessing
    if interface.input == "normalised" or p is None:
        return copy
    graph = OnnxGraph()
    values = add_preprocessing(INPUT_NAME, interface, graph)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(np.uint8))
    given = helper.make_tensor_value_info(INPUT_NAME, kind, interface.get_shape(p.channels))
    used = {name for node in graph.nodes for name in node.input}
    constants = [constant for constant in graph.constants if constant.name in used]
    made = helper.make_graph(graph.nodes, "preprocessing", [given], [helper.make_empty_tensor_value_info(values)])
    made.initializer.extend(constants)
    for node in made.node:
        node.name = node.output[0]
    prefix = "preprocessing_"
    compose.add_prefix_graph(made, prefix, rename_inputs=False, inplace=True)
    for node in copy.graph.node:
        node.input[:] = [prefix + values if name == INPUT_NAME else name for name in node.input]
    nodes, given = [*made.node, *copy.graph.node], made.input
    del copy.graph.node[:], copy.graph.input[:], copy.graph.value_info[:]
    copy.graph.node.extend(nodes)
    copy.graph.input.extend(given)
    copy.graph.initializer.extend(made.initializer)
    return copy


OPERATORS = {
    "add": "Add",
    "subtract": "Sub",
    "multiply": "Mul",
    "divide": "Div",
    "reciprocal": "Reciprocal",
    "maximum": "Max",
    "minimum": "Min",
    "absolute": "Abs",
    "floor": "Floor",
    "less": "Less",
    "less_equal": "LessOrEqual",
    "equal": "Equal",
}


class OnnxGraph:
    """A ``GraphBuilder`` (which documents the methods) whose values are the names of ONNX nodes' outputs."""

    real = np.float64

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def conv(self, x: str, conv: nn.Conv2d) -> str:
        padding = [*to_pair(conv.padding), *to_pair(conv.padding)]
        constants = [self._add_constant(value) for value in (conv.weight, conv.bias) if value is not None]
        return self.add_node(
            "Conv",
            [x, *constants],
            strides=to_pair(conv.stride),
            pads=padding,
            dilations=to_pair(conv.dilation),
            group=conv.groups,
        )

    def add(self, x: str, y: str) -> str:
        return self.add_node("Add", [x, y])

    def relu(self, x: str) -> str:
        return self.add_node("Relu", [x])

    def scale(self, x: str, scale: Tensor, shift: Tensor) -> str:
        return self.add(self.add_node("Mul", [x, self._add_constant(scale)]), self._add_constant(shift))

    def max_pool(self, x: str, pool: nn.MaxPool2d) -> str:
        padding = [*to_pair(pool.padding), *to_pair(pool.padding)]
        kernel, stride, dilation = to_pair(pool.kernel_size), to_pair(pool.stride), to_pair(pool.dilation)
        return self.add_node("MaxPool", [x], kernel_shape=kernel, strides=stride, pads=padding, dilations=dilation)

    def pad_shortcut(self, x: str, shortcut: PadShortcut) -> str:
        begin, end, axes, step = [0, 0], [SLICE_END, SLICE_END], [2, 3], to_pair(shortcut.stride)
        x = self.add_node("Slice", [x, *map(self._add_integers, (begin, end, axes, step))])
        return self.add_node("Pad", [x, self._add_integers([0, 0, 0, 0, 0, shortcut.extra_channels, 0, 0])])

    def mean(self, x: str) -> str:
        return self.add_node("ReduceMean", [x, self._add_integers([2, 3])], keepdims=0)

    def linear(self, x: str, linear: nn.Linear) -> str:
        return self.add_node("Gemm", [x, self._add_constant(linear.weight), self._add_constant(linear.bias)], transB=1)

    def softmax(self, x: str) -> str:
        return self.add_node("Softmax", [x], axis=-1)

    def constant(self, value: np.ndarray) -> str:
        from onnx import numpy_helper

        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def cast(self, x: str, dtype: DTypeLike) -> str:
        from onnx import helper

        return self.add_node("Cast", [x], to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def transpose(self, x: str, axes: Sequence[int]) -> str:
        return self.add_node("Transpose", [x], perm=list(axes))

    def gather(self, x: str, indices: str, axis: int) -> str:
        return self.add_node("Gather", [x, indices], axis=axis)

    def shape(self, x: str) -> str:
        return self.add_node("Shape", [x])

    def arange(self, count: str) -> str:
        return self.add_node("Range", [self.constant(np.array(0)), count, self.constant(np.array(1))])

    def elementwise(self, operator: Elementwise | Comparison, *values: str) -> str:
        return self.add_node(OPERATORS[operator], list(values))

    def where(self, condition: str, x: str, y: str) -> str:
        return self.add_node("Where", [condition, x, y])

    def sum(self, x: str, axis: int) -> str:
        return self.add_node("ReduceSum", [x, self._add_integers([axis])], keepdims=1)

    def matmul(self, x: str, y: str) -> str:
        return self.add_node("MatMul", [x, y])

    def slice(self, x: str, start: str, stop: str, axis: int) -> str:
        one = self._add_integers([1])
        start, stop = (self.add_node("Reshape", [value, one]) for value in (start, stop))
        return self.add_node("Slice", [x, start, stop, self._add_integers([axis])])

    def add_node(self, kind: str, inputs: list[str], name: str | None = None, **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        from onnx import helper

        name = name or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def _add_constant(self, value: Tensor) -> str:
        return self.constant(value.detach().contiguous().numpy())

    def _add_integers(self, values: list[int]) -> str:
        return self.constant(np.array(values, np.int64))
