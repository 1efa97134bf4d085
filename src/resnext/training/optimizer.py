"""Build SGD, AdamW or LAMB, with weight decay on all parameters (the paper) or on some."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from resnext.errors import RequestError
from resnext.settings_shared import OptimizerSettings


def build_optimizer(
    model: nn.Module,
    settings: OptimizerSettings,
    lr_multipliers: Mapping[str, float] | None = None,
    *,
    fused: bool = False,
) -> torch.optim.Optimizer:
    """Build the optimizer of the recipe. SGD has dampening 0, as in the release's train.lua.

    ``fused`` selects PyTorch's fused kernels (SGD and AdamW). ``lr_multipliers`` scale the learning rate by
    module (``finetune.lr_multipliers``); 1 by default.
    """
    groups, lr, momentum = build_parameter_groups(model, settings, lr_multipliers), settings.lr, settings.momentum
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr, momentum, nesterov=settings.nesterov and momentum > 0, fused=fused or None)
    betas = (settings.betas[0], settings.betas[1])
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr, betas, fused=fused or None)
    try:
        from timm.optim.lamb import Lamb  # You et al. 2020; clips gradients to a global norm of 1
    except ImportError:
        raise RequestError("optimizer.name lamb needs timm: pip install 'resnext[modern]'") from None
    return cast(torch.optim.Optimizer, Lamb(groups, lr, betas=betas))


def build_parameter_groups(
    model: nn.Module, settings: OptimizerSettings, lr_multipliers: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Group the trainable parameters by weight decay and learning-rate multiplier (``lr_scale``).

    With ``decay`` "weights", norms and biases have no weight decay; with "not_norms" only norms have none
    (torchvision's ``--norm-weight-decay 0``). The paper decays "all weights and biases instead of just the
    weights of the convolution layers" (Section 4).
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for path, module in model.named_modules():
        scale = (lr_multipliers or {}).get(path.partition(".")[0], 1.0)
        for name, parameter in module.named_parameters(recurse=False):
            spare = settings.weight_decay_on != "all" and (
                isinstance(module, _NormBase) or (settings.weight_decay_on == "weights" and name == "bias")
            )
            if parameter.requires_grad:
                groups.setdefault((0.0 if spare else settings.weight_decay, scale), []).append(parameter)
    return [{"params": ps, "weight_decay": decay, "lr_scale": scale} for (decay, scale), ps in groups.items()]


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group to ``lr`` times the group's multiplier."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
