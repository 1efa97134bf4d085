"""Preprocessing of a detector's input: a frozen value that is saved with the weights. ``apply`` imports torch."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from resnext.data.preprocessing import MAX_SIDE, Preprocessing, StoredPreprocessing, check_choice, check_integer
from resnext.detection.settings import RESIZES, DetectDataSettings, Resize
from resnext.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class DetectPreprocessing(StoredPreprocessing):
    """How an image becomes a detector's input: resizing and normalization. ``load_detector`` sets it.

    Attributes:
        min_size: Shorter side after resizing, in pixels.
        max_size: Limit of the longer side, in pixels; the shorter one is reduced where necessary.
        resize: ``antialias``: bilinear on uint8 with antialiasing; ``torchvision``: on floats, without antialiasing.
        mean: Mean of each channel, on the scale of 0 to 1.
        std: Standard deviation of each channel, on the same scale.
        exif: Whether image files are turned upright by their EXIF orientation when they are opened.

    Raises:
        RequestError: A value is out of range.
    """

    min_size: int = 800
    max_size: int = 1333
    resize: Resize = "antialias"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    exif: bool = True

    def __post_init__(self) -> None:
        check_integer("min_size", self.min_size, MAX_SIDE)
        check_integer("max_size", self.max_size, MAX_SIDE)
        if self.max_size < self.min_size:
            raise RequestError(f"max_size {self.max_size} is below min_size {self.min_size}")
        check_choice("resize", self.resize, RESIZES)
        self._check_shared_fields(3)

    @staticmethod
    def from_settings(
        settings: DetectDataSettings, base: "Preprocessing | DetectPreprocessing | None" = None
    ) -> "DetectPreprocessing":
        """Build from the settings; mean and std default to those of the initial weights (``base``), else ImageNet's."""
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if base is None else (base.mean, base.std)
        return DetectPreprocessing(
            min_size=settings.min_size,
            max_size=settings.max_size,
            resize=settings.resize,
            mean=mean if settings.mean is None else settings.mean,
            std=std if settings.std is None else settings.std,
            exif=settings.exif,
        )

    def compute_size(self, width: int, height: int, min_size: int | None = None) -> tuple[int, int]:
        """Compute the width and height that an image is resized to; ``min_size`` overrides the usual one."""
        shorter, longer = min(width, height), max(width, height)
        scale = min((min_size or self.min_size) / shorter, self.max_size / longer)
        if self.resize == "torchvision":  # interpolate rounds down there
            return max(math.floor(width * scale), 1), max(math.floor(height * scale), 1)
        return max(round(width * scale), 1), max(round(height * scale), 1)

    def apply(self, image: Image.Image, min_size: int | None = None) -> "Tensor":
        """Resize an RGB image to [3, H, W]: uint8, or float32 from 0 to 1 where ``resize`` is torchvision."""
        import torch
        from torchvision.transforms.v2 import functional as F

        width, height = self.compute_size(*image.size, min_size)
        tensor: Tensor = F.pil_to_tensor(image)
        if self.resize == "torchvision":
            scaled = tensor.float().div_(255)[None]
            tensor = torch.nn.functional.interpolate(scaled, (height, width), mode="bilinear", align_corners=False)[0]
        elif (height, width) != tuple(tensor.shape[1:]):
            tensor = F.resize(tensor, [height, width], F.InterpolationMode.BILINEAR, antialias=True)
        return tensor
