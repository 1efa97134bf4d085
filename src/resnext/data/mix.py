"""Mixup and cutmix: what training does to a whole batch, after it was normalised."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torchvision.transforms import v2

from resnext.settings import AugmentSettings


def mix_batch(
    images: Tensor, labels: Tensor, num_classes: int, augment: AugmentSettings, label_smoothing: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Normalised float images [B, C, H, W] and int labels [B] to mixed images and soft targets [B, K].

    Each image meets its predecessor in the batch, with one lambda ~ Beta(alpha, alpha) a batch (torchvision's MixUp
    and CutMix); with both on, the batch draws one of them. The targets hold the label smoothing already, in torch's
    sense: (1 - s) * onehot + s / K. With neither on, images and int labels come back as they were, and smoothing is
    the loss's work. Draws depend on ``seed`` alone and leave torch's global generator as it was.
    """
    choices = [mix for alpha, mix in ((augment.mixup, v2.MixUp), (augment.cutmix, v2.CutMix)) if alpha > 0]
    if not choices:
        return images, labels
    assert images.is_floating_point(), "mix after normalising: bytes would be cut to whole numbers"
    if len(labels) == 0:
        return images, one_hot(labels, num_classes).to(images.dtype)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        mix = choices[int(torch.randint(len(choices), ()).item())]
        alpha = augment.mixup if mix is v2.MixUp else augment.cutmix
        mixed, targets = mix(alpha=alpha, num_classes=num_classes)(images, labels)
    return mixed, targets * (1 - label_smoothing) + label_smoothing / num_classes
