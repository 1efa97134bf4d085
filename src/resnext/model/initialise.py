"""Initialise a network's weights as the Torch7 release does (models/resnext.lua, ConvInit and BNInit)."""

import torch
from torch import nn

from resnext.model.blocks import Block


def initialise(network: nn.Module, generator: torch.Generator | None = None, *, zero_gamma: bool = False) -> None:
    """Draw the weights of a network in form (c) on the CPU, in place.

    Convolutions: N(0, sqrt(2 / n)) with n = kW * kH * output planes; a grouped convolution counts its full width C*d.
    BN: scale 1, shift 0; with ``zero_gamma`` the last BN of a block starts at scale 0. Classifier: torch's default
    weights, bias 0. In the release's resnext_B, a path's convolutions count their d planes only, so its weights are
    sqrt(C) times larger; here forms (a) and (b) get converted weights of form (c).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            nn.init.zeros_(module.bias)
    if zero_gamma:
        for module in network.modules():
            if isinstance(module, Block):
                nn.init.zeros_(module.last_norm.weight)
