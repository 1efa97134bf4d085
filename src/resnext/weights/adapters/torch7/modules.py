"""Read single layers of a Torch7 module tree. An error names the module by its path and says what is unexpected."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from resnext.errors import RequestError, did_you_mean
from resnext.weights.readers.torch7 import T7Object

CONVOLUTION, NORM, RELU, LINEAR = "convolution", "batch norm", "ReLU", "linear layer"
SEQUENCE, BRANCHES, SUM, JOIN = "sequence", "table of branches", "sum of branches", "join of paths"
MAX_POOL, AVERAGE_POOL, GLOBAL_POOL, FLATTEN = "max pool", "average pool", "average over the map", "flattening"
IDENTITY, SCALE, SOFTMAX, PARALLEL = "identity", "product with a constant", "softmax", "data-parallel wrapper"
CONCAT = "concatenation"

CLASSES_BY_KIND = {
    CONVOLUTION: "nn.SpatialConvolution nn.SpatialConvolutionMM cudnn.SpatialConvolution",
    NORM: "nn.SpatialBatchNormalization cudnn.SpatialBatchNormalization fbnn.SpatialBatchNormalization",
    RELU: "nn.ReLU cudnn.ReLU nn.Threshold",
    LINEAR: "nn.Linear",
    SEQUENCE: "nn.Sequential",
    BRANCHES: "nn.ConcatTable",
    SUM: "nn.CAddTable",
    JOIN: "nn.JoinTable",
    CONCAT: "nn.Concat",
    MAX_POOL: "nn.SpatialMaxPooling cudnn.SpatialMaxPooling inn.SpatialMaxPooling",
    AVERAGE_POOL: "nn.SpatialAveragePooling cudnn.SpatialAveragePooling inn.SpatialAveragePooling",
    GLOBAL_POOL: "nn.SpatialAdaptiveAveragePooling",
    FLATTEN: "nn.View nn.Reshape",
    IDENTITY: "nn.Identity nn.Copy",
    SCALE: "nn.MulConstant",
    SOFTMAX: "nn.LogSoftMax nn.SoftMax cudnn.LogSoftMax cudnn.SoftMax",
    PARALLEL: "nn.DataParallelTable",
}
LAYER_KINDS = {name: kind for kind, names in CLASSES_BY_KIND.items() for name in names.split()}
MAX_DEPTH = 24  # modules within modules; the released files have 8
MAX_MODULES = 600_000  # more than any network that can be built: 65,536 paths of seven modules
MAX_FIELD_VALUE = 1_000_000  # largest value of a whole-number field


@dataclass(slots=True)
class ModuleTree:
    """The file of a module tree, and how many more modules may be visited."""

    file: Path
    modules_left: int = MAX_MODULES


@dataclass(frozen=True, eq=False, slots=True)
class ModuleNode:
    """A module and its place in the tree."""

    tree: ModuleTree
    module: T7Object
    parent: "ModuleNode | None" = None
    place: int = 0  # among the parent's modules
    depth: int = 0
    kind: str = field(init=False)

    def __post_init__(self) -> None:
        name = self.module.class_name
        if name not in LAYER_KINDS:
            short = name if len(name) <= 60 else name[:60] + "..."
            hint = did_you_mean(name[:60], LAYER_KINDS)
            raise RequestError(f"{self.tree.file}: {self.path} has the unsupported class {short!r}{hint}")
        object.__setattr__(self, "kind", LAYER_KINDS[name])

    @property
    def path(self) -> str:
        """The path from the root, such as ``modules[6].modules[1]``."""
        parts: list[str] = []
        node: ModuleNode | None = self
        while node is not None and node.parent is not None:
            parts.append(f"modules[{node.place}]")
            node = node.parent
        return ".".join(reversed(parts)) or "its outermost module"

    def make_error(self, sentence: str) -> RequestError:
        """Make an error whose message is the file, the path of this module, and ``sentence``."""
        return RequestError(f"{self.tree.file}: {self.path} ({self.module.class_name}) {sentence}")

    def list_children(self) -> "list[ModuleNode]":
        """List the child modules in order."""
        modules = self.module.fields.get("modules")
        if not isinstance(modules, dict):
            raise self.make_error("has no table of modules")
        ancestor = self.parent
        while ancestor is not None:
            if ancestor.module is self.module:
                raise self.make_error(f"is the same module as {ancestor.path}, so it contains itself")
            ancestor = ancestor.parent
        if self.depth >= MAX_DEPTH:
            raise self.make_error(f"is nested {MAX_DEPTH} modules deep, which is not supported")
        self.tree.modules_left -= len(modules) + 1
        if self.tree.modules_left < 0:
            raise RequestError(f"{self.tree.file}: its module tree has more than {MAX_MODULES:,} modules")
        nodes = []
        for place in range(1, len(modules) + 1):
            module = modules.get(place)
            if not isinstance(module, T7Object):
                found = "missing" if module is None else f"a {type(module).__name__}"
                raise self.make_error(f"should have a module as its modules[{place}], which is {found}")
            nodes.append(ModuleNode(self.tree, module, self, place, self.depth + 1))
        return nodes

    def read_number(self, name: str, default: float | None = None) -> float:
        """Read a number from a field."""
        value = self.module.fields.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            found = "missing" if value is None else f"a {type(value).__name__}"  # not its repr, which may be endless
            raise self.make_error(f"needs {name} as a number, which is {found}")
        return value

    def read_integer(self, name: str, default: int | None = None) -> int:
        """Read a whole number from 0 to a million from a field."""
        value = self.read_number(name, default)
        if not 0 <= value <= MAX_FIELD_VALUE or value % 1:
            raise self.make_error(f"needs {name} as a whole number from 0 to {MAX_FIELD_VALUE:,}, not {value}")
        return int(value)

    def read_tensor(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Read a tensor of floats of exactly this shape from a field."""
        value = self.module.fields.get(name)
        if not isinstance(value, np.ndarray):
            raise self.make_error(f"has no tensor {name}")
        if value.shape != shape:
            raise self.make_error(f"has {name} of shape {_format_shape(value.shape)}, not {_format_shape(shape)}")
        if value.dtype.kind != "f":
            raise self.make_error(f"has {name} of {value.dtype.name} numbers, not of floats")
        return value

    def read_optional_tensor(self, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """Read a tensor as ``read_tensor`` does; None if the field is missing."""
        return self.read_tensor(name, shape) if name in self.module.fields else None


def iter_layers(node: ModuleNode) -> Iterator[ModuleNode]:
    """Iterate over the layers of ``node`` in the order they compute: sequences are flattened, identities skipped."""
    if node.kind == SEQUENCE:
        for child in node.list_children():
            yield from iter_layers(child)  # no deeper than MAX_DEPTH
    elif node.kind == PARALLEL:
        children = node.list_children()
        if not children:
            raise node.make_error("holds no network")
        yield from iter_layers(children[0])  # the others are copies on other GPUs
    elif node.kind != IDENTITY:
        yield node


@dataclass(frozen=True, eq=False)
class Convolution:
    """A square convolution whose padding is half its kernel."""

    node: ModuleNode
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

    node: ModuleNode
    eps: float
    mean: np.ndarray
    variance_or_inverse_std: np.ndarray  # the variance, or in old files 1 / sqrt(variance + eps)
    has_inverse_std: bool
    weight: np.ndarray | None
    bias: np.ndarray | None


def read_convolution(node: ModuleNode) -> Convolution:
    """Read a convolution, and check that its fields and its weight agree."""
    kernel, stride = _read_square(node, "kernel", "kW", "kH"), _read_square(node, "stride", "dW", "dH", 1)
    has_one = "padding" in node.module.fields
    pad = node.read_integer("padding") if has_one else _read_square(node, "padding", "padW", "padH", 0)
    inputs, outputs = node.read_integer("nInputPlane"), node.read_integer("nOutputPlane")
    groups = node.read_integer("groups", 1)
    if kernel not in (1, 3, 7) or pad != kernel // 2:
        found = f"a kernel of {kernel} with a padding of {pad}"
        raise node.make_error(f"has {found}; supported are 1 with 0, 3 with 1 and 7 with 3")
    if not 1 <= stride <= 2:
        raise node.make_error(f"has a stride of {stride}, not 1 or 2")
    if not (groups and inputs and outputs) or inputs % groups or outputs % groups:
        raise node.make_error(f"cannot have {groups} groups of its {inputs} input and {outputs} output channels")
    shape: tuple[int, ...] = (outputs, inputs // groups, kernel, kernel)
    flat = (outputs, inputs // groups * kernel * kernel)
    weight = node.module.fields.get("weight")
    is_flat = isinstance(weight, np.ndarray) and weight.shape == flat
    weight = node.read_tensor("weight", flat if is_flat else shape)
    bias = node.read_optional_tensor("bias", (outputs,))
    return Convolution(node, inputs, outputs, kernel, stride, groups, weight, bias)


def read_norm(node: ModuleNode, channels: int) -> Norm:
    """Read a batch norm; before version 2 it may have running_std (1 / std) instead of running_var."""
    fields, shape = node.module.fields, (channels,)
    inverted = node.module.version < 2 and "running_std" in fields
    mean = node.read_tensor("running_mean", shape)
    spread = node.read_tensor("running_std" if inverted else "running_var", shape)
    weight, bias = node.read_optional_tensor("weight", shape), node.read_optional_tensor("bias", shape)
    if (weight is None) != (bias is None) or (weight is None and fields.get("affine") is True):
        raise node.make_error("needs both weight and bias, or neither and affine = false")
    eps = node.read_number("eps")
    if not 0 < eps <= 1:
        raise node.make_error(f"needs eps as a number above 0 and at most 1, not {eps}")
    return Norm(node, eps, mean, spread, inverted, weight, bias)


def check_relu(node: ModuleNode) -> None:
    """Check that a threshold layer is a ReLU, with threshold and value 0."""
    for name in ("threshold", "val"):
        if node.read_number(name, 0):
            raise node.make_error(f"has {name} {node.read_number(name)}, so it is not a ReLU")


def read_pool_window(node: ModuleNode) -> int:
    """Read the side of an average pool's square window, and check that it has no padding."""
    window = _read_square(node, "window", "kW", "kH")
    if window < 1 or _read_square(node, "padding", "padW", "padH", 0) or node.module.fields.get("divide") is False:
        raise node.make_error("should average windows without padding")
    return window


def check_max_pool(node: ModuleNode) -> None:
    """Check that this is the stem's max pool: 3x3, stride 2, padding 1."""
    found = tuple(_read_square(node, w, f"{w}W", f"{w}H", 0) for w in ("k", "d", "pad"))
    if found != (3, 2, 1) or node.module.fields.get("ceil_mode") is True:
        raise node.make_error("should be the stem's max pool: 3x3, stride 2, padding 1, rounding down")


def check_flattening(node: ModuleNode, channels: int) -> None:
    """Check that each image is flattened to a vector of ``channels``."""
    size = node.module.fields.get("size")
    if not isinstance(size, np.ndarray) or size.dtype.kind != "i" or size.ndim != 1 or size.size > 8:
        raise node.make_error("has no valid list of sizes")
    numbers = size.tolist()
    if math.prod(n for n in numbers if n != -1) not in (channels, 1 if -1 in numbers else channels):
        raise node.make_error(f"flattens to {numbers}, but its input has {channels} channels")


def _read_square(node: ModuleNode, what: str, across: str, down: str, default: int | None = None) -> int:
    """Read width and height from two fields, and check that they are equal."""
    width, height = node.read_integer(across, default), node.read_integer(down, default)
    if width != height:
        raise node.make_error(f"has a {what} of {width}x{height}, which is not square")
    return width


def _format_shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape[:8])) or "()"
