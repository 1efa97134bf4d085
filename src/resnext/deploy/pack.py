"""A grouped convolution as one with fewer, wider groups: the same function, often many times faster on a CPU.

C groups of g channels are C/p groups of p*g channels whose weight is block-diagonal: p times the arithmetic, but in
pieces that the processor's units can fill.
"""

import copy

import torch
from torch import Tensor, nn

from resnext.deploy.fold import Folded
from resnext.errors import RequestError


def block_diagonal(weight: Tensor, groups: int, factor: int) -> Tensor:
    """The weight [O, factor * g, k, k] of ``groups / factor`` groups that equals ``weight`` [O, g, k, k] of ``groups``.

    Raises RequestError where ``factor`` does not divide the groups, or the groups not the output channels.
    """
    if factor < 1 or groups % factor or len(weight) % groups:
        raise RequestError(f"{groups} groups of {len(weight)} output channels cannot be packed by {factor}")
    out, inputs, *kernel = weight.shape
    each = out // groups
    packed = weight.new_zeros(groups // factor, factor, each, factor, inputs, *kernel)
    source = weight.reshape(groups // factor, factor, each, inputs, *kernel)
    for i in range(factor):
        packed[:, i, :, i] = source[:, i]
    return packed.reshape(out, factor * inputs, *kernel)


def factor_for(groups: int, channels: int, wanted: int) -> int:
    """The smallest divisor of ``groups`` that makes ``channels`` a group at least ``wanted``; else all of them."""
    return next((f for f in range(1, groups + 1) if groups % f == 0 and f * channels >= wanted), groups)


@torch.no_grad()
def pack(folded: Folded, channels: int) -> Folded:
    """A copy whose grouped convolutions have at least ``channels`` input channels a group, where there are as many."""
    packed = copy.deepcopy(folded)
    for layer in packed.convolutions():
        conv = layer.conv
        if conv.groups > 1:
            layer.conv = _packed(conv, factor_for(conv.groups, conv.weight.shape[1], channels))
    return packed


def _packed(conv: nn.Conv2d, factor: int) -> nn.Conv2d:
    made = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        stride=conv.stride,  # type: ignore[arg-type]
        padding=conv.padding,  # type: ignore[arg-type]
        groups=conv.groups // factor,
        dtype=conv.weight.dtype,
        device="meta",
    )
    made.weight = nn.Parameter(block_diagonal(conv.weight, conv.groups, factor), requires_grad=False)
    made.bias = conv.bias
    return made
