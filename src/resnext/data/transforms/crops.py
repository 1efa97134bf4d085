"""The release's random crop for training, and the conversion of images to tensors."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from resnext.data.transforms.eval_view import FILTERS, resize_shorter_side

MAX_ATTEMPTS = 10  # tries of the release's RandomSizedCrop before it takes the centre


def to_tensor(image: Image.Image) -> Tensor:
    """Convert a PIL image of mode L or RGB to a uint8 tensor [C, H, W]."""
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class PaperCrop:
    """RandomSizedCrop of the release (datasets/transforms.lua of fb.resnet.torch; paper/README 2.1).

    The share of the area is uniform in (min_area, 1), the aspect ratio is uniform in (3/4, 4/3), the sides are swapped
    half of the time, and the position is uniform. After ten tries that do not fit, the centre is taken. In
    torchvision's RandomResizedCrop the logarithm of the aspect ratio is uniform instead. One difference from the
    release: pixels are resized by PIL's antialiased filter.
    """

    size: int
    min_area: float = 0.08
    interpolation: str = "bicubic"

    def __call__(self, image: Image.Image) -> Image.Image:
        """Draw a crop and resize it."""
        return self.apply(image, self.draw_box(*image.size))

    def draw_box(self, width: int, height: int) -> tuple[int, int, int, int] | None:
        """Draw left, top, width and height of a crop of an image of this size; None if no try fits."""
        for _ in range(MAX_ATTEMPTS):
            area = _draw_uniform(self.min_area, 1) * height * width
            aspect = _draw_uniform(3 / 4, 4 / 3)
            w, h = _round_half_up(math.sqrt(area * aspect)), _round_half_up(math.sqrt(area / aspect))
            if _draw_uniform(0, 1) < 0.5:
                w, h = h, w
            if 1 <= w <= width and 1 <= h <= height:
                top = _draw_integer(height - h)
                return _draw_integer(width - w), top, w, h
        return None

    def apply(self, image: Image.Image, box: tuple[int, int, int, int] | None) -> Image.Image:
        """Crop left, top, width and height, and resize this to the square; without a box take the centre."""
        size, resample = self.size, FILTERS[self.interpolation]
        if box is None:  # the release's Scale(size) and CenterCrop, which round half pixels up (torchvision: to even)
            image = resize_shorter_side(image, size, resample)
            box = math.ceil((image.width - size) / 2), math.ceil((image.height - size) / 2), size, size
        left, top, w, h = box
        crop = image.crop((left, top, left + w, top + h))
        return crop if crop.size == (size, size) else crop.resize((size, size), resample)


def _draw_uniform(low: float, high: float) -> float:
    """Draw a float64 from torch's global generator, which the loader seeds for each image."""
    return low + (high - low) * torch.rand((), dtype=torch.float64).item()


def _draw_integer(high: int) -> int:
    """Draw an integer from 0 to ``high``, both included."""
    return int(torch.randint(0, high + 1, ()).item())


def _round_half_up(value: float) -> int:
    """Round halves up, as Lua's torch.round does for positive numbers; Python's round goes to even."""
    return math.floor(value + 0.5)
