"""Augment training images with their boxes: flips, random size, color jitter."""

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from resnext.data.transforms.color import ColorJitter
from resnext.detection.preprocessing import DetectPreprocessing
from resnext.detection.settings import DetectAugmentSettings


class Augment:
    """Turns an image and its boxes into the detector's input and boxes in its pixels.

    Always makes the same number of draws from torch's global generator, so that no setting changes another's draws.
    """

    def __init__(self, settings: DetectAugmentSettings, preprocessing: DetectPreprocessing) -> None:
        self.settings, self.preprocessing = settings, preprocessing
        self.sizes = settings.min_sizes or (preprocessing.min_size,)
        self.jitter = ColorJitter(settings.color_jitter)

    def __call__(self, image: Image.Image, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return an image [3, H, W] like ``DetectPreprocessing.apply``, and boxes float32 [n, 4]."""
        flip, vertical, size = torch.rand(3).tolist()
        view = self.preprocessing.apply(image, self.sizes[min(int(size * len(self.sizes)), len(self.sizes) - 1)])
        height, width = view.shape[1:]
        boxes = boxes * torch.tensor([width / image.width, height / image.height] * 2)
        if flip < self.settings.flip:
            view = view.flip(2)
            boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
        if vertical < self.settings.vertical_flip:
            view = view.flip(1)
            boxes = torch.stack([boxes[:, 0], height - boxes[:, 3], boxes[:, 2], height - boxes[:, 1]], 1)
        if self.settings.color_jitter:
            colours = self.jitter(F.to_dtype(view, torch.float32, scale=True)).clamp_(0, 1)
            view = colours if view.is_floating_point() else colours.mul_(255).round_().to(torch.uint8)
        return view, boxes
