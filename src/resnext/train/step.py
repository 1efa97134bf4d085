"""One optimizer step on this process's share of a global batch.

A global batch is split into micro-batches, within which BN statistics are computed: one per process, or more if
``train.bn_batch_size`` is set. All randomness is a function of (seed, step, micro-batch), so the result does not
depend on how the micro-batches are distributed over processes.
"""

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from resnext.data.loader import Batch
from resnext.data.preprocessing import normalize
from resnext.data.seeding import derive_seed
from resnext.data.transforms.mixup import mixup_cutmix
from resnext.device import autocast
from resnext.errors import WorkError
from resnext.model.activation_checkpointing import set_running_stats_tracking
from resnext.train.loss import compute_loss_sum
from resnext.train.optimizer import set_learning_rate
from resnext.train.session import BaseSession, Session

STEP_SEED_TAG = 0x57E9  # tag for derive_seed: steps have their own random stream


def train_step(session: Session, batch: Batch, lr: float) -> float:
    """Compute gradients, update the weights, and return the mean loss over the global batch.

    Raises WorkError if the loss is not finite, before the weights change.
    """
    position = session.position
    loss_sum, wrong, images, bad = compute_gradients(session, batch)
    optimizer_step(session, loss_sum, lr)
    position.loss_sum += loss_sum
    position.wrong += wrong
    position.images += images
    position.bad_images += bad
    return loss_sum / images


def optimizer_step(session: BaseSession, loss: float, lr: float, detail: str = "") -> None:
    """Clip the gradients if the recipe says so, step the optimizer at the rate ``lr``, update the EMA.

    Raises WorkError if ``loss`` is not finite, before the weights change; ``detail`` is appended to its message.
    """
    train, position = session.recipe.train, session.position
    if not math.isfinite(loss):
        raise WorkError(
            f"the loss became {loss} at step {position.step + 1} (epoch {position.epoch + 1}, "
            f"learning rate {lr:g}{detail}); the checkpoints in {session.run.path / 'checkpoints'} are good; "
            "a lower optimizer.lr, schedule.warmup_epochs or train.grad_clip_norm may help"
        )
    if train.grad_clip_norm is not None:
        session.scaler.unscale_(session.optimizer)
        nn.utils.clip_grad_norm_(session.model.parameters(), train.grad_clip_norm)
    set_learning_rate(session.optimizer, lr)
    session.scaler.step(session.optimizer)
    session.scaler.update()
    position.scaler = session.scaler.state_dict()
    session.optimizer.zero_grad(set_to_none=True)
    if session.ema is not None:
        session.ema.update(session.model, position.step)
    position.step += 1


def compute_gradients(session: Session, batch: Batch) -> tuple[float, int, int, int]:
    """Compute gradients of the mean loss over the global batch.

    Returns the loss sum and the numbers of errors, images and skipped images, all over the global batch.
    """
    train, world, local = session.recipe.train, session.world, len(batch.labels)
    if local < 2 * session.micro_batches:
        raise WorkError(
            f"too few readable images in the batch of step {session.position.step + 1}: {'; '.join(batch.bad_images)}"
        )
    total, bad = (int(value) for value in world.all_reduce_sum([local, len(batch.bad_images)]))
    images = normalize(batch.images, session.preprocessing, world.device, channels_last=train.channels_last == "yes")
    labels = batch.labels.to(world.device)
    loss_sum, wrong = 0.0, 0
    for number in range(session.micro_batches):
        first, end = (local * n // session.micro_batches for n in (number, number + 1))
        last = number == session.micro_batches - 1
        # Running statistics are updated by the first micro-batch of each process only, like those of the first device
        # in the release's DataParallelTable and in DDP: rank 0's do not depend on where other parts are computed.
        with (
            set_running_stats_tracking(session.model, number == 0),
            nullcontext() if last else world.no_sync(session.ddp),
        ):
            part_loss, part_wrong = accumulate_gradients(session, images[first:end], labels[first:end], number, total)
        loss_sum += part_loss
        wrong += part_wrong
    loss_sum, wrong_sum = world.all_reduce_sum([loss_sum, float(wrong)])
    return loss_sum, int(wrong_sum), total, bad


def accumulate_gradients(
    session: Session, images: Tensor, labels: Tensor, number: int, total: int
) -> tuple[float, int]:
    """Add the gradients of one micro-batch to those of the step; return its loss sum and number of errors."""
    recipe, world = session.recipe, session.world
    train, classes = recipe.train, session.model.architecture.num_classes
    part = world.rank * session.micro_batches + number
    seed = derive_seed(train.seed, STEP_SEED_TAG, session.position.step, part)
    torch.manual_seed(seed)
    images, targets = mixup_cutmix(images, labels, classes, recipe.augment, train.label_smoothing, seed)
    with autocast(world.device, train.precision):
        logits = session.ddp(images)
    loss = compute_loss_sum(logits.float(), targets, train)
    session.scaler.scale(loss * (world.size / total)).backward()  # because DDP averages over processes
    return loss.item(), int((logits.detach().argmax(1) != labels).sum())
