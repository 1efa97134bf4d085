"""Fold frozen BN layers into the convolutions before them, without changing parameters or state dict.

A frozen BN is scale * x + shift, so a convolution and its frozen BN equal one convolution with other weights and a
bias. These are computed in each forward pass (cheap beside the convolution). So a parameter that is loaded, moved or
averaged takes effect at once, and autograd computes the gradient of the true weight. The rest of the layer,
``ReLU(... + residual)``, is computed in place.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import nn

from resnext.errors import RequestError
from resnext.model.layers import FOLDED, Conv2d, NormAct, is_frozen
from resnext.speed import kernels

CONV_NUMBERS = (1, 2, 3)  # numbers of a block's convolutions: conv1, conv2, conv3


def fold_frozen_norms(model: nn.Module) -> int:
    """Fold every frozen NormAct of ``model`` into the convolution before it; return the number of folded norms.

    Parameters, names and state dict do not change. A norm is folded only while it is in evaluation mode and its scale
    and shift need no gradient. Norms that follow a sum are not folded (the first of a pre-activation block, the last of
    form (a)). With ``RESNEXT_FAST=0`` none is. Raises RequestError if a frozen norm has no finite scale.
    """
    check_frozen_norms(model)
    if not kernels.is_fast_enabled():
        return 0
    count = 0
    for conv, norm in iter_conv_norm_pairs(model):
        if is_frozen(norm) and conv.bias is None:
            conv.folded_norm, norm.algorithm = (norm,), FOLDED
            count += 1
    return count


def check_frozen_norms(model: nn.Module) -> None:
    """Raise RequestError if a frozen BN of ``model`` would give infinity or NaN.

    Some channels of ResNeXt have a running variance near 0. Together with an eps of 0, as some detectors' weights have
    it, the scale becomes infinite (pytorch/vision#2599).
    """
    for name, norm in model.named_modules():
        if not isinstance(norm, nn.BatchNorm2d) or not is_frozen(norm) or norm.running_var is None:
            continue
        if norm.running_var.device.type == "meta":
            continue
        below = norm.running_var + norm.eps
        bad = ~(torch.isfinite(below) & (below > 0))
        if bad.any():
            channel = int(bad.nonzero()[0])
            raise RequestError(
                f"{name or 'the BN layer'} is frozen with running_var {norm.running_var[channel].item():g} in channel "
                f"{channel} and eps {norm.eps:g}, so its output is not finite: set the eps it was trained with "
                "(usually 1e-5), or use weights with valid statistics"
            )


def iter_conv_norm_pairs(model: nn.Module) -> Iterator[tuple[Conv2d, NormAct]]:
    """Iterate over each convolution with the norm that directly follows it.

    In all blocks of this package ``bn2`` follows ``conv2``, and so on. In an ``nn.Sequential`` (a path of forms (a) and
    (b), a projection shortcut) a norm follows the layer before it.
    """
    for module in model.modules():
        children = dict(module.named_children())
        if isinstance(module, nn.Sequential):
            pairs = list(pairwise(children.values()))
        else:
            names = ((f"conv{i}", f"bn{i}") for i in CONV_NUMBERS)
            pairs = [(children[conv], children[norm]) for conv, norm in names if {conv, norm} <= children.keys()]
        for conv, norm in pairs:
            if isinstance(conv, Conv2d) and isinstance(norm, NormAct):
                yield conv, norm
