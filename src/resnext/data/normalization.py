"""Normalise batches of images on their device. ``transforms.eval_view.normalize_pixels`` is the same without torch."""

import torch
from torch import Tensor

from resnext.data.preprocessing import Preprocessing
from resnext.errors import RequestError


def normalize(
    images: Tensor, preprocessing: Preprocessing, device: torch.device | str, *, channels_last: bool = False
) -> Tensor:
    """Normalise images [B, C, H, W], uint8 in 0..255 or float in 0..1, to float32 on ``device``.

    uint8 images are copied to the device before the conversion. The input is not changed. Raises RequestError if the
    images do not have the network's number of channels.
    """
    if images.ndim != 4 or images.shape[1] != preprocessing.channels:
        raise RequestError(
            f"images of shape {list(images.shape)} do not fit a network of {preprocessing.channels} input channels"
        )
    layout = torch.channels_last if channels_last else torch.contiguous_format
    moved = images.to(device, non_blocking=True)
    scaled = moved.to(torch.float32, memory_format=layout, copy=True)
    if not images.is_floating_point():
        scaled.div_(255)
    shape = (1, preprocessing.channels, 1, 1)
    mean = torch.tensor(preprocessing.mean, dtype=torch.float32, device=scaled.device).view(shape)
    std = torch.tensor(preprocessing.std, dtype=torch.float32, device=scaled.device).view(shape)
    return scaled.sub_(mean).div_(std)
