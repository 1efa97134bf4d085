"""Which part of a picture the network sees: the evaluation view, and the random crops of training.

All resizing is PIL's, antialiased: the reference that published accuracies were measured with.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from resnext.data.preprocessing import Preprocessing

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
ATTEMPTS = 10  # of the release's RandomSizedCrop, before it takes the centre
LONGEST = 32  # long side over short side that a view keeps before resizing: a 1 x 100000 strip must not fill memory


def to_tensor(image: Image.Image) -> Tensor:
    """A picture of mode L or RGB as uint8 [C, H, W]."""
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class Mode:
    """A picture in the colours the network takes: grey (ITU-R 601) or RGB."""

    channels: int

    def __call__(self, image: Image.Image) -> Image.Image:
        wanted = "L" if self.channels == 1 else "RGB"
        return image if image.mode == wanted else image.convert(wanted)


@dataclass(frozen=True)
class View:
    """The evaluation view: a picture of any size to image_size x image_size pixels, still a picture."""

    preprocessing: Preprocessing

    def __call__(self, image: Image.Image) -> Image.Image:
        p = self.preprocessing
        size, resample = p.image_size, FILTERS[p.interpolation]
        if p.fit == "crop":
            return center_crop(resize_shorter(image, p.resize, resample), size)
        if image.size == (size, size):
            return image
        if p.fit == "squash":
            return image.resize((size, size), resample)
        return _letterbox(image, size, resample, p.mean_colour)


def resize_shorter(image: Image.Image, size: int, resample: Image.Resampling) -> Image.Image:
    """Shorter side to ``size``, longer side to int(size * long / short), as torchvision's Resize of one number."""
    width, height = image.size
    if min(width, height) == size:
        return image
    image = long_side_cut(image, LONGEST)
    width, height = image.size
    longer = int(size * max(width, height) / min(width, height))
    return image.resize((size, longer) if width <= height else (longer, size), resample)


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """The middle size x size pixels, rounded as torchvision's CenterCrop does."""
    width, height = image.size
    if (width, height) == (size, size):
        return image
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def long_side_cut(image: Image.Image, ratio: int) -> Image.Image:
    """The middle of the longer side where it is more than ``ratio`` times the shorter one; else the picture itself."""
    width, height = image.size
    length = ratio * min(width, height)
    if max(width, height) <= length:
        return image
    if width >= height:
        left = (width - length) // 2
        return image.crop((left, 0, left + length, height))
    top = (height - length) // 2
    return image.crop((0, top, width, top + length))


def _letterbox(image: Image.Image, size: int, resample: Image.Resampling, colour: tuple[int, ...]) -> Image.Image:
    """The whole picture, as large as fits, in the middle of a square of the mean colour."""
    width, height = image.size
    long = max(width, height)
    inner = (max(1, round(width * size / long)), max(1, round(height * size / long)))
    canvas = Image.new(image.mode, (size, size), colour if len(colour) > 1 else colour[0])
    scaled = image if inner == image.size else image.resize(inner, resample)
    canvas.paste(scaled, ((size - inner[0]) // 2, (size - inner[1]) // 2))
    return canvas


class PaperCrop(v2.Transform):
    """RandomSizedCrop of the release (datasets/transforms.lua of fb.resnet.torch; paper/README 2.1).

    Area share uniform in (min_area, 1), aspect uniform in (3/4, 4/3), sides swapped half of the time, a uniform
    position; after ten attempts that do not fit, the centre. torchvision's RandomResizedCrop differs: its aspect is
    uniform in the logarithm. The one difference from the release: pixels are resized by PIL's antialiased filter.
    """

    _transformed_types = (Image.Image,)

    def __init__(self, size: int, *, min_area: float = 0.08, interpolation: str = "bicubic") -> None:
        super().__init__()
        self.size, self.min_area, self.interpolation = size, min_area, interpolation

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """``box`` as (top, left, height, width), or None where no attempt fits."""
        height, width = F.get_size(flat_inputs[0])
        box = self.box(width, height)
        return {"box": box and (box[1], box[0], box[3], box[2])}

    def box(self, width: int, height: int) -> tuple[int, int, int, int] | None:
        """Left, top, width and height of the crop drawn for a picture of this size; None where no attempt fits."""
        for _ in range(ATTEMPTS):
            area = _uniform(self.min_area, 1) * height * width
            aspect = _uniform(3 / 4, 4 / 3)
            w, h = _round(math.sqrt(area * aspect)), _round(math.sqrt(area / aspect))
            if _uniform(0, 1) < 0.5:
                w, h = h, w
            if 1 <= w <= width and 1 <= h <= height:
                top = _whole(height - h)
                return _whole(width - w), top, w, h
        return None

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """The box, resized to the square."""
        resample = FILTERS[self.interpolation]
        if params["box"] is None:
            return self._center(inpt, resample)
        top, left, h, w = params["box"]
        crop = inpt.crop((left, top, left + w, top + h))
        return crop if crop.size == (self.size, self.size) else crop.resize((self.size, self.size), resample)

    def _center(self, image: Image.Image, resample: Image.Resampling) -> Image.Image:
        """Scale(size) and CenterCrop of the release, whose half pixels go up where torchvision's go to even."""
        scaled = resize_shorter(image, self.size, resample)
        left, top = math.ceil((scaled.width - self.size) / 2), math.ceil((scaled.height - self.size) / 2)
        return scaled.crop((left, top, left + self.size, top + self.size))


def _uniform(low: float, high: float) -> float:
    """A float64 draw from torch's global generator, which the loader seeds for each image."""
    return low + (high - low) * torch.rand((), dtype=torch.float64).item()


def _whole(high: int) -> int:
    """A whole number from 0 to ``high``, both included."""
    return int(torch.randint(0, high + 1, ()).item())


def _round(value: float) -> int:
    """Half up, as Lua's torch.round on positive numbers; Python's round goes to even."""
    return math.floor(value + 0.5)
