"""The evaluation view: resize and crop an image as published accuracies do, by PIL with antialiasing. Without torch."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from resnext.data.preprocessing import Preprocessing

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
MAX_ASPECT_RATIO = 32  # of the sides: a longer image is cropped first, so that 1 x 100000 does not fill memory


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


def prepare_pixels(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Return the network's input before normalisation: uint8 [S, S, C] with S = image_size."""
    view = EvalView(preprocessing)(ConvertMode(preprocessing.channels)(image))
    pixels = np.array(view, dtype=np.uint8)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def normalize_pixels(pixels: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Normalise uint8 [N, S, S, C] to float32 [N, C, S, S], with the bits of ``normalization.normalize``."""
    scaled = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32)
    shape = (1, preprocessing.channels, 1, 1)
    scaled /= np.float32(255)
    scaled -= np.array(preprocessing.mean, np.float32).reshape(shape)
    scaled /= np.array(preprocessing.std, np.float32).reshape(shape)
    return scaled
