"""Frozen BN made free: the convolution before it computes it, as the same function with the same parameters.

A BN that keeps its statistics, scale and shift is scale * x + shift, so on a convolution it is a convolution with
other weights and a bias. Those are made anew in each forward pass (little work beside the convolution), so whatever
is loaded, moved or averaged counts at once, and autograd takes the gradient back to the true weight by the scale.
What is left of the layer, ``ReLU(... + residual)``, happens in place.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import nn

from resnext.errors import RequestError
from resnext.model.layers import FOLDED, Conv2d, NormAct, frozen
from resnext.speed import kernels
from resnext.speed.convolution import PLAIN

POSITIONS = (1, 2, 3)  # of a block's convolutions


def fold_frozen(model: nn.Module) -> int:
    """Have every frozen NormAct of ``model`` computed by the convolution it follows; returns how many.

    Parameters, names and state dict stay as they are. A norm is folded while it is in evaluation mode and its scale
    and shift take no gradient, and plain again where that changes. Norms behind a sum stay plain (pre-activation's
    first, the last one of form (a)), and all do where ``RESNEXT_FAST=0``.
    Raises RequestError for a frozen norm whose statistics give no finite scale.
    """
    check_frozen(model)
    if not kernels.switched_on():
        return 0
    count = 0
    for conv, norm in followed(model):
        if frozen(norm) and conv.bias is None:
            conv.follower, norm.way = (norm,), FOLDED
            count += 1
    return count


def unfold(model: nn.Module) -> None:
    """Take back what ``fold_frozen`` did."""
    for module in model.modules():
        if isinstance(module, Conv2d):
            module.follower = ()
        elif isinstance(module, NormAct) and module.way == FOLDED:
            module.way = PLAIN


def check_frozen(model: nn.Module) -> None:
    """Raises RequestError, naming it, for a frozen BN of ``model`` that would give infinity or NaN.

    ResNeXt has channels whose running variance is 0 or nearly so; with the eps of 0 that some detectors' weights
    come with, their scale is infinite (pytorch/vision#2599).
    """
    for name, norm in model.named_modules():
        if not isinstance(norm, nn.BatchNorm2d) or not frozen(norm) or norm.running_var is None:
            continue
        if norm.running_var.device.type == "meta":
            continue
        below = norm.running_var + norm.eps
        bad = ~(torch.isfinite(below) & (below > 0))
        if bad.any():
            channel = int(bad.nonzero()[0])
            raise RequestError(
                f"{name or 'the BN layer'} is frozen with running_var {norm.running_var[channel].item():g} in channel "
                f"{channel} and eps {norm.eps:g}, which gives no finite output: give it the eps it was trained with "
                "(1e-5 as a rule), or weights with sound statistics"
            )


def followed(model: nn.Module) -> Iterator[tuple[Conv2d, NormAct]]:
    """Each convolution with the norm that reads it and nothing else: ``bn2`` reads ``conv2`` in all our blocks.

    In a sequence (a path of forms (a) and (b), a projecting shortcut) a norm reads the layer before it.
    """
    for module in model.modules():
        children = dict(module.named_children())
        if isinstance(module, nn.Sequential):
            pairs = list(pairwise(children.values()))
        else:
            names = ((f"conv{i}", f"bn{i}") for i in POSITIONS)
            pairs = [(children[conv], children[norm]) for conv, norm in names if {conv, norm} <= children.keys()]
        for conv, norm in pairs:
            if isinstance(conv, Conv2d) and isinstance(norm, NormAct):
                yield conv, norm
