"""Gradients of a detector on this rank's part of the global batch."""

import torch
from torch import Tensor

from resnext.data.seeding import derive_seed
from resnext.detection.data.loader import DetectBatch
from resnext.detection.model.faster_rcnn import FasterRcnn
from resnext.detection.settings import DetectRecipe
from resnext.device import autocast
from resnext.training.state import TrainState

State = TrainState[DetectRecipe, FasterRcnn, DetectBatch]
SAMPLING_TAG = 0xDE7  # seed tag of the sampling of anchors and regions


def compute_gradients(state: State, batch: DetectBatch) -> dict[str, Tensor]:
    """Compute the gradients of the loss averaged over ranks; return this rank's share of each part of that loss."""
    world, train = state.world, state.recipe.train
    images = [image.to(world.device, non_blocking=True) for image in batch.images]
    targets = [
        {"boxes": boxes.to(world.device), "labels": labels.to(world.device)}
        for boxes, labels in zip(batch.boxes, batch.labels, strict=True)
    ]
    torch.manual_seed(derive_seed(train.seed, SAMPLING_TAG, state.position.step, world.rank))
    with autocast(world.device, train.precision):
        losses: dict[str, Tensor] = state.ddp(images, targets)
    total = torch.stack([part.float() for part in losses.values()]).sum()
    state.scaler.scale(total).backward()
    return {name: part.detach().to(world.sum_dtype) / world.size for name, part in losses.items()}
