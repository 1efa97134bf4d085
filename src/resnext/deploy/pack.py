"""A grouped convolution as one with fewer, wider groups: the same function, often many times faster on a CPU.

C groups of g channels are C/p groups of p*g channels whose weight is block-diagonal: p times the arithmetic, but in
pieces that the processor's units can fill.
"""

import copy

import torch
from torch import Tensor, nn

from resnext.deploy.fold import Folded, remade
from resnext.errors import RequestError
from resnext.speed import convolution


def block_diagonal(weight: Tensor, groups: int, factor: int) -> Tensor:
    """The weight [O, factor * g, k, k] of ``groups / factor`` groups that equals ``weight`` [O, g, k, k] of ``groups``.

    Raises RequestError where ``factor`` does not divide the groups, or the groups not the output channels.
    """
    if factor < 1 or groups % factor or len(weight) % groups:
        raise RequestError(f"{groups} groups of {len(weight)} output channels cannot be packed by {factor}")
    return convolution.pack(weight, groups, factor)


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
    return remade(conv, block_diagonal(conv.weight, conv.groups, factor), conv.bias, conv.groups // factor)
