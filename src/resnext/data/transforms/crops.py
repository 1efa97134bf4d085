"""Resizing and cropping: the evaluation view, and the random crops of training.

All resizing uses PIL with antialiasing, as published accuracies do.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from resnext.data.preprocessing import Preprocessing

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
MAX_ATTEMPTS = 10  # tries of the release's RandomSizedCrop before it takes the centre
MAX_ASPECT_RATIO = 32  # of the sides: a longer image is cropped first, so that 1 x 100000 does not fill memory


def to_tensor(image: Image.Image) -> Tensor:
    """Convert a PIL image of mode L or RGB to a uint8 tensor [C, H, W]."""
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class ConvertMode:
    """Converts an image to the network's channels: grey (ITU-R 601) or RGB."""

    channels: int

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the converted image."""
        wanted = "L" if self.channels == 1 else "RGB"
        return image if image.mode == wanted else image.convert(wanted)


@dataclass(frozen=True)
class EvalView:
    """The evaluation view: resizes and crops (or squashes, or pads) an image to image_size x image_size pixels."""

    preprocessing: Preprocessing

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the view as a PIL image."""
        p = self.preprocessing
        size, resample = p.image_size, FILTERS[p.interpolation]
        if p.crop_mode == "crop":
            return center_crop(resize_shorter_side(image, p.resize, resample), size)
        if image.size == (size, size):
            return image
        if p.crop_mode == "squash":
            return image.resize((size, size), resample)
        return _letterbox(image, size, resample, p.mean_color)


def resize_shorter_side(image: Image.Image, size: int, resample: Image.Resampling) -> Image.Image:
    """Resize the shorter side to ``size``, the longer to int(size * long / short), as torchvision's Resize(size)."""
    width, height = image.size
    if min(width, height) == size:
        return image
    image = crop_long_side(image, MAX_ASPECT_RATIO)
    width, height = image.size
    longer = int(size * max(width, height) / min(width, height))
    return image.resize((size, longer) if width <= height else (longer, size), resample)


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """Crop the middle size x size pixels, rounded as torchvision's CenterCrop does."""
    width, height = image.size
    if (width, height) == (size, size):
        return image
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def crop_long_side(image: Image.Image, ratio: int) -> Image.Image:
    """Crop the middle of the longer side to ``ratio`` times the shorter side; an image within that is not changed."""
    width, height = image.size
    longest = ratio * min(width, height)
    if max(width, height) <= longest:
        return image
    w, h = min(width, longest), min(height, longest)
    left, top = (width - w) // 2, (height - h) // 2
    return image.crop((left, top, left + w, top + h))


def _letterbox(image: Image.Image, size: int, resample: Image.Resampling, colour: tuple[int, ...]) -> Image.Image:
    """Resize the whole image to fit into the square, and pad it with the mean colour."""
    width, height = image.size
    long = max(width, height)
    inner = (max(1, round(width * size / long)), max(1, round(height * size / long)))
    canvas = Image.new(image.mode, (size, size), colour if len(colour) > 1 else colour[0])
    scaled = image if inner == image.size else image.resize(inner, resample)
    canvas.paste(scaled, ((size - inner[0]) // 2, (size - inner[1]) // 2))
    return canvas


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
