"""Read single layers of a Torch7 module tree. An error names the module by its path and says what is unexpected.

Only the classes below are supported; several class names may stand for the same kind of layer.
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
DEEPEST = 24  # modules within modules; the released files have 8
MOST_MODULES = 600_000  # more than any network that can be built: 65,536 paths of seven modules
LARGEST = 1_000_000  # largest value of a whole-number field


@dataclass(slots=True)
class Tree:
    """The file of a module tree, and how many more modules may be visited."""

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
                f"{self.tree.file}: {self.path} has the unsupported class {short!r}{nearest(name[:60], KINDS)}"
            )
        object.__setattr__(self, "kind", KINDS[name])

    @property
    def path(self) -> str:
        """The path from the root, such as ``modules[6].modules[1]``."""
        parts: list[str] = []
        node: Node | None = self
        while node is not None and node.parent is not None:
            parts.append(f"modules[{node.place}]")
            node = node.parent
        return ".".join(reversed(parts)) or "its outermost module"

    def refuse(self, sentence: str) -> RequestError:
        """Make an error whose message is the file, the path of this module, and ``sentence``."""
        return RequestError(f"{self.tree.file}: {self.path} ({self.module.class_name}) {sentence}")

    def children(self) -> "list[Node]":
        """List the child modules in order."""
        modules = self.module.fields.get("modules")
        if not isinstance(modules, dict):
            raise self.refuse("has no table of modules")
        ancestor = self.parent
        while ancestor is not None:
            if ancestor.module is self.module:
                raise self.refuse(f"is the same module as {ancestor.path}, so it contains itself")
            ancestor = ancestor.parent
        if self.depth >= DEEPEST:
            raise self.refuse(f"is nested {DEEPEST} modules deep, which is not supported")
        self.tree.left -= len(modules) + 1
        if self.tree.left < 0:
            raise RequestError(f"{self.tree.file}: its module tree has more than {MOST_MODULES:,} modules")
        nodes = []
        for place in range(1, len(modules) + 1):
            module = modules.get(place)
            if not isinstance(module, T7Object):
                found = "missing" if module is None else f"a {type(module).__name__}"
                raise self.refuse(f"should have a module as its modules[{place}], which is {found}")
            nodes.append(Node(self.tree, module, self, place, self.depth + 1))
        return nodes

    def number(self, name: str, default: float | None = None) -> float:
        """Read a number from a field."""
        value = self.module.fields.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            found = "missing" if value is None else f"a {type(value).__name__}"  # not its repr, which may be endless
            raise self.refuse(f"needs {name} as a number, which is {found}")
        return value

    def whole(self, name: str, default: int | None = None) -> int:
        """Read a whole number from 0 to a million from a field."""
        value = self.number(name, default)
        if not 0 <= value <= LARGEST or value % 1:
            raise self.refuse(f"needs {name} as a whole number from 0 to {LARGEST:,}, not {value}")
        return int(value)

    def tensor(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Read a tensor of floats of exactly this shape from a field."""
        value = self.module.fields.get(name)
        if not isinstance(value, np.ndarray):
            raise self.refuse(f"has no tensor {name}")
        if value.shape != shape:
            raise self.refuse(f"has {name} of shape {_short(value.shape)}, not {_short(shape)}")
        if value.dtype.kind != "f":
            raise self.refuse(f"has {name} of {value.dtype.name} numbers, not of floats")
        return value

    def optional(self, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """Read a tensor as ``read_tensor`` does; None if the field is missing."""
        return self.tensor(name, shape) if name in self.module.fields else None


def layers(node: Node) -> Iterator[Node]:
    """Iterate over the layers of ``node`` in the order they compute: sequences are flattened, identities skipped."""
    if node.kind == SEQUENCE:
        for child in node.children():
            yield from layers(child)  # no deeper than DEEPEST
    elif node.kind == PARALLEL:
        children = node.children()
        if not children:
            raise node.refuse("holds no network")
        yield from layers(children[0])  # the others are copies on other GPUs
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
        """Shape of the weight: (out, in of a group, kernel, kernel)."""
        return (self.out_channels, self.in_channels // self.groups, self.kernel, self.kernel)


@dataclass(frozen=True, eq=False)
class Norm:
    """A batch norm; its tensors have one number per channel."""

    node: Node
    eps: float
    mean: np.ndarray
    spread: np.ndarray  # the variance, or in old files 1 / sqrt(variance + eps)
    inverted: bool
    weight: np.ndarray | None
    bias: np.ndarray | None


def convolution(node: Node) -> Convolution:
    """Read a convolution, and check that its fields and its weight agree."""
    kernel, stride = _square(node, "kernel", "kW", "kH"), _square(node, "stride", "dW", "dH", 1)
    pad = node.whole("padding") if "padding" in node.module.fields else _square(node, "padding", "padW", "padH", 0)
    inputs, outputs, groups = node.whole("nInputPlane"), node.whole("nOutputPlane"), node.whole("groups", 1)
    if kernel not in (1, 3, 7) or pad != kernel // 2:
        raise node.refuse(
            f"has a kernel of {kernel} with a padding of {pad}; supported are 1 with 0, 3 with 1 and 7 with 3"
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
    """Read a batch norm; before version 2 it may have running_std (1 / std) instead of running_var."""
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
    """Check that a threshold layer is a ReLU, with threshold and value 0."""
    for name in ("threshold", "val"):
        if node.number(name, 0):
            raise node.refuse(f"has {name} {node.number(name)}, so it is not a ReLU")


def pool_window(node: Node) -> int:
    """Read the side of an average pool's square window, and check that it has no padding."""
    window = _square(node, "window", "kW", "kH")
    if window < 1 or _square(node, "padding", "padW", "padH", 0) or node.module.fields.get("divide") is False:
        raise node.refuse("should average windows without padding")
    return window


def check_max_pool(node: Node) -> None:
    """Check that this is the stem's max pool: 3x3, stride 2, padding 1."""
    found = tuple(_square(node, w, f"{w}W", f"{w}H", 0) for w in ("k", "d", "pad"))
    if found != (3, 2, 1) or node.module.fields.get("ceil_mode") is True:
        raise node.refuse("should be the stem's max pool: 3x3, stride 2, padding 1, rounding down")


def check_flattening(node: Node, channels: int) -> None:
    """Check that each image is flattened to a vector of ``channels``."""
    size = node.module.fields.get("size")
    if not isinstance(size, np.ndarray) or size.dtype.kind != "i" or size.ndim != 1 or size.size > 8:
        raise node.refuse("has no valid list of sizes")
    numbers = size.tolist()
    if math.prod(n for n in numbers if n != -1) not in (channels, 1 if -1 in numbers else channels):
        raise node.refuse(f"flattens to {numbers}, but its input has {channels} channels")


def _square(node: Node, what: str, across: str, down: str, default: int | None = None) -> int:
    """Read width and height from two fields, and check that they are equal."""
    width, height = node.whole(across, default), node.whole(down, default)
    if width != height:
        raise node.refuse(f"has a {what} of {width}x{height}, which is not square")
    return width


def _short(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape[:8])) or "()"
