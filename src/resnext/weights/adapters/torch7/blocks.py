"""Read a residual block of the released Torch7 files (models/resnext.lua, and resnet.lua of fb.resnet.torch).

Sequential { ConcatTable { F, shortcut }, CAddTable, ReLU }

resnext_C, resnet   F = conv BN ReLU  conv BN ReLU  conv BN       the middle one grouped: Figure 3 (c)
resnext_B           F = ConcatTable of C { conv BN ReLU conv BN ReLU }, JoinTable, conv BN       Figure 3 (b)
basic               F = conv BN ReLU  conv BN
"""

from collections.abc import Iterable
from dataclasses import dataclass

from resnext.model.architecture import BlockType
from resnext.weights.adapters.torch7 import modules as m
from resnext.weights.adapters.torch7.modules import Convolution, ModuleNode, Norm


@dataclass(frozen=True, eq=False)
class ConvNorm:
    """A convolution and the batch norm after it."""

    convolution: Convolution
    norm: Norm


Paths = tuple[tuple[ConvNorm, ...], ...]  # C paths in form (b); one in form (c), where convolutions are grouped


@dataclass(frozen=True, eq=False)
class Torch7Block:
    """One residual block, checked on its own."""

    node: ModuleNode
    paths: Paths
    last: ConvNorm
    shortcut: "ConvNorm | str"  # a projection, "identity" or "pad"
    concatenated: bool
    cardinality: int
    width: int  # C*d
    in_channels: int
    out_channels: int
    stride: int
    stride_in_1x1: bool

    @property
    def kind(self) -> BlockType:
        """The block of the architecture: "bottleneck" or "basic"."""
        return "bottleneck" if len(self.paths[0]) == 2 else "basic"

    @property
    def changes_shape(self) -> bool:
        """Whether the shape of the output differs from that of the input."""
        return self.stride != 1 or self.in_channels != self.out_channels

    @property
    def conv_norms(self) -> list[ConvNorm]:
        """All convolutions of the block with their batch norms."""
        units = [unit for path in self.paths for unit in path] + [self.last]
        return [*units, self.shortcut] if isinstance(self.shortcut, ConvNorm) else units


class LayerCursor:
    """A cursor over the layers of one sequence; each ``take`` method reads the next layer."""

    def __init__(self, owner: ModuleNode, nodes: Iterable[ModuleNode]) -> None:
        self.owner, self.nodes, self.taken = owner, list(nodes), 0

    @staticmethod
    def from_node(node: ModuleNode) -> "LayerCursor":
        """Start at the first layer of ``node``."""
        return LayerCursor(node, m.iter_layers(node))

    def peek_kind(self) -> str:
        """Return the kind of the next layer; empty at the end."""
        return self.nodes[self.taken].kind if self.taken < len(self.nodes) else ""

    def take(self, *kinds: str, remark: str = "") -> ModuleNode:
        """Take the next layer, which must be of one of ``kinds``. Raises RequestError that names the layer if not."""
        expected = " or ".join(kinds)
        if self.taken == len(self.nodes):
            raise self.owner.make_error(f"ends where a {expected} was expected{remark}")
        node = self.nodes[self.taken]
        if node.kind not in kinds:
            raise node.make_error(f"is where a {expected} was expected{remark}")
        self.taken += 1
        return node

    def take_relu(self, remark: str = "") -> None:
        """Take the next layer, a ReLU."""
        m.check_relu(self.take(m.RELU, remark=remark))

    def take_conv_norm(self, in_channels: int | None = None) -> ConvNorm:
        """Take the next two layers: a convolution with ``in_channels`` input channels, and its batch norm."""
        convolution = m.read_convolution(self.take(m.CONVOLUTION))
        if in_channels not in (None, convolution.in_channels):
            raise convolution.node.make_error(
                f"has {convolution.in_channels} input channels, but its input has {in_channels}"
            )
        norm = self.take(m.NORM, remark=" (every convolution must be followed by a batch norm)")
        return ConvNorm(convolution, m.read_norm(norm, convolution.out_channels))

    def check_end(self) -> None:
        """Raise RequestError if there are more layers."""
        if self.taken < len(self.nodes):
            raise self.nodes[self.taken].make_error("is where no more layers were expected")


def take_block(network: LayerCursor, in_channels: int) -> Torch7Block:
    """Take the next block of the network. Raises RequestError that names the module that does not fit."""
    table = network.take(m.BRANCHES)
    network.take(m.SUM)
    network.take_relu(" (a BN after the sum, and pre-activation blocks as in preresnet.lua, are not supported)")
    children = table.list_children()
    if len(children) != 2:
        raise table.make_error(f"has {len(children)} branches; a residual block has two")
    first, second = (LayerCursor.from_node(child) for child in children)
    branch, way_round = (first, second) if len(first.nodes) >= len(second.nodes) else (second, first)
    concatenated = branch.peek_kind() == m.BRANCHES
    paths, last = (_take_concatenated_branch if concatenated else _take_grouped_branch)(branch, in_channels)
    out_channels = last.convolution.out_channels
    stride, in_1x1 = _get_strides(table, paths, last)
    return Torch7Block(
        node=table,
        paths=paths,
        last=last,
        shortcut=_take_shortcut(way_round, in_channels, out_channels, stride),
        concatenated=concatenated,
        cardinality=len(paths) if concatenated else paths[0][-1].convolution.groups,
        width=last.convolution.in_channels,
        in_channels=in_channels,
        out_channels=out_channels,
        stride=stride,
        stride_in_1x1=in_1x1,
    )


def _take_grouped_branch(branch: LayerCursor, in_channels: int) -> tuple[Paths, ConvNorm]:
    units = [branch.take_conv_norm(in_channels)]
    while branch.peek_kind() == m.RELU:
        branch.take_relu()
        units.append(branch.take_conv_norm(units[-1].convolution.out_channels))
    branch.check_end()
    if len(units) not in (2, 3):
        raise branch.owner.make_error(f"has {len(units)} convolutions; a basic block has 2, a bottleneck 3")
    *inner, last = units
    _check_kernels(units, grouped=len(units) == 3)
    return (tuple(inner),), last


def _take_concatenated_branch(branch: LayerCursor, in_channels: int) -> tuple[Paths, ConvNorm]:
    table = branch.take(m.BRANCHES)
    join = branch.take(m.JOIN)
    if (join.read_integer("dimension"), join.read_integer("nInputDims", 0)) not in ((2, 0), (2, 4), (1, 3)):
        raise join.make_error("should join the paths along their channels, dimension 2")
    paths = tuple(_take_path(LayerCursor.from_node(child), in_channels) for child in table.list_children())
    if not paths:
        raise table.make_error("has no paths")
    for path, child in zip(paths, table.list_children(), strict=True):
        if _get_path_shape(path) != _get_path_shape(paths[0]):
            raise child.make_error("is a path of another shape than the first path")
    last = branch.take_conv_norm(sum(path[-1].convolution.out_channels for path in paths))
    branch.check_end()
    _check_kernels([*paths[0], last], grouped=False)
    return paths, last


def _take_path(layers: LayerCursor, in_channels: int) -> tuple[ConvNorm, ...]:
    units = [layers.take_conv_norm(in_channels)]
    layers.take_relu()
    if layers.peek_kind():
        units.append(layers.take_conv_norm(units[-1].convolution.out_channels))
        layers.take_relu()
    layers.check_end()
    return tuple(units)


def _get_path_shape(path: tuple[ConvNorm, ...]) -> list[tuple[int, ...]]:
    return [(*unit.convolution.shape, unit.convolution.stride) for unit in path]


def _check_kernels(units: list[ConvNorm], *, grouped: bool) -> None:
    kernels = (1, 3, 1) if len(units) == 3 else (3, 3)
    convolutions = [unit.convolution for unit in units]
    for number, (c, kernel) in enumerate(zip(convolutions, kernels, strict=True)):
        if c.kernel != kernel:
            raise c.node.make_error(f"has a kernel of {c.kernel}; expected {kernel} in this block")
        if c.groups != 1 and not (grouped and number == 1):
            raise c.node.make_error(
                f"has {c.groups} groups; only the middle convolution of a bottleneck may have groups"
            )
    before, middle = (c.out_channels for c in convolutions[:2])
    if len(units) == 3 and before != middle:
        raise convolutions[1].node.make_error(
            f"changes {before} channels to {middle}; the middle convolution of a bottleneck must keep its width"
        )


def _get_strides(table: ModuleNode, paths: Paths, last: ConvNorm) -> tuple[int, bool]:
    """Get the block's stride, and whether a bottleneck has it in its first 1x1."""
    strides = [unit.convolution.stride for unit in (*paths[0], last)]
    if strides[-1] != 1 or strides.count(2) > 1:
        raise table.make_error(f"has strides {strides}; at most one may be 2, and not that of the last layer")
    return max(strides), len(strides) == 3 and strides[0] == 2


def _take_shortcut(way: LayerCursor, in_channels: int, out_channels: int, stride: int) -> "ConvNorm | str":
    kind = way.peek_kind()
    if not kind:
        if (in_channels, stride) != (out_channels, 1):
            raise way.owner.make_error(
                f"cannot be the shortcut from {in_channels} to {out_channels} channels at stride {stride}"
            )
        return "identity"
    if kind == m.CONVOLUTION:
        unit = way.take_conv_norm(in_channels)
        c = unit.convolution
        if (c.kernel, c.groups, c.stride, c.out_channels) != (1, 1, stride, out_channels):
            raise c.node.make_error(f"is not a 1x1 projection to {out_channels} channels with stride {stride}")
        way.check_end()
        return unit
    _take_padding_shortcut(way, in_channels, out_channels, stride)
    return "pad"


def _take_padding_shortcut(way: LayerCursor, in_channels: int, out_channels: int, stride: int) -> None:
    """Take shortcut A: subsample the pixels by the stride, and append as many zero channels as there are channels."""
    pool = way.take(m.AVERAGE_POOL)
    if m.read_pool_window(pool) != 1 or {pool.read_integer("dW", 1), pool.read_integer("dH", 1)} != {stride}:
        raise pool.make_error(f"is not a shortcut A, which subsamples by {stride}")
    concat = way.take(m.CONCAT)
    way.check_end()
    parts = [list(m.iter_layers(child)) for child in concat.list_children()]
    if (
        [[node.kind for node in part] for part in parts] != [[], [m.SCALE]]
        or parts[1][0].read_number("constant_scalar")
        or concat.read_integer("dimension") != 2
    ):
        raise concat.make_error("is not a shortcut A, which concatenates the channels and as many zero channels")
    if out_channels != 2 * in_channels:
        raise concat.make_error(f"makes {2 * in_channels} channels, but the other branch makes {out_channels}")
