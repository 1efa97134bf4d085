"""Fold each BN of a network into the convolution before it, for inference.

In evaluation BN(x) = a * x + b with constants, so a convolution and its BN equal one convolution with other weights and
a bias. The first BN of a pre-activation block and its network's last BN follow a sum, so they remain, as a scale and a
shift for each channel. Networks in forms (a) and (b) are first converted to form (c) (``model/forms.py``).
"""

import copy
from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnext.errors import RequestError
from resnext.model.architecture import Architecture
from resnext.model.blocks import Block
from resnext.model.layers import NormAct, PadShortcut
from resnext.model.network import Network, convert_form


class ConvAct(nn.Module):
    """A convolution with bias, residual sum and ReLU: ``ReLU(conv(x) + residual)``; no ReLU with ``act=False``."""

    def __init__(self, conv: nn.Conv2d, act: bool) -> None:
        super().__init__()
        self.conv, self.act = conv, act

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Map x [B, C, H, W] to [B, C', H', W'], the shape of ``residual``."""
        y = self.conv(x)
        if residual is not None:
            y = y + residual
        return F.relu(y) if self.act else y


class ScaleAct(nn.Module):
    """A BN that cannot be folded: ``ReLU(scale * x + shift)``, with one scale and shift for each channel."""

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(scale.view(-1, 1, 1), requires_grad=False)
        self.shift = nn.Parameter(shift.view(-1, 1, 1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer; the shape stays."""
        return F.relu(x * self.scale + self.shift)


class FoldedBlock(nn.Module):
    """A block: a sequence of convolutions, of which the last adds the shortcut's output as its residual."""

    def __init__(self, pre_norm: ScaleAct | None, layers: list[ConvAct], shortcut: nn.Module | None) -> None:
        super().__init__()
        self.pre_norm, self.shortcut = pre_norm, shortcut
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block."""
        start = x if self.pre_norm is None else self.pre_norm(x)
        residual = None
        if self.shortcut is not None:  # an identity adds x itself; other shortcuts start from the activation
            residual = self.shortcut(x if isinstance(self.shortcut, nn.Identity) else start)
        *inner, last = self.layers
        for layer in inner:
            start = layer(start)
        return cast(Tensor, last(start, residual))


class FoldedNetwork(nn.Module):
    """A whole network with its BN folded, from which the engines are built."""

    def __init__(
        self,
        architecture: Architecture,
        stem: ConvAct,
        pool: nn.Module,
        blocks: list[FoldedBlock],
        final_norm: nn.Module | None,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.stem, self.pool, self.final_norm = stem, pool, final_norm
        self.blocks = nn.ModuleList(blocks)
        self.fc: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits [B, K] (or pooled features) of normalised images [B, C, H, W]."""
        return cast(Tensor, self.fc(self.compute_last_map(x).mean((2, 3))))

    def classify_with_cam(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute the logits and the class activation maps [B, K, h, w]; None for a network without classifier.

        The map of class k is the sum of the last feature map's channels, weighted by row k of fc: as the network pools
        by the mean, this is Grad-CAM before its ReLU (Selvaraju et al. 2017, Section 3.1), up to the factor h * w.
        """
        last = self.compute_last_map(x)
        logits = cast(Tensor, self.fc(last.mean((2, 3))))
        return logits, F.conv2d(last, self.fc.weight[:, :, None, None]) if isinstance(self.fc, nn.Linear) else None

    def compute_last_map(self, x: Tensor) -> Tensor:
        """Compute the last feature map [B, C, h, w], which is pooled by its mean."""
        x = self.pool(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return x if self.final_norm is None else cast(Tensor, self.final_norm(x))

    def iter_convolutions(self) -> Iterator[ConvAct]:
        """Iterate over all convolutions, in the order of the network's modules."""
        return (module for module in self.modules() if isinstance(module, ConvAct))


@torch.no_grad()
def fold(network: Network) -> FoldedNetwork:
    """Fold the BN layers of a network; the result computes the same function as ``network.eval()``.

    It has its own weights, computed in float64 and rounded once. Raises RequestError for a model of another library.
    """
    if not isinstance(network, Network):
        raise RequestError(f"only networks of this package can be folded, not a {type(network).__name__}")
    if network.architecture.form != "grouped":
        network = convert_form(network, "grouped")
    pre = network.architecture.pre_activation
    stem = _fold_conv(network.conv1, None if pre else network.bn1)
    stages = (network.get_submodule(f"layer{i}") for i, _ in enumerate(network.architecture.stages, start=1))
    blocks = [_fold_block(cast(Block, block)) for stage in stages for block in cast(nn.Sequential, stage)]
    folded = FoldedNetwork(
        network.architecture, stem, network.maxpool, blocks, _convert_norm(network.bn) if pre else None
    )
    if isinstance(network.fc, nn.Linear):
        folded.fc = copy.deepcopy(network.fc)
    return folded.eval().requires_grad_(False)


def _fold_block(block: Block) -> FoldedBlock:
    pre = block.pre_activation
    if block.bottleneck:
        pairs = [(block.conv1, block.bn1), (block.conv2, block.bn2), (block.conv3, None if pre else block.bn3)]
    else:
        pairs = [(block.conv1, block.bn1), (block.conv2, None if pre else block.bn2)]
    layers = [_fold_conv(conv, norm) for conv, norm in pairs]
    return FoldedBlock(_convert_norm(block.bn0) if pre else None, layers, _fold_shortcut(block.downsample))


def _fold_shortcut(shortcut: nn.Module | None) -> nn.Module | None:
    if shortcut is None or isinstance(shortcut, nn.Identity):
        return shortcut
    if isinstance(shortcut, PadShortcut):
        return PadShortcut(shortcut.extra_channels, shortcut.stride)
    conv, *norm = cast(nn.Sequential, shortcut)
    return _fold_conv(cast(nn.Conv2d, conv), cast(NormAct, norm[0]) if norm else None)


def _fold_conv(conv: nn.Conv2d, norm: NormAct | None) -> ConvAct:
    """Build the convolution that equals ``norm(conv(x))``; without a norm, a copy of ``conv`` with a bias of zero."""
    count, dtype = conv.out_channels, conv.weight.dtype
    scale, shift = torch.ones(count, dtype=torch.float64), torch.zeros(count)
    if norm is not None:
        scale, shift = _compute_scale_and_shift(norm)
    weight = (conv.weight.double() * scale.view(-1, 1, 1, 1)).to(dtype)
    made = rebuild_conv(conv, weight, shift.to(dtype), conv.groups)
    return ConvAct(made, act=norm is not None and norm.act)


def rebuild_conv(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None, groups: int) -> nn.Conv2d:
    """Build a convolution like ``conv`` with another weight, bias and number of groups, without copying tensors."""
    made = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        stride=conv.stride,  # type: ignore[arg-type]
        padding=conv.padding,  # type: ignore[arg-type]
        dilation=conv.dilation,  # type: ignore[arg-type]
        groups=groups,
        dtype=weight.dtype,
        device="meta",
    )
    made.weight = nn.Parameter(weight, requires_grad=False)
    made.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return made


def _compute_scale_and_shift(norm: NormAct) -> tuple[Tensor, Tensor]:
    """Return the scale and the shift of a BN in evaluation, float64 [C] each."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return scale, norm.bias.double() - norm.running_mean.double() * scale


def _convert_norm(norm: NormAct) -> ScaleAct:
    scale, shift = (value.to(norm.weight.dtype) for value in _compute_scale_and_shift(norm))
    return ScaleAct(scale, shift)
