"""Input pipelines of other libraries with the paper's augmentation, for ``resnext bench data``."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import InterpolationMode, v2

from resnext.data.colour import Jitter, Lighting
from resnext.data.fast import resized_box

JITTER, LIGHTING, FLIP = 0.4, 0.1, 0.5
Batches = Callable[[], Iterator[Any]]


def image_folder(root: Path, size: int, batch: int, workers: int) -> Batches:
    """Use torchvision's ImageFolder with Pillow: crop, jitter and flip on the PIL image, lighting on the tensor."""
    steps = [
        v2.RandomResizedCrop(size, interpolation=InterpolationMode.BICUBIC, antialias=True),
        v2.ColorJitter(JITTER, JITTER, JITTER),
        v2.RandomHorizontalFlip(FLIP),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        Lighting(LIGHTING),
    ]
    return _batches(ImageFolder(str(root), v2.Compose(steps)), batch, workers)


def decoded_tensors(root: Path, size: int, batch: int, workers: int) -> Batches:
    """Use torchvision.io's decoder and v2 transforms on tensors."""
    steps = [
        v2.RandomResizedCrop(size, interpolation=InterpolationMode.BICUBIC, antialias=True),
        v2.RandomHorizontalFlip(FLIP),
        v2.ColorJitter(JITTER, JITTER, JITTER),
        v2.ToDtype(torch.float32, scale=True),
        Lighting(LIGHTING),
    ]
    return _batches(ImageFolder(str(root), v2.Compose(steps), loader=_tensor_of), batch, workers)


def opencv(root: Path, size: int, batch: int, workers: int) -> Batches:
    """Use OpenCV's decoder and resize (INTER_AREA when shrinking, for antialiasing) and our colour transforms."""
    import cv2

    cv2.setNumThreads(1)
    return _batches(ImageFolder(str(root), _OpenCV(size), loader=_pixels_of), batch, workers)


class _OpenCV:
    def __init__(self, size: int) -> None:
        self.size, self.jitter, self.lighting = size, Jitter(JITTER), Lighting(LIGHTING)

    def __call__(self, pixels: np.ndarray) -> Tensor:
        import cv2

        left, top, width, height = resized_box(pixels.shape[1], pixels.shape[0], 0.08)
        crop = pixels[top : top + height, left : left + width]
        shrinks = min(width, height) > self.size
        crop = cv2.resize(crop, (self.size, self.size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
        if torch.rand(1) < FLIP:
            crop = crop[:, ::-1]
        crop = cv2.cvtColor(crop, cv2.COLOR_BGR2RGB)
        image = torch.from_numpy(crop).permute(2, 0, 1).to(torch.float32).div_(255)
        return self.lighting(self.jitter(image))


def _tensor_of(path: str) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer releases recommend another package
        return decode_image(path, mode=ImageReadMode.RGB)


def _pixels_of(path: str) -> Any:
    import cv2

    return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)


def _batches(dataset: ImageFolder, batch: int, workers: int) -> Batches:
    loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
        dataset, batch, shuffle=True, num_workers=workers
    )
    return lambda: iter(loader)
