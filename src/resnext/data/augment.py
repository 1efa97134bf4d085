"""The two ways a picture becomes an input: the fixed view of evaluation and the random one of training.

Random draws come from torch's global CPU generator, which the loader seeds for each image.
"""

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from resnext.data.colour import Jitter, Lighting
from resnext.data.crops import Mode, PaperCrop, View, to_tensor
from resnext.data.preprocessing import Preprocessing
from resnext.errors import RequestError, nearest
from resnext.settings import CROPS, AugmentSettings

Transform = Callable[[Image.Image], Tensor]


def eval_transform(preprocessing: Preprocessing) -> Transform:
    """A picture to uint8 [C, S, S], with S = image_size. Draws nothing."""
    return v2.Compose([Mode(preprocessing.channels), View(preprocessing), to_tensor])


def train_transform(augment: AugmentSettings, preprocessing: Preprocessing) -> Transform:
    """A picture to uint8 [C, S, S]; float32 in 0..1, not clamped, where jitter or lighting run.

    Order as in the release (datasets/imagenet.lua): crop, jitter, lighting, flip; TrivialAugmentWide follows the
    crop and random erasing (with the mean colour) ends. Raises RequestError for colour noise on grey images.
    """
    coloured = augment.jitter > 0 or augment.lighting > 0
    if coloured and preprocessing.channels != 3:
        said = "jitter" if augment.jitter > 0 else "lighting"
        raise RequestError(f"augment.{said} works on RGB images, but these are grey; set it to 0")
    steps: list[Any] = [Mode(preprocessing.channels), *_crop(augment, preprocessing)]
    if augment.trivial_augment:
        steps.append(v2.TrivialAugmentWide())
    steps.append(to_tensor)
    if coloured:
        steps.append(to_float)
    if augment.jitter > 0:
        steps.append(Jitter(augment.jitter))
    if augment.lighting > 0:
        steps.append(Lighting(augment.lighting))
    if augment.flip > 0:
        steps.append(v2.RandomHorizontalFlip(augment.flip))
    if augment.erase > 0:
        colour = [c / 255 for c in preprocessing.mean_colour] if coloured else list(preprocessing.mean_colour)
        steps.append(v2.RandomErasing(augment.erase, value=colour))
    return v2.Compose(steps)


def to_float(image: Tensor) -> Tensor:
    """uint8 in 0..255 to float32 in 0..1."""
    return image.to(torch.float32).div_(255)


def _crop(augment: AugmentSettings, preprocessing: Preprocessing) -> list[Any]:
    """The steps from a picture to a square picture of image_size."""
    p = preprocessing
    if augment.crop == "center":
        return [View(p)]
    if augment.crop == "pad":
        # The release pads with zeros after normalising (flip first, which changes nothing in distribution):
        # before normalising, its zero is the mean colour.
        colour = p.mean_colour if p.channels == 3 else p.mean_colour[0]
        return [View(p), v2.RandomCrop(p.image_size, padding=augment.pad, fill=colour)]
    if augment.crop == "random_resized":
        interpolation = InterpolationMode(p.interpolation)
        area = (augment.min_area, 1.0)
        return [v2.RandomResizedCrop(p.image_size, scale=area, interpolation=interpolation, antialias=True)]
    if augment.crop == "paper_imagenet":
        return [PaperCrop(p.image_size, min_area=augment.min_area, interpolation=p.interpolation)]
    raise RequestError(f"augment.crop {augment.crop!r} is unknown{nearest(augment.crop, CROPS)}")
