"""Networks and detectors so small that a test takes moments."""

from typing import Any

import numpy as np
import torch
from PIL import Image

from resnext.detection.model.faster_rcnn import FasterRcnn, Target, build_detector
from resnext.detection.preprocessing import DetectPreprocessing
from resnext.detection.settings import DetectorSettings
from resnext.model.architecture import Architecture

NARROW = Architecture(blocks=(1, 1, 1, 1), cardinality=2, width=4, base_channels=8, num_classes=0)
CIFAR = Architecture.parse("resnext11_2x4d", base_channels=4, num_classes=0)
CLASSES = ("round", "square")
FEW: dict[str, Any] = {
    "fpn_channels": 8,
    "head_channels": 16,
    "rpn_pre_nms_train": 100,
    "rpn_post_nms_train": 50,
    "rpn_pre_nms_test": 100,
    "rpn_post_nms_test": 50,
    "roi_batch": 32,
}


def settings(**changes: Any) -> DetectorSettings:
    return DetectorSettings(**FEW | changes)


def detector(
    architecture: Architecture = NARROW, classes: tuple[str, ...] = CLASSES, seed: int = 0, **changes: Any
) -> FasterRcnn:
    """In training mode, with statistics of BN that are not those of a fresh network; scores from 0."""
    options = {key: changes.pop(key) for key in ("stage", "proposer") if key in changes}
    view = changes.pop("view", DetectPreprocessing(min_size=64, max_size=128))
    model = build_detector(architecture, settings(**{"score": 0.0} | changes), classes, view, seed=seed, **options)
    shake(model)
    return model


def shake(model: torch.nn.Module, seed: int = 5) -> None:
    """Give BN statistics and weights of their own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.weight.uniform_(0.7, 1.3, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture of coarse noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def pixels(width: int, height: int, seed: int = 0) -> torch.Tensor:
    """The same as bytes [3, H, W]."""
    return torch.from_numpy(np.asarray(noise(width, height, seed)).copy()).permute(2, 0, 1)


def target(*rows: tuple[int, float, float, float, float]) -> Target:
    """Of (label, x1, y1, x2, y2)."""
    return {
        "boxes": torch.tensor([row[1:] for row in rows], dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([row[0] for row in rows], dtype=torch.int64),
    }
