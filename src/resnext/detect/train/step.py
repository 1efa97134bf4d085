"""One training step of a detector on this rank's part of the global batch."""

import torch
from torch import Tensor

from resnext.data.seeding import derive_seed
from resnext.detect.data.loader import DetectBatch
from resnext.detect.train.session import DetectSession
from resnext.device import autocast
from resnext.train.step import optimizer_step

SAMPLING_TAG = 0xDE7  # seed tag of the sampling of anchors and regions


def train_step(session: DetectSession, batch: DetectBatch, lr: float) -> float:
    """Compute and check gradients and update the weights; return the loss averaged over ranks.

    Raises WorkError for a loss that is not finite, before the weights change.
    """
    position, images = session.position, session.recipe.train.batch_size
    parts = compute_gradients(session, batch)
    loss = sum(parts.values())
    optimizer_step(session, loss, lr, "".join(f"; {name} {value:g}" for name, value in parts.items()))
    position.images += images
    position.loss_sum += loss * images
    for name, value in parts.items():
        position.loss_parts[name] = position.loss_parts.get(name, 0.0) + value * images
    return loss


def compute_gradients(session: DetectSession, batch: DetectBatch) -> dict[str, float]:
    """Compute the gradients of the loss averaged over ranks; return the parts of that loss."""
    world, train = session.world, session.recipe.train
    images = [image.to(world.device, non_blocking=True) for image in batch.images]
    targets = [
        {"boxes": boxes.to(world.device), "labels": labels.to(world.device)}
        for boxes, labels in zip(batch.boxes, batch.labels, strict=True)
    ]
    torch.manual_seed(derive_seed(train.seed, SAMPLING_TAG, session.position.step, world.rank))
    with autocast(world.device, train.precision):
        losses: dict[str, Tensor] = session.ddp(images, targets)
    total = torch.stack([part.float() for part in losses.values()]).sum()
    session.scaler.scale(total).backward()
    values = world.all_reduce_sum([float(part.detach()) / world.size for part in losses.values()])
    return dict(zip(losses, values, strict=True))
