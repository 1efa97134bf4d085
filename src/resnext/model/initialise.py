"""Initialise a network's weights as the Torch7 release does (models/resnext.lua, ConvInit and BNInit)."""

from typing import TYPE_CHECKING

import torch
from torch import nn

from resnext.model.blocks import Block
from resnext.model.forms import convert_state

if TYPE_CHECKING:
    from resnext.model.network import Network


def initialise(network: "Network", generator: torch.Generator | None = None) -> None:
    """Draw the weights of a network on the CPU, in place.

    Convolutions: N(0, sqrt(2 / n)) with n = kW * kH * output planes; a grouped convolution counts its full width C*d.
    BN: scale 1, shift 0; with ``initialisation="zero_gamma"`` the last BN of a block starts at scale 0. Classifier:
    torch's default weights, bias 0.

    Forms (a) and (b) are initialised as form (c) and then converted, so a seed gives the same function in every form.
    In the release's resnext_B, a path's convolutions count their d planes only, so its weights are sqrt(C) times
    larger.
    """
    if network.architecture.form != "grouped":
        _initialise_as_grouped(network, generator)
        return
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            bound = module.in_features**-0.5
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            nn.init.zeros_(module.bias)
    if network.architecture.initialisation == "zero_gamma":
        for module in network.modules():
            if isinstance(module, Block):
                nn.init.zeros_(module.last_norm.weight)


def _initialise_as_grouped(network: "Network", generator: torch.Generator | None) -> None:
    grouped = network.architecture.change(form="grouped")
    with torch.device("cpu"):
        state = type(network)(grouped, generator=generator).state_dict()
    network.load_state_dict(convert_state(state, grouped, network.architecture.form))
