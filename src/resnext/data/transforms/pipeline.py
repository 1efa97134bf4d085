"""Build the transforms: the fixed view of evaluation, and the random augmentation of training.

Random draws come from torch's global CPU generator, which the loader seeds for each image.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from resnext.data.decode.turbojpeg import load_decoder
from resnext.data.preprocessing import Preprocessing
from resnext.data.transforms.color import ColorJitter, Lighting
from resnext.data.transforms.crops import PaperCrop, to_tensor
from resnext.data.transforms.eval_view import ConvertMode, EvalView
from resnext.data.transforms.from_jpeg import JpegTransform
from resnext.data.transforms.rand_augment import RandAugment
from resnext.errors import RequestError, did_you_mean
from resnext.settings import CROPS, AugmentSettings

RESIZED_CROPS = ("random_resized", "paper_imagenet")  # crops that can give any output size
Transform = Callable[[Image.Image], Tensor]


def build_eval_transform(preprocessing: Preprocessing) -> Transform:
    """Build the evaluation transform: an image to uint8 [C, S, S] with S = image_size. It is not random."""
    composed: Transform = v2.Compose([ConvertMode(preprocessing.channels), EvalView(preprocessing), to_tensor])
    return composed


def build_train_transform(augment: AugmentSettings, preprocessing: Preprocessing) -> Transform:
    """Build the training transform: an image to uint8 [C, S, S] with S = augment.size or image_size.

    With jitter or lighting the result is float32 in 0..1, not clamped. The order is that of the release
    (datasets/imagenet.lua): crop, jitter, lighting, flip. TrivialAugmentWide or RandAugment follow the crop, and random
    erasing (with the mean colour) is last. Raises RequestError for colour augmentation of grey images.
    """
    preprocessing = resolve_train_preprocessing(augment, preprocessing)
    if preprocessing.channels != 3:
        for said in ("color_jitter", "lighting", "rand_augment"):
            if getattr(augment, said):
                raise RequestError(f"augment.{said} works on RGB images, but these are grey; leave it out")
    steps: list[Any] = [ConvertMode(preprocessing.channels), *_build_crop(augment, preprocessing)]
    if augment.trivial_augment:
        steps.append(v2.TrivialAugmentWide())
    if augment.rand_augment is not None:
        steps.append(RandAugment(augment.rand_augment, preprocessing))
    steps.append(to_tensor)
    if augment.color_jitter > 0 or augment.lighting > 0:
        steps.append(to_float)
    if augment.color_jitter > 0:
        steps.append(ColorJitter(augment.color_jitter))
    if augment.lighting > 0:
        steps.append(Lighting(augment.lighting))
    if augment.flip > 0:
        steps.append(v2.RandomHorizontalFlip(augment.flip))
    if augment.random_erasing > 0:
        steps.append(_build_erasing(augment, preprocessing))
    composed: Transform = v2.Compose(steps)
    return composed


def build_jpeg_transform(augment: AugmentSettings, preprocessing: Preprocessing) -> Transform:
    """Build the training transform so that it also takes JPEG files, if the fast decoder supports the augmentation.

    Supported is a resized crop of RGB images, with or without jitter, lighting, flip and erasing. For other settings
    this returns ``build_train_transform``.
    """
    exact = build_train_transform(augment, preprocessing)
    p = resolve_train_preprocessing(augment, preprocessing)
    has_policy = augment.trivial_augment or augment.rand_augment is not None
    if augment.crop not in RESIZED_CROPS or has_policy or p.channels != 3:
        return exact
    load_decoder()  # compile it, or warn, here once and not in every worker
    return JpegTransform(
        exact,
        size=p.image_size,
        bicubic=p.interpolation == "bicubic",
        paper_crop=PaperCrop(p.image_size, min_area=augment.min_area) if augment.crop == "paper_imagenet" else None,
        min_area=augment.min_area,
        jitter=ColorJitter(augment.color_jitter) if augment.color_jitter > 0 else None,
        lighting=Lighting(augment.lighting) if augment.lighting > 0 else None,
        flip=augment.flip,
        erasing=_build_erasing(augment, p) if augment.random_erasing > 0 else None,
        exif=p.exif,
    )


def _build_erasing(augment: AugmentSettings, preprocessing: Preprocessing) -> v2.RandomErasing:
    """Build random erasing with the mean colour, on the scale of the steps before it (0..1 or 0..255)."""
    coloured = augment.color_jitter > 0 or augment.lighting > 0
    colour = [c / 255 for c in preprocessing.mean_color] if coloured else list(preprocessing.mean_color)
    return v2.RandomErasing(augment.random_erasing, value=colour)


def resolve_train_preprocessing(augment: AugmentSettings, preprocessing: Preprocessing) -> Preprocessing:
    """Return ``preprocessing`` with the image size of training, ``augment.size``, if that is set."""
    if augment.size is None:
        return preprocessing
    if augment.crop not in RESIZED_CROPS:
        raise RequestError(
            f"augment.size {augment.size} needs a resized crop, augment.crop {' or '.join(RESIZED_CROPS)}, not "
            f"{augment.crop}"
        )
    return replace(preprocessing, image_size=augment.size, resize=max(augment.size, preprocessing.resize))


def to_float(image: Tensor) -> Tensor:
    """Convert uint8 in 0..255 to float32 in 0..1."""
    return image.to(torch.float32).div_(255)


def _build_crop(augment: AugmentSettings, preprocessing: Preprocessing) -> list[Any]:
    """Build the steps from an image to a square image of image_size."""
    p = preprocessing
    if augment.crop == "center":
        return [EvalView(p)]
    if augment.crop == "pad":
        # The release pads with zeros after normalising; before normalising, this zero is the mean colour. (It also
        # flips first, which does not change the distribution.)
        colour = p.mean_color if p.channels == 3 else p.mean_color[0]
        return [EvalView(p), v2.RandomCrop(p.image_size, padding=augment.pad, fill=colour)]
    if augment.crop == "random_resized":
        interpolation = InterpolationMode(p.interpolation)
        area = (augment.min_area, 1.0)
        return [v2.RandomResizedCrop(p.image_size, scale=area, interpolation=interpolation, antialias=True)]
    if augment.crop == "paper_imagenet":
        return [PaperCrop(p.image_size, min_area=augment.min_area, interpolation=p.interpolation)]
    raise RequestError(f"augment.crop {augment.crop!r} is unknown{did_you_mean(augment.crop, CROPS)}")
