"""Small networks for these tests, with BN statistics that affect the output."""

import torch
from torch import nn

from resnext import Network, create_model
from resnext.deploy.engines import Engine

SMALL = {"base_channels": 8, "num_classes": 10}


def lived(name: str = "resnext11_4x4d", **changes: object) -> Network:
    """Build a float32 network in eval mode with non-trivial BN statistics, including tiny variances."""
    network = create_model(name, seed=0, **(SMALL | changes))
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            count = module.num_features
            module.running_mean = torch.randn(count, generator=generator)
            module.running_var = torch.rand(count, generator=generator) + 0.5
            module.running_var[0] = 1e-3
            module.weight.data = torch.rand(count, generator=generator) + 0.5
            module.bias.data = torch.randn(count, generator=generator)
    return network.eval()


def images(count: int = 3, side: int = 32, channels: int = 3) -> torch.Tensor:
    """Normalised images of noise."""
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(2))


def compute_logits(engine: Engine, x: torch.Tensor) -> torch.Tensor:
    """Run an engine on a tensor."""
    return torch.from_numpy(engine(x.numpy()).logits)
