"""What the tests of the adapters share: raw files without files, weights that hide nothing, one picture."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resnext.data.normalization import normalize
from resnext.errors import RequestError
from resnext.model.architecture import Architecture
from resnext.model.network import Network, create_model
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


def check_outputs(
    spec: NetworkSpec, model: nn.Module, mean: list[float], std: list[float], *, bgr: bool = True, size: int = 64
) -> None:
    """The network computes what ``model`` computes of the same bytes, less ``mean`` and divided by ``std``."""
    pixels = make_images(size)
    x = pixels.flip(1).float() if bgr else pixels.float()
    with torch.no_grad():
        expected = model((x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1))
    torch.testing.assert_close(compute_outputs(spec, pixels), expected, rtol=1e-4, atol=1e-4)


def make_network(**changes: Any) -> Network:
    """A narrow network of four stages with ``changes``, and with weights that hide nothing."""
    fields: dict[str, Any] = {"blocks": (1, 1, 1, 1), "cardinality": 2, "width": 2, "num_classes": 3} | changes
    if "stage_widths" in changes or (fields.get("block") == "basic" and "width" not in changes):
        fields["width"] = None
    return randomize(create_model(Architecture(depth=None, **fields), seed=0))  # type: ignore[return-value]


def get_error(act: Callable[[], object], start: str = "some/file") -> str:
    """The one line, beginning with ``start``, in which ``act`` refuses."""
    with pytest.raises(RequestError) as caught:
        act()
    said = str(caught.value)
    assert said.startswith(start)
    assert said.isprintable()
    return said


def copy_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
