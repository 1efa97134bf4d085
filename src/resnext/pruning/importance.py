"""Score how much each path of each block contributes; the least important ones are pruned first.

A path ends at the last convolution of its block, where all paths are summed (the paper's Equation 2). Removing the path
is setting its part of that convolution's input to zero, so both scores look there.

Taylor (Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning", the gate of their Equation 8 on each
path): with a the path's input to the last convolution and L_n the cross entropy of image n,

    importance = mean over n of (sum over channels and positions of a * dL_n/da)^2

The inner sum is the first-order change of the loss if the path is scaled down to zero. It equals the sum of
weight * gradient over the path's columns of the last convolution.

Magnitude, without data: the expected square of what the path adds to the block's output. Inputs of a BN are taken as
standard normal, so a channel with scale g and shift b has E[ReLU(g z + b)^2] after it; that times the squared norm of
the channel's column in the last convolution, whose rows are scaled by the BN after the sum (if there is one).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnext.model.blocks import Block
from resnext.model.network import Network, convert_form
from resnext.pruning.slicing import list_blocks

Importance = Literal["taylor", "magnitude"]
IMPORTANCES: tuple[Importance, ...] = get_args(Importance)
Scores = dict[str, Tensor]  # block, such as layer1.0 -> float64 [C] on the CPU


def compute_taylor_importance(model: Network, batches: Iterable[tuple[Tensor, Tensor]]) -> Scores:
    """Compute the Taylor importance of every path, on the device of ``model``, which is not changed.

    Args:
        model: The network, in any form. BN uses its running statistics.
        batches: Normalised images [B, C, S, S] and labels int64 [B].
    """
    network = convert_form(model, "grouped").eval().requires_grad_(False)
    scores = {
        name: torch.zeros(stage.cardinality, dtype=torch.float64)
        for name, _, stage in list_blocks(network.architecture)
    }
    images_seen = 0
    with _record_gate_gradients(network, scores), torch.enable_grad():
        for images, labels in batches:
            logits = network(images.requires_grad_(True))
            F.cross_entropy(logits, labels, reduction="sum").backward()
            images_seen += len(images)
    return {name: total / max(images_seen, 1) for name, total in scores.items()}


@torch.no_grad()
def compute_magnitude_importance(model: Network) -> Scores:
    """Compute the magnitude importance of every path from the weights alone."""
    network = convert_form(model, "grouped")
    scores: Scores = {}
    for name, _, stage in list_blocks(network.architecture):
        block = network.get_submodule(name)
        assert isinstance(block, Block)
        before = block.bn2 if block.bottleneck else block.bn1
        weight = block.last_convolution.weight.double()
        if not block.pre_activation:
            scale, _ = block.last_norm.compute_scale_and_shift()
            weight = weight * scale.double().view(-1, 1, 1, 1)
        power = weight.square().sum((0, 2, 3)) * _compute_relu_power(before.weight.double(), before.bias.double())
        scores[name] = power.view(stage.cardinality, stage.width).sum(1).cpu()
    return scores


def _compute_relu_power(scale: Tensor, shift: Tensor) -> Tensor:
    """Compute E[ReLU(g z + b)^2] for standard normal z: (g^2 + b^2) Phi(b / |g|) + b |g| phi(b / |g|)."""
    spread = scale.abs().clamp_min(1e-12)
    ratio = shift / spread
    normal = torch.distributions.Normal(torch.zeros_like(ratio), torch.ones_like(ratio))
    power: Tensor = (spread**2 + shift**2) * normal.cdf(ratio) + shift * spread * normal.log_prob(ratio).exp()
    return power


@contextmanager
def _record_gate_gradients(network: Network, scores: Scores) -> Iterator[None]:
    """Add to ``scores``, in each backward pass, the squared gate gradient of every path and image."""

    def add_squares(name: str, values: Tensor, gradient: Tensor) -> None:
        by_channel = (values.detach() * gradient).sum((2, 3), dtype=torch.float64)
        by_path = by_channel.view(len(values), len(scores[name]), -1).sum(2)
        scores[name] += by_path.square().sum(0).cpu()

    def watch_input(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        inputs[0].register_hook(partial(add_squares, name, inputs[0]))

    handles = []
    for name in scores:
        block = network.get_submodule(name)
        assert isinstance(block, Block)
        handles.append(block.last_convolution.register_forward_pre_hook(partial(watch_input, name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
