"""One optimizer step on this process's share of a global batch."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from resnext.data.loader import Batch
from resnext.data.mix import mix_batch
from resnext.data.preprocessing import normalize
from resnext.data.randomness import seed_of
from resnext.errors import WorkError
from resnext.train.optimizer import set_learning_rate
from resnext.train.session import Session

STEP = 0x57E9  # tag of seed_of: what is drawn per step has a stream of its own


def train_step(session: Session, batch: Batch, lr: float) -> float:
    """Compute gradients, check them, step; returns the mean loss over the global batch.

    Raises WorkError for a loss that is not finite, before it can spoil the weights.
    """
    train, position, model = session.recipe.train, session.position, session.model
    seed = seed_of(train.seed, STEP, position.step, session.world.rank)
    torch.manual_seed(seed)
    loss_sum, wrong, images, bad = compute_gradients(session, batch, seed)
    if not math.isfinite(loss_sum):
        raise WorkError(
            f"the loss became {loss_sum} at step {position.step + 1} (epoch {position.epoch + 1}, "
            f"learning rate {lr:g}); the checkpoints in {session.run.path / 'checkpoints'} are good; "
            "a lower optimizer.lr, schedule.warmup_epochs or train.clip_norm may help"
        )
    if train.clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), train.clip_norm)
    set_learning_rate(session.optimizer, lr)
    session.optimizer.step()
    session.optimizer.zero_grad(set_to_none=True)
    if session.ema is not None:
        session.ema.update(model, position.step)
    position.step += 1
    position.loss_sum += loss_sum
    position.wrong += wrong
    position.images += images
    position.bad_images += bad
    return loss_sum / images


def compute_gradients(session: Session, batch: Batch, seed: int) -> tuple[float, int, int, int]:
    """Gradients of the mean loss over the global batch; returns its loss sum, errors, images and skipped images."""
    recipe, world = session.recipe, session.world
    train, local = recipe.train, len(batch.labels)
    if local < 2 * train.accumulate:
        raise WorkError(
            f"too few readable images in the batch of step {session.position.step + 1}: {'; '.join(batch.bad)}"
        )
    total, bad = (int(value) for value in world.sum([local, len(batch.bad)]))
    images = normalize(batch.images, session.preprocessing, world.device, channels_last=train.channels_last == "yes")
    labels = batch.labels.to(world.device)
    classes = session.model.architecture.num_classes
    images, targets = mix_batch(images, labels, classes, recipe.augment, train.label_smoothing, seed)
    smoothing = 0.0 if targets.is_floating_point() else train.label_smoothing
    loss_sum, wrong = 0.0, 0
    for part, target, label in zip(*(t.tensor_split(train.accumulate) for t in (images, targets, labels)), strict=True):
        with torch.autocast(world.device.type, torch.bfloat16, enabled=train.precision == "bf16"):
            logits = session.ddp(part)
        loss = F.cross_entropy(logits.float(), target, label_smoothing=smoothing, reduction="sum")
        (loss * (world.size / total)).backward()  # DDP divides by the number of processes
        loss_sum += loss.item()
        wrong += int((logits.detach().argmax(1) != label).sum())
    loss_sum, wrong_sum = world.sum([loss_sum, float(wrong)])
    return loss_sum, int(wrong_sum), total, bad
