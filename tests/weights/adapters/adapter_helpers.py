"""What the tests of the adapters share: raw files without files, weights that hide nothing, one picture."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resnext.data.preprocessing import normalize
from resnext.weights.build import build_network
from resnext.weights.network_spec import NetworkSpec, RawCheckpoint


def make_raw(value: Any, container: str = "torch zip", config: dict[str, Any] | None = None) -> RawCheckpoint:
    return RawCheckpoint(path=Path("some/file.pth"), file_format=container, value=value, config=config)


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in eval mode with statistics and weights of BN that show any mix-up of them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            kind = name.rsplit(".", 1)[-1]
            if kind == "running_var":
                tensor.uniform_(0.5, 2, generator=generator)
            elif kind == "running_mean" or (kind == "bias" and tensor.dim() == 1):
                tensor.uniform_(-0.5, 0.5, generator=generator)
            elif kind == "weight" and tensor.dim() == 1:
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.dim() > 1:
                tensor.normal_(std=(2 / tensor[0].numel()) ** 0.5, generator=generator)
    return model.eval()


def make_images(size: int = 64, seed: int = 1) -> Tensor:
    """Two pictures of bytes [2, 3, size, size] in RGB, other in every channel."""
    pixels = torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(seed))
    return (pixels * torch.tensor([1.0, 0.6, 0.3]).view(1, 3, 1, 1)).to(torch.uint8)


def compute_outputs(spec: NetworkSpec, pixels: Tensor) -> Tensor:
    """What the network of ``contents`` makes of bytes, through its own preprocessing."""
    model = build_network(spec, "file")
    assert model.preprocessing is not None
    with torch.no_grad():
        return model(normalize(pixels, model.preprocessing, "cpu"))


def copy_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
