"""What evaluation and prediction need of a model: networks and the engines of ``Predictor`` are such classifiers."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from resnext.data.preprocessing import Preprocessing
from resnext.model.architecture import Architecture


class Classifier(Protocol):
    """A model that computes logits [B, K] of images [B, C, H, W]."""

    @property
    def architecture(self) -> Architecture:
        """The shape of the network, with the number of its outputs."""

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How its images are prepared; None where the weights do not say."""

    provenance: dict[str, Any]  # where the weights come from

    classes: tuple[str, ...] | None  # the names of its outputs; None where the weights do not say

    def __call__(self, images: Tensor, /) -> Tensor:
        """Compute logits [B, K] of normalised images [B, C, H, W]."""


def get_device(model: Classifier) -> torch.device:
    """Return the device of the model's weights; the CPU for a model without."""
    first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return torch.device("cpu") if first is None else first.device
