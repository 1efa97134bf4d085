"""The residual block of Figure 3 in its three equivalent forms (page 4 of the paper).

A block computes y = x + F(x), where F(x) = T_1(x) + ... + T_C(x) is the sum over C paths (Equations 2 and 3). The
three classes compute the same F in different ways; ``forms.py`` converts weights between them.

Inside a path, BN and ReLU follow each convolution except the last, because the paths are summed first. Around F, all
three forms have the same layers:

    as published:    x -> F -> BN -> + shortcut(x) -> ReLU           (BN is bn3, or bn2 in a basic block)
    pre-activation:  x -> BN -> ReLU -> F -> + shortcut              (BN is bn0; He et al. 2016)

The paths of a basic block (Section 3.3, Figure 4) are two 3x3 convolutions. Their sum is a dense block of width C*d,
so the grouped form of a basic block has no groups.
"""

from collections import OrderedDict
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor, nn

from resnext.model.activation_checkpointing import attach_recompute, run_with_recompute
from resnext.model.architecture import BlockType, Shortcut
from resnext.model.layers import Conv2d, NormAct, build_shortcut, conv2d, drop_path


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """The numbers that define one block, as in Figure 3 (256, 256, C = 32, d = 4)."""

    in_channels: int
    out_channels: int
    cardinality: int  # C
    width: int  # d of this stage
    stride: int = 1
    stride_in_1x1: bool = False
    first_dilation: int = 1  # of the 3x3 of a bottleneck, and of the first one of a basic block
    dilation: int = 1  # of the second 3x3 of a basic block
    kind: BlockType = "bottleneck"
    shortcut: Shortcut = "B"
    pre_activation: bool = False


def build_inner_layers(s: BlockShape, paths: int) -> "OrderedDict[str, nn.Module]":
    """Build ``paths`` parallel paths without their last convolution.

    Forms (a) and (b) call this for one path, form (c) for all C, which the groups of the 3x3 keep apart. The stride is
    in the 3x3 (the first one of a basic block), as in the release; in Caffe's nets it is in the 1x1.
    """
    width = paths * s.width
    if s.kind == "basic":
        first = conv2d(s.in_channels, width, 3, s.stride, dilation=s.first_dilation)
        return OrderedDict(conv1=first, bn1=NormAct(width))
    strides = (s.stride, 1) if s.stride_in_1x1 else (1, s.stride)
    return OrderedDict(
        conv1=conv2d(s.in_channels, width, 1, strides[0]),
        bn1=NormAct(width),
        conv2=conv2d(width, width, 3, strides[1], groups=paths, dilation=s.first_dilation),
        bn2=NormAct(width),
    )


def build_last_layer(s: BlockShape, paths: int) -> "OrderedDict[str, nn.Module]":
    """Build the convolution that ends ``paths`` parallel paths; its sum over input channels also adds the paths."""
    if s.kind == "basic":
        return OrderedDict(conv2=conv2d(paths * s.width, s.out_channels, 3, dilation=s.dilation))
    return OrderedDict(conv3=conv2d(paths * s.width, s.out_channels, 1))


class Block(nn.Module):
    """Base class of the three forms: y = x + F(x). A subclass passes the layers of F and implements ``aggregate``."""

    conv1: Conv2d
    conv2: Conv2d
    conv3: Conv2d
    bn0: NormAct
    bn1: NormAct
    bn2: NormAct
    bn3: NormAct
    paths: nn.ModuleList
    downsample: nn.Module | None

    def __init__(self, s: BlockShape, layers: "OrderedDict[str, nn.Module]") -> None:
        super().__init__()
        self.bottleneck = s.kind == "bottleneck"
        self.pre_activation = s.pre_activation
        self.drop_path = 0.0  # probability that an image skips F in training
        self.recompute_level = "no"  # level of activation checkpointing, see plan.set_activation_checkpointing
        if s.pre_activation:
            self.bn0 = NormAct(s.in_channels)
        for name, layer in layers.items():
            self.add_module(name, layer)
        if not s.pre_activation:
            self.add_module("bn3" if self.bottleneck else "bn2", NormAct(s.out_channels))
        self.downsample = build_shortcut(s.shortcut, s.in_channels, s.out_channels, s.stride, norm=not s.pre_activation)

    def aggregate(self, x: Tensor) -> Tensor:
        """Compute F(x), the sum over paths: [B, in, H, W] -> [B, out, ceil(H / stride), ceil(W / stride)]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block: [B, in, H, W] -> [B, out, ceil(H / stride), ceil(W / stride)]."""
        if self.recompute_level == "blocks" and self.training and torch.is_grad_enabled():
            return run_with_recompute(self, self._forward, x)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        if self.pre_activation:
            return self._forward_pre_activation(x)
        residual = None if self.downsample is None else self.downsample(x)
        y: Tensor = self.last_norm(self.aggregate(x), residual, self.drop_path)
        return y

    def _forward_pre_activation(self, x: Tensor) -> Tensor:
        activated = self.bn0(x)
        y = drop_path(self.aggregate(activated), self.drop_path if self.training else 0.0)
        if self.downsample is None:
            return y
        # An identity shortcut adds x itself; a projection or padding starts from the activation, as F does.
        shortcut: Tensor = self.downsample(x if isinstance(self.downsample, nn.Identity) else activated)
        return y + shortcut

    @property
    def last_norm(self) -> NormAct:
        """The BN after the sum of the paths, before the shortcut is added (Section 4)."""
        return self.bn3 if self.bottleneck else self.bn2

    @property
    def last_convolution(self) -> Conv2d:
        """The last convolution of forms (b) and (c), which all paths share."""
        return self.conv3 if self.bottleneck else self.conv2


class BranchedBlock(Block):
    """Figure 3 (a), split-transform-merge: the sum of C paths of 256,1x1,4; 4,3x3,4; 4,1x1,256."""

    def __init__(self, s: BlockShape) -> None:
        paths = (nn.Sequential(build_inner_layers(s, 1) | build_last_layer(s, 1)) for _ in range(s.cardinality))
        super().__init__(s, OrderedDict(paths=nn.ModuleList(paths)))

    def aggregate(self, x: Tensor) -> Tensor:
        """Run the paths one by one and sum their outputs."""
        total: Tensor = reduce(torch.add, (path(x) for path in self.paths))
        return total


class ConcatenatedBlock(Block):
    """Figure 3 (b), early concatenation: C paths of 256,1x1,4; 4,3x3,4, concatenated, then one 128,1x1,256."""

    def __init__(self, s: BlockShape) -> None:
        paths = (nn.Sequential(build_inner_layers(s, 1)) for _ in range(s.cardinality))
        super().__init__(s, OrderedDict(paths=nn.ModuleList(paths)) | build_last_layer(s, s.cardinality))

    def aggregate(self, x: Tensor) -> Tensor:
        """Concatenate the outputs of the paths and apply the last convolution."""
        y: Tensor = self.last_convolution(torch.cat([path(x) for path in self.paths], dim=1))
        return y


class GroupedBlock(Block):
    """Figure 3 (c), grouped convolution: 256,1x1,128; 128,3x3,128, group = 32; 128,1x1,256."""

    def __init__(self, s: BlockShape) -> None:
        super().__init__(s, build_inner_layers(s, s.cardinality) | build_last_layer(s, s.cardinality))

    def aggregate(self, x: Tensor) -> Tensor:
        """Run all paths at once, as groups of one convolution."""
        y = self.bn1(self.conv1(x))
        if self.bottleneck:
            y = self.bn2(self.conv2(y))
        out: Tensor = self.last_convolution(y)
        recompute_fn = getattr(y, "recompute_fn", None)
        if self.recompute_level == "expansions" and recompute_fn is not None:
            attach_recompute(out, lambda: self.last_convolution.recompute_output(recompute_fn()))
        return out


BLOCK_OF_FORM: dict[str, type[BranchedBlock] | type[ConcatenatedBlock] | type[GroupedBlock]] = {
    "branched": BranchedBlock,
    "concatenated": ConcatenatedBlock,
    "grouped": GroupedBlock,
}
