"""Colour augmentation of the paper's ImageNet recipe, on float images in 0..1. As in Torch, values are not clamped."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

GREY = (0.299, 0.587, 0.114)  # weights of R, G, B
# Principal components of ImageNet's RGB pixels (AlexNet; datasets/imagenet.lua of the release). Each column of
# EIGENVECTORS belongs to one eigenvalue.
EIGENVALUES = torch.tensor((0.2175, 0.0188, 0.0045), dtype=torch.float64)
EIGENVECTORS = torch.tensor(
    ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203)), dtype=torch.float64
)
OPERATIONS = ("brightness", "contrast", "saturation")


@dataclass(frozen=True)
class ColorJitter:
    """Changes brightness, contrast and saturation, each by alpha = 1 + U(-amount, amount), in a random order."""

    amount: float

    def __call__(self, image: Tensor) -> Tensor:
        """Change a float image [3, H, W]."""
        return self.apply(image, self.draw_steps())

    def draw_steps(self) -> tuple[tuple[str, float], ...]:
        """Draw the three operations in a random order, each with its alpha."""
        order = torch.randperm(len(OPERATIONS)).tolist()
        alphas = (1 + self.amount * (2 * torch.rand(len(OPERATIONS), dtype=torch.float64) - 1)).tolist()
        return tuple((OPERATIONS[i], alphas[i]) for i in order)

    @staticmethod
    def apply(image: Tensor, steps: Sequence[tuple[str, float]]) -> Tensor:
        """Apply the steps to a float image [3, H, W]."""
        for operation, alpha in steps:
            image = _blend(image, operation, alpha)
        return image


def _blend(image: Tensor, operation: str, alpha: float) -> Tensor:
    """Return alpha * image + (1 - alpha) * (black, the mean grey, or the grey image)."""
    scaled = image * alpha
    if operation == "brightness":
        return scaled
    red, green, blue = image
    grey = GREY[0] * red + GREY[1] * green + GREY[2] * blue
    return scaled.add_(grey.mean() if operation == "contrast" else grey, alpha=1 - alpha)


@dataclass(frozen=True)
class Lighting:
    """Adds a random colour to the whole image: the sum of alpha_j * eigenvalue_j * eigenvector_j (AlexNet)."""

    std: float

    def __call__(self, image: Tensor) -> Tensor:
        """Change a float image [3, H, W]."""
        return self.apply(image, self.draw_shift())

    def draw_shift(self) -> Tensor:
        """Draw the values to add to R, G and B, float64 [3]."""
        alpha = torch.randn(3, dtype=torch.float64) * self.std
        return EIGENVECTORS @ (alpha * EIGENVALUES)

    @staticmethod
    def apply(image: Tensor, shift: Tensor) -> Tensor:
        """Add the shift to a float image [3, H, W]."""
        return image + shift.to(image.dtype).view(3, 1, 1)
