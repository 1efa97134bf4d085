"""The layers of a Torch7 module tree, each checked against its own fields: one sentence names what is odd and where.

Structure drives everything: a class name says only what kind of layer it is, and only the classes below are known.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from resnext.errors import RequestError, nearest
from resnext.weights.torch7 import T7Object

CONVOLUTION, NORM, RELU, LINEAR = "convolution", "batch norm", "ReLU", "linear layer"
SEQUENCE, TABLE, SUM, JOIN, CONCAT = (
    "sequence",
    "table of branches",
    "sum of branches",
    "join of paths",
    "concatenation",
)
MAX_POOL, AVERAGE_POOL, GLOBAL_POOL, FLATTEN = "max pool", "average pool", "average over the map", "flattening"
IDENTITY, MULTIPLY, LOGARITHM, PARALLEL = "identity", "product with a constant", "softmax", "data-parallel wrapper"

KINDS: dict[str, str] = {
    "nn.SpatialConvolution": CONVOLUTION,
    "nn.SpatialConvolutionMM": CONVOLUTION,
    "cudnn.SpatialConvolution": CONVOLUTION,
    "nn.SpatialBatchNormalization": NORM,
    "cudnn.SpatialBatchNormalization": NORM,
    "fbnn.SpatialBatchNormalization": NORM,
    "nn.ReLU": RELU,
    "cudnn.ReLU": RELU,
    "nn.Threshold": RELU,
    "nn.Linear": LINEAR,
    "nn.Sequential": SEQUENCE,
    "nn.ConcatTable": TABLE,
    "nn.CAddTable": SUM,
    "nn.JoinTable": JOIN,
    "nn.Concat": CONCAT,
    "nn.SpatialMaxPooling": MAX_POOL,
    "cudnn.SpatialMaxPooling": MAX_POOL,
    "inn.SpatialMaxPooling": MAX_POOL,
    "nn.SpatialAveragePooling": AVERAGE_POOL,
    "cudnn.SpatialAveragePooling": AVERAGE_POOL,
    "inn.SpatialAveragePooling": AVERAGE_POOL,
    "nn.SpatialAdaptiveAveragePooling": GLOBAL_POOL,
    "nn.View": FLATTEN,
    "nn.Reshape": FLATTEN,
    "nn.Identity": IDENTITY,
    "nn.Copy": IDENTITY,
    "nn.MulConstant": MULTIPLY,
    "nn.LogSoftMax": LOGARITHM,
    "nn.SoftMax": LOGARITHM,
    "cudnn.LogSoftMax": LOGARITHM,
    "cudnn.SoftMax": LOGARITHM,
    "nn.DataParallelTable": PARALLEL,
}
DEEPEST = 24  # modules within modules; the release has 8
MOST_MODULES = 600_000  # 65,536 paths of seven, and more than any network that can be built
LARGEST = 1_000_000  # of any count


@dataclass(slots=True)
class Tree:
    """The file a tree comes from, and how many more of its modules may be looked at."""

    file: Path
    left: int = MOST_MODULES


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """A module and its place in the tree."""

    tree: Tree
    module: T7Object
    parent: "Node | None" = None
    place: int = 0  # among the parent's modules
    depth: int = 0
    kind: str = field(init=False)

    def __post_init__(self) -> None:
        name = self.module.class_name
        if name not in KINDS:
            short = name if len(name) <= 60 else name[:60] + "..."
            raise RequestError(
                f"{self.tree.file}: {self.path} is of the class {short!r}, which no network of the release has"
                f"{nearest(name[:60], KINDS)}"
            )
        object.__setattr__(self, "kind", KINDS[name])

    @property
    def path(self) -> str:
        """Such as ``modules[6].modules[1]``."""
        parts: list[str] = []
        node: Node | None = self
        while node is not None and node.parent is not None:
            parts.append(f"modules[{node.place}]")
            node = node.parent
        return ".".join(reversed(parts)) or "its outermost module"

    def refuse(self, sentence: str) -> RequestError:
        """The error that this module ``sentence``."""
        return RequestError(f"{self.tree.file}: {self.path} ({self.module.class_name}) {sentence}")

    def children(self) -> "list[Node]":
        """The modules this one is made of, in order."""
        modules = self.module.fields.get("modules")
        if not isinstance(modules, dict):
            raise self.refuse("has no table of modules")
        ancestor = self.parent
        while ancestor is not None:
            if ancestor.module is self.module:
                raise self.refuse(f"is {ancestor.path} again, so it contains itself")
            ancestor = ancestor.parent
        if self.depth >= DEEPEST:
            raise self.refuse(f"lies {DEEPEST} modules deep; no network of the release is so deep")
        self.tree.left -= len(modules) + 1
        if self.tree.left < 0:
            raise RequestError(f"{self.tree.file}: its modules hold each other more than {MOST_MODULES:,} times")
        nodes = []
        for place in range(1, len(modules) + 1):
            module = modules.get(place)
            if not isinstance(module, T7Object):
                found = "missing" if module is None else f"a {type(module).__name__}"
                raise self.refuse(f"should have a module as its modules[{place}], which is {found}")
            nodes.append(Node(self.tree, module, self, place, self.depth + 1))
        return nodes

    def number(self, name: str, default: float | None = None) -> float:
        """A number among the fields."""
        value = self.module.fields.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            found = "missing" if value is None else f"a {type(value).__name__}"  # not its repr, which may have no end
            raise self.refuse(f"needs {name} as a number, which is {found}")
        return value

    def whole(self, name: str, default: int | None = None) -> int:
        """A whole number from 0 to a million among the fields."""
        value = self.number(name, default)
        if not 0 <= value <= LARGEST or value % 1:
            raise self.refuse(f"needs {name} as a whole number from 0 to {LARGEST:,}, not {value}")
        return int(value)

    def tensor(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A floating tensor of this very shape among the fields."""
        value = self.module.fields.get(name)
        if not isinstance(value, np.ndarray):
            raise self.refuse(f"has no tensor {name}")
        if value.shape != shape:
            raise self.refuse(f"has {name} of shape {_short(value.shape)}, not {_short(shape)}")
        if value.dtype.kind != "f":
            raise self.refuse(f"has {name} of {value.dtype.name} numbers, not of floats")
        return value

    def optional(self, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """Such a tensor, or None where the field is absent."""
        return self.tensor(name, shape) if name in self.module.fields else None


def layers(node: Node) -> Iterator[Node]:
    """The layers of ``node`` in the order they compute: sequences opened, identities and wrappers left out."""
    if node.kind == SEQUENCE:
        for child in node.children():
            yield from layers(child)  # no deeper than DEEPEST
    elif node.kind == PARALLEL:
        children = node.children()
        if not children:
            raise node.refuse("holds no network")
        yield from layers(children[0])  # copies of it went to the other GPUs
    elif node.kind != IDENTITY:
        yield node


@dataclass(frozen=True, eq=False)
class Convolution:
    """A square convolution whose padding is half its kernel."""

    node: Node
    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    groups: int
    weight: np.ndarray  # 4-d, or 2-d as nn.SpatialConvolutionMM keeps it
    bias: np.ndarray | None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the weight: (out, in of a group, kernel, kernel)."""
        return (self.out_channels, self.in_channels // self.groups, self.kernel, self.kernel)


@dataclass(frozen=True, eq=False)
class Norm:
    """A batch norm: its tensors have one number a channel."""

    node: Node
    eps: float
    mean: np.ndarray
    spread: np.ndarray  # the variance, or of old files 1 / sqrt(variance + eps)
    inverted: bool
    weight: np.ndarray | None
    bias: np.ndarray | None


def convolution(node: Node) -> Convolution:
    """The convolution ``node`` is. Raises RequestError where its fields and its weight disagree."""
    kernel, stride = _square(node, "kernel", "kW", "kH"), _square(node, "stride", "dW", "dH", 1)
    pad = node.whole("padding") if "padding" in node.module.fields else _square(node, "padding", "padW", "padH", 0)
    inputs, outputs, groups = node.whole("nInputPlane"), node.whole("nOutputPlane"), node.whole("groups", 1)
    if kernel not in (1, 3, 7) or pad != kernel // 2:
        raise node.refuse(
            f"has a kernel of {kernel} with a padding of {pad}; the release has 1 with 0, 3 with 1 and 7 with 3"
        )
    if not 1 <= stride <= 2:
        raise node.refuse(f"has a stride of {stride}, not 1 or 2")
    if not (groups and inputs and outputs) or inputs % groups or outputs % groups:
        raise node.refuse(f"cannot have {groups} groups of its {inputs} input and {outputs} output channels")
    shape: tuple[int, ...] = (outputs, inputs // groups, kernel, kernel)
    flat = (outputs, inputs // groups * kernel * kernel)
    weight = node.module.fields.get("weight")
    is_flat = isinstance(weight, np.ndarray) and weight.shape == flat
    weight = node.tensor("weight", flat if is_flat else shape)
    return Convolution(node, inputs, outputs, kernel, stride, groups, weight, node.optional("bias", (outputs,)))


def norm(node: Node, channels: int) -> Norm:
    """The batch norm ``node`` of so many channels; before version 2 it may keep running_std in place of running_var."""
    fields, shape = node.module.fields, (channels,)
    inverted = node.module.version < 2 and "running_std" in fields
    mean, spread = node.tensor("running_mean", shape), node.tensor("running_std" if inverted else "running_var", shape)
    weight, bias = node.optional("weight", shape), node.optional("bias", shape)
    if (weight is None) != (bias is None) or (weight is None and fields.get("affine") is True):
        raise node.refuse("needs both weight and bias, or neither and affine = false")
    eps = node.number("eps")
    if not 0 < eps <= 1:
        raise node.refuse(f"needs eps as a number above 0 and at most 1, not {eps}")
    return Norm(node, eps, mean, spread, inverted, weight, bias)


def check_relu(node: Node) -> None:
    """Raises RequestError where a threshold other than 0 makes it no ReLU."""
    for name in ("threshold", "val"):
        if node.number(name, 0):
            raise node.refuse(f"has {name} {node.number(name)}, which is no ReLU")


def pool_window(node: Node) -> int:
    """The side of the square the average pool ``node`` takes, with no padding."""
    window = _square(node, "window", "kW", "kH")
    if window < 1 or _square(node, "padding", "padW", "padH", 0) or node.module.fields.get("divide") is False:
        raise node.refuse("should average windows without padding")
    return window


def check_max_pool(node: Node) -> None:
    """Raises RequestError unless it is the stem's: 3x3, stride 2, padding 1."""
    found = tuple(_square(node, w, f"{w}W", f"{w}H", 0) for w in ("k", "d", "pad"))
    if found != (3, 2, 1) or node.module.fields.get("ceil_mode") is True:
        raise node.refuse("should be the stem's max pool: 3x3, stride 2, padding 1, rounding down")


def check_flattening(node: Node, channels: int) -> None:
    """Raises RequestError unless it makes a vector of ``channels`` of each picture."""
    size = node.module.fields.get("size")
    if not isinstance(size, np.ndarray) or size.dtype.kind != "i" or size.ndim != 1 or size.size > 8:
        raise node.refuse("has no list of sizes")
    numbers = size.tolist()
    if math.prod(n for n in numbers if n != -1) not in (channels, 1 if -1 in numbers else channels):
        raise node.refuse(f"flattens to {numbers}, but {channels} channels come in")


def _square(node: Node, what: str, across: str, down: str, default: int | None = None) -> int:
    """The one number that two fields agree on."""
    width, height = node.whole(across, default), node.whole(down, default)
    if width != height:
        raise node.refuse(f"has a {what} of {width}x{height}, which is not square")
    return width


def _short(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape[:8])) or "()"
