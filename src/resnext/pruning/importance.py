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

Channels inside a path are scored in the same two ways, at the convolution that reads them.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnext.model.architecture import CONVOLUTIONS_PER_BLOCK, Architecture, Stage
from resnext.model.layers import NormAct
from resnext.model.network import Network, convert_form
from resnext.pruning.slicing import list_blocks

Importance = Literal["taylor", "magnitude"]
IMPORTANCES: tuple[Importance, ...] = get_args(Importance)
Scores = dict[str, Tensor]  # block, such as layer1.0 -> float64 [C] on the CPU
ChannelScores = dict[str, Tensor]  # convolution, such as layer1.0.conv2 -> float64 [C, d] of its input channels
Batches = Iterable[tuple[Tensor, Tensor]]  # normalised images [B, C, S, S] and labels int64 [B]


def list_readers(a: Architecture) -> Iterator[tuple[str, str, Stage]]:
    """Iterate over the convolutions that read the channels of paths: block, name, stage; in a block the last one last.

    These are conv2 and conv3 of a bottleneck, conv2 of a basic block.
    """
    for block, _, stage in list_blocks(a):
        for number in range(2, CONVOLUTIONS_PER_BLOCK[a.block] + 1):
            yield block, f"{block}.conv{number}", stage


def compute_taylor_importance(model: Network, batches: Batches) -> Scores:
    """Compute the Taylor importance of every path, on the device of ``model``, which is not changed.

    The network may have any form; BN uses its running statistics.
    """
    last = {block: (reader, stage.cardinality) for block, reader, stage in list_readers(model.architecture)}
    scores = _compute_gate_importance(model, batches, dict(last.values()))
    return {block: scores[reader] for block, (reader, _) in last.items()}


def compute_taylor_channel_importance(model: Network, batches: Batches) -> ChannelScores:
    """Compute the Taylor importance of every channel of every path. Arguments as ``compute_taylor_importance``."""
    stages = {reader: stage for _, reader, stage in list_readers(model.architecture)}
    gates = {reader: stage.cardinality * stage.width for reader, stage in stages.items()}
    scores = _compute_gate_importance(model, batches, gates)
    return {reader: scores[reader].view(stage.cardinality, stage.width) for reader, stage in stages.items()}


def compute_magnitude_importance(model: Network) -> Scores:
    """Compute the magnitude importance of every path from the weights alone."""
    channels = compute_magnitude_channel_importance(model)
    return {
        block: channels[reader].sum(1) for block, reader, _ in list_readers(model.architecture)
    }  # the last one stays


@torch.no_grad()
def compute_magnitude_channel_importance(model: Network) -> ChannelScores:
    """Compute the magnitude importance of every channel of every path from the weights alone."""
    network = convert_form(model, "grouped")
    layers = dict(network.named_modules())
    scores: ChannelScores = {}
    for block, reader, stage in list_readers(network.architecture):
        number = int(reader[-1])
        before, convolution, after = (
            layers[f"{block}.bn{number - 1}"],
            layers[reader],
            layers.get(f"{block}.bn{number}"),
        )
        assert isinstance(before, NormAct)
        assert isinstance(convolution, nn.Conv2d)
        weight = convolution.weight.double()
        if isinstance(after, NormAct):
            weight = weight * after.compute_scale_and_shift()[0].double().view(-1, 1, 1, 1)
        groups = weight.unflatten(0, (convolution.groups, -1))  # [groups, out, in, k, k]
        columns = groups.square().sum((1, 3, 4)).flatten()
        power = columns * _compute_relu_power(before.weight.double(), before.bias.double())
        scores[reader] = power.view(stage.cardinality, stage.width).cpu()
    return scores


def _compute_relu_power(scale: Tensor, shift: Tensor) -> Tensor:
    """Compute E[ReLU(g z + b)^2] for standard normal z: (g^2 + b^2) Phi(b / |g|) + b |g| phi(b / |g|)."""
    spread = scale.abs().clamp_min(1e-12)
    ratio = shift / spread
    normal = torch.distributions.Normal(torch.zeros_like(ratio), torch.ones_like(ratio))
    power: Tensor = (spread**2 + shift**2) * normal.cdf(ratio) + shift * spread * normal.log_prob(ratio).exp()
    return power


def _compute_gate_importance(model: Network, batches: Batches, gates: Mapping[str, int]) -> dict[str, Tensor]:
    """Compute the mean squared gradient of gates on the inputs of convolutions, each on equally many channels.

    ``gates`` has the number of gates by the convolution's name in form (c).
    """
    network = convert_form(model, "grouped").eval().requires_grad_(False)
    scores = {name: torch.zeros(count, dtype=torch.float64) for name, count in gates.items()}
    images_seen = 0
    with _record_gate_gradients(network, scores), torch.enable_grad():
        for images, labels in batches:
            F.cross_entropy(network(images.requires_grad_(True)), labels, reduction="sum").backward()
            images_seen += len(images)
    return {name: total / max(images_seen, 1) for name, total in scores.items()}


@contextmanager
def _record_gate_gradients(network: Network, scores: dict[str, Tensor]) -> Iterator[None]:
    """Add to ``scores``, in each backward pass, the squared gradient of every gate and image."""

    def add_squares(name: str, values: Tensor, gradient: Tensor) -> None:
        by_channel = (values.detach() * gradient).sum((2, 3), dtype=torch.float64)
        by_gate = by_channel.view(len(values), len(scores[name]), -1).sum(2)
        scores[name] += by_gate.square().sum(0).cpu()

    def watch_input(name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        inputs[0].register_hook(partial(add_squares, name, inputs[0]))

    layers = dict(network.named_modules())
    handles = [layers[name].register_forward_pre_hook(partial(watch_input, name)) for name in scores]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
