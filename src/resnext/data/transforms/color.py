"""Colour augmentation of the paper's ImageNet recipe, on float images in 0..1. As in Torch, values are not clamped."""

from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

GREY = (0.299, 0.587, 0.114)  # weights of R, G, B
# Principal components of ImageNet's RGB pixels (AlexNet; datasets/imagenet.lua of the release). Each column of
# EIGENVECTORS belongs to one eigenvalue.
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
_EIGENVALUES, _EIGENVECTORS = (torch.tensor(t, dtype=torch.float64) for t in (EIGENVALUES, EIGENVECTORS))
OPERATIONS = ("brightness", "contrast", "saturation")


class ColorJitter(v2.Transform):
    """Changes brightness, contrast and saturation, each by alpha = 1 + U(-amount, amount), in a random order."""

    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:  # noqa: ARG002 - does not depend on the image
        """Draw ``steps``: the three operations in a random order, each with its alpha."""
        order = torch.randperm(len(OPERATIONS)).tolist()
        alphas = (1 + self.amount * (2 * torch.rand(len(OPERATIONS), dtype=torch.float64) - 1)).tolist()
        return {"steps": tuple((OPERATIONS[i], alphas[i]) for i in order)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Apply the steps to a float image [3, H, W]."""
        for operation, alpha in params["steps"]:
            inpt = _blend(inpt, operation, alpha)
        return inpt


def _blend(image: Tensor, operation: str, alpha: float) -> Tensor:
    """Return alpha * image + (1 - alpha) * (black, the mean grey, or the grey image)."""
    scaled = image * alpha
    if operation == "brightness":
        return scaled
    red, green, blue = image
    grey = GREY[0] * red + GREY[1] * green + GREY[2] * blue
    return scaled.add_(grey.mean() if operation == "contrast" else grey, alpha=1 - alpha)


class Lighting(v2.Transform):
    """Adds a random colour to the whole image: the sum of alpha_j * eigenvalue_j * eigenvector_j (AlexNet)."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:  # noqa: ARG002 - does not depend on the image
        """Draw ``shift``: the values to add to R, G and B."""
        alpha = torch.randn(3, dtype=torch.float64) * self.std
        return {"shift": _EIGENVECTORS @ (alpha * _EIGENVALUES)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Add the shift to a float image [3, H, W]."""
        return inpt + params["shift"].to(inpt.dtype).view(3, 1, 1)
