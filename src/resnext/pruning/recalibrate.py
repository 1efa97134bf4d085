"""Re-estimate the running statistics of BN after pruning, without learning."""

from collections.abc import Iterable

import torch
from torch import Tensor

from resnext.model.layers import NormAct
from resnext.model.network import Network


@torch.no_grad()
def recalibrate_bn(model: Network, batches: Iterable[tuple[Tensor, Tensor]]) -> int:
    """Set the running mean and variance of every BN to the average over ``batches``; return the number of images.

    The average is cumulative, every batch counts equally, and no weight changes (Precise-BN, as in pycls). With
    statistics of the whole network, the inputs of the BN after the sum would be off by what the lost paths added.
    """
    norms = [module for module in model.modules() if isinstance(module, NormAct)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # PyTorch's cumulative average
    was_training, images_seen = model.training, 0
    model.train()
    try:
        for images, _ in batches:
            model(images)
            images_seen += len(images)
    finally:
        model.train(was_training)
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
    return images_seen
