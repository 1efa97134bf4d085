"""Weights and statistics that no new network has, so that tests see all of them."""

import torch
from torch import nn


def perturb(model: nn.Module) -> None:
    """Change every value of a float64 network, the same each time; variances stay positive."""
    generator = torch.Generator().manual_seed(2)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif tensor.is_floating_point():
            tensor.add_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64), alpha=0.2)
