"""Pack the groups of a folded network's convolutions into fewer, wider ones, which CPUs often run many times faster.

C groups of g channels equal C/p groups of p*g channels with a block-diagonal weight. This is p times the arithmetic,
but it makes better use of the processor's vector units (see ``speed/convolution.py`` for training).
"""

import copy

import torch
from torch import nn

from resnext.deploy.fold import FoldedNetwork, rebuild_conv
from resnext.speed.convolution import pack_weight


def choose_factor(groups: int, channels: int, wanted: int) -> int:
    """Choose the smallest divisor f of ``groups`` with ``f * channels >= wanted``; if there is none, ``groups``."""
    return next((f for f in range(1, groups + 1) if groups % f == 0 and f * channels >= wanted), groups)


@torch.no_grad()
def pack_groups(folded: FoldedNetwork, channels: int) -> FoldedNetwork:
    """Return a copy whose convolutions with groups have at least ``channels`` input channels a group, if possible."""
    packed = copy.deepcopy(folded)
    for layer in packed.iter_convolutions():
        conv = layer.conv
        if conv.groups > 1:
            layer.conv = _pack_conv(conv, choose_factor(conv.groups, conv.weight.shape[1], channels))
    return packed


def _pack_conv(conv: nn.Conv2d, factor: int) -> nn.Conv2d:
    return rebuild_conv(conv, pack_weight(conv.weight, conv.groups, factor), conv.bias, conv.groups // factor)
