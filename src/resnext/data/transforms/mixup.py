"""Mixup and cutmix of a normalised training batch."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torchvision.transforms import v2

from resnext.settings import AugmentSettings


def mixup_cutmix(
    images: Tensor, labels: Tensor, num_classes: int, augment: AugmentSettings, label_smoothing: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Mix normalised float images [B, C, H, W] and int labels [B] to mixed images and soft targets [B, K].

    Each image is mixed with its predecessor in the batch, with one lambda ~ Beta(alpha, alpha) for the batch
    (torchvision's MixUp and CutMix). If both are on, one of them is drawn for each batch. The targets include the label
    smoothing as torch defines it: (1 - s) * onehot + s / K. If neither is on, images and int labels are returned
    unchanged, and the loss does the smoothing. Random draws depend on ``seed`` only; torch's global generator keeps its
    state.
    """
    choices = [(mix, alpha) for mix, alpha in ((v2.MixUp, augment.mixup), (v2.CutMix, augment.cutmix)) if alpha > 0]
    if not choices:
        return images, labels
    assert images.is_floating_point(), "mix after normalising: uint8 would be rounded down"
    if len(labels) == 0:
        return images, one_hot(labels, num_classes).to(images.dtype)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        mix, alpha = choices[int(torch.randint(len(choices), ()).item())]
        mixed, targets = mix(alpha=alpha, num_classes=num_classes)(images, labels)
    return mixed, targets * (1 - label_smoothing) + label_smoothing / num_classes
