"""One optimizer step on this process's share of a global batch.

A global batch is computed in parts, whose images share their BN statistics: one part a process, or more where
``train.bn_batch`` says so. All that a part draws is a function of (seed, step, part), so that the step is the same
function however the parts are spread over processes.
"""

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from resnext.data.loader import Batch
from resnext.data.mix import mix_batch
from resnext.data.preprocessing import normalize
from resnext.data.randomness import seed_of
from resnext.device import autocast
from resnext.errors import WorkError
from resnext.model.recompute import statistics_kept
from resnext.train.loss import loss_sum_of
from resnext.train.optimizer import set_learning_rate
from resnext.train.session import BaseSession, Session

STEP = 0x57E9  # tag of seed_of: what is drawn per step has a stream of its own


def train_step(session: Session, batch: Batch, lr: float) -> float:
    """Compute gradients, check them, step; returns the mean loss over the global batch.

    Raises WorkError for a loss that is not finite, before it can spoil the weights.
    """
    position = session.position
    loss_sum, wrong, images, bad = compute_gradients(session, batch)
    take_step(session, loss_sum, lr)
    position.loss_sum += loss_sum
    position.wrong += wrong
    position.images += images
    position.bad_images += bad
    return loss_sum / images


def take_step(session: BaseSession, loss: float, lr: float, parts: str = "") -> None:
    """Step at the rate ``lr`` by the gradients there are, clipped where the recipe says; the average follows.

    Raises WorkError for a ``loss`` (of ``parts``, as text) that is not finite, before it can spoil the weights.
    """
    train, position = session.recipe.train, session.position
    if not math.isfinite(loss):
        raise WorkError(
            f"the loss became {loss} at step {position.step + 1} (epoch {position.epoch + 1}, "
            f"learning rate {lr:g}{parts}); the checkpoints in {session.run.path / 'checkpoints'} are good; "
            "a lower optimizer.lr, schedule.warmup_epochs or train.clip_norm may help"
        )
    if train.clip_norm is not None:
        session.scaler.unscale_(session.optimizer)
        nn.utils.clip_grad_norm_(session.model.parameters(), train.clip_norm)
    set_learning_rate(session.optimizer, lr)
    session.scaler.step(session.optimizer)
    session.scaler.update()
    position.scaler = session.scaler.state_dict()
    session.optimizer.zero_grad(set_to_none=True)
    if session.ema is not None:
        session.ema.update(session.model, position.step)
    position.step += 1


def compute_gradients(session: Session, batch: Batch) -> tuple[float, int, int, int]:
    """Gradients of the mean loss over the global batch; returns its loss sum, errors, images and skipped images."""
    train, world, local = session.recipe.train, session.world, len(batch.labels)
    if local < 2 * session.parts:
        raise WorkError(
            f"too few readable images in the batch of step {session.position.step + 1}: {'; '.join(batch.bad)}"
        )
    total, bad = (int(value) for value in world.sum([local, len(batch.bad)]))
    images = normalize(batch.images, session.preprocessing, world.device, channels_last=train.channels_last == "yes")
    labels = batch.labels.to(world.device)
    loss_sum, wrong = 0.0, 0
    for number in range(session.parts):
        first, end = (local * n // session.parts for n in (number, number + 1))
        last = number == session.parts - 1
        # Running statistics follow the first part of each global batch, as with one part a device they follow the first
        # device (the release's DataParallelTable, DDP): then they do not depend on where the other parts are computed.
        with statistics_kept(session.model, number == 0), nullcontext() if last else world.unsynchronised(session.ddp):
            part_loss, part_wrong = part_gradients(session, images[first:end], labels[first:end], number, total)
        loss_sum += part_loss
        wrong += part_wrong
    loss_sum, wrong_sum = world.sum([loss_sum, float(wrong)])
    return loss_sum, int(wrong_sum), total, bad


def part_gradients(session: Session, images: Tensor, labels: Tensor, number: int, total: int) -> tuple[float, int]:
    """Add the gradients of one part to those of the step; returns its loss sum and errors."""
    recipe, world = session.recipe, session.world
    train, classes = recipe.train, session.model.architecture.num_classes
    part = world.rank * session.parts + number
    seed = seed_of(train.seed, STEP, session.position.step, part)
    torch.manual_seed(seed)
    images, targets = mix_batch(images, labels, classes, recipe.augment, train.label_smoothing, seed)
    with autocast(world.device, train.precision):
        logits = session.ddp(images)
    loss = loss_sum_of(logits.float(), targets, train)
    session.scaler.scale(loss * (world.size / total)).backward()  # DDP divides by the number of processes
    return loss.item(), int((logits.detach().argmax(1) != labels).sum())
