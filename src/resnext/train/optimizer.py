"""SGD and AdamW over the parameters, with weight decay on all of them (the paper) or on weights only."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from resnext.settings import OptimizerSettings


def build_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """The optimizer of the recipe. SGD has dampening 0, as the release's train.lua."""
    groups = parameter_groups(model, settings)
    if settings.name == "sgd":
        nesterov = settings.nesterov and settings.momentum > 0
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=nesterov)
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.betas[0], settings.betas[1]))


def parameter_groups(model: nn.Module, settings: OptimizerSettings) -> list[dict[str, object]]:
    """One group with weight decay and, where ``decay`` is "weights", a second without: norms and biases.

    The paper decays "all weights and biases instead of just the weights of the convolution layers" (Section 4).
    """
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            spare = settings.decay == "weights" and (name == "bias" or isinstance(module, _NormBase))
            (spared if spare else decayed).append(parameter)
    groups: list[dict[str, object]] = [{"params": decayed, "weight_decay": settings.weight_decay}]
    if spared:
        groups.append({"params": spared, "weight_decay": 0.0})
    return groups


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the rate ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr
