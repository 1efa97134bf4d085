"""Small float64 networks in which no tensor has its initial value."""

from typing import Any

import torch
from torch import Tensor

from resnext.model.architecture import Architecture
from resnext.model.network import Network, convert_form, create_model
from tests.model.random_weights import perturb

KINDS: dict[str, dict[str, Any]] = {
    "bottleneck": {},
    "basic": {"block": "basic"},
    "pre-activation": {"pre_activation": True},
    "basic pre-activation": {"block": "basic", "pre_activation": True},
    "without shortcuts": {"shortcut": "none"},
    "unequal": {"stage_cardinalities": (3, 5)},
}


def network(kind: str = "bottleneck", form: str = "grouped", **changes: Any) -> Network:
    """Build a network of two stages of 4 paths, two blocks in the first, in eval mode."""
    fields = {"blocks": (2, 1), "stem": "cifar", "width": 3, "base_channels": 4, "num_classes": 5} | KINDS[kind]
    if "stage_cardinalities" not in fields | changes:
        fields["cardinality"] = 4
    model = create_model(Architecture(**fields | changes), seed=1).double().eval()
    perturb(model)
    return model if form == "grouped" else convert_form(model, form)


def images(count: int = 4, side: int = 9, seed: int = 3) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
