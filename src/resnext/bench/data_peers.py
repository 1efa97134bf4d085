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

from resnext.data.transforms.color import ColorJitter, Lighting
from resnext.data.transforms.from_jpeg import draw_resized_box

JITTER, LIGHTING, FLIP = 0.4, 0.1, 0.5
Batches = Callable[[], Iterator[Any]]


def make_image_folder_batches(root: Path, size: int, batch: int, workers: int) -> Batches:
    """Use torchvision's ImageFolder with Pillow: crop, jitter and flip on the PIL image, lighting on the tensor."""
    steps = [
        v2.RandomResizedCrop(size, interpolation=InterpolationMode.BICUBIC, antialias=True),
        v2.ColorJitter(JITTER, JITTER, JITTER),
        v2.RandomHorizontalFlip(FLIP),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        Lighting(LIGHTING),
    ]
    return _make_batches(ImageFolder(str(root), v2.Compose(steps)), batch, workers)


def make_tensor_batches(root: Path, size: int, batch: int, workers: int) -> Batches:
    """Use torchvision.io's decoder and v2 transforms on tensors."""
    steps = [
        v2.RandomResizedCrop(size, interpolation=InterpolationMode.BICUBIC, antialias=True),
        v2.RandomHorizontalFlip(FLIP),
        v2.ColorJitter(JITTER, JITTER, JITTER),
        v2.ToDtype(torch.float32, scale=True),
        Lighting(LIGHTING),
    ]
    return _make_batches(ImageFolder(str(root), v2.Compose(steps), loader=_read_tensor), batch, workers)


def make_opencv_batches(root: Path, size: int, batch: int, workers: int) -> Batches:
    """Use OpenCV's decoder and resize (INTER_AREA when shrinking, for antialiasing) and our colour transforms."""
    import cv2

    cv2.setNumThreads(1)
    return _make_batches(ImageFolder(str(root), _OpenCVTransform(size), loader=_read_pixels), batch, workers)


class _OpenCVTransform:
    def __init__(self, size: int) -> None:
        self.size, self.jitter, self.lighting = size, ColorJitter(JITTER), Lighting(LIGHTING)

    def __call__(self, pixels: np.ndarray) -> Tensor:
        import cv2

        left, top, width, height = draw_resized_box(pixels.shape[1], pixels.shape[0], 0.08)
        crop = pixels[top : top + height, left : left + width]
        shrinks = min(width, height) > self.size
        crop = cv2.resize(crop, (self.size, self.size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
        if torch.rand(1) < FLIP:
            crop = crop[:, ::-1]
        crop = cv2.cvtColor(crop, cv2.COLOR_BGR2RGB)
        image = torch.from_numpy(crop).permute(2, 0, 1).to(torch.float32).div_(255)
        lit: Tensor = self.lighting(self.jitter(image))
        return lit


def _read_tensor(path: str) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer releases recommend another package
        image: Tensor = decode_image(path, mode=ImageReadMode.RGB)
    return image


def _read_pixels(path: str) -> Any:
    import cv2

    return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)


def _make_batches(dataset: ImageFolder, batch: int, workers: int) -> Batches:
    loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
        dataset, batch, shuffle=True, num_workers=workers
    )
    return lambda: iter(loader)
