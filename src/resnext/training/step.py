"""One optimizer step on this process's share of a global batch.

A global batch is split into micro-batches, within which BN statistics are computed: one per process, or more if
``train.bn_batch_size`` is set. All randomness is a function of (seed, step, micro-batch), so the result does not
depend on how the micro-batches are distributed over processes.
"""

import math
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from resnext.data.loader import Batch
from resnext.data.normalization import normalize
from resnext.data.seeding import derive_seed
from resnext.data.transforms.mixup import mixup_cutmix
from resnext.device import autocast
from resnext.errors import RequestError, WorkError
from resnext.evaluation.outputs import get_preprocessing
from resnext.model.activation_checkpointing import set_running_stats_tracking
from resnext.model.network import Network
from resnext.settings import Recipe
from resnext.training.distill import Teacher
from resnext.training.loss import compute_distillation_loss_sum, compute_image_weights, compute_loss_sum
from resnext.training.optimizer import set_learning_rate
from resnext.training.state import BatchT, ModelT, RecipeT, TrainState

STEP_SEED_TAG = 0x57E9  # tag for derive_seed: steps have their own random stream


class StepResult(NamedTuple):
    """What a step tells the loop; the same in all processes."""

    loss: float  # mean over the global batch
    stop: bool  # whether a process got a stop signal
    time_up: bool = False  # whether train.max_time is over


def optimizer_step(state: TrainState[RecipeT, ModelT, BatchT], loss: float, lr: float, detail: str = "") -> None:
    """Clip the gradients if the recipe says so, step the optimizer at the rate ``lr``, update the EMA.

    Raises WorkError if ``loss`` is not finite, before the weights change; ``detail`` is appended to its message.
    """
    train, position = state.recipe.train, state.position
    if not math.isfinite(loss):
        raise WorkError(
            f"the loss became {loss} at step {position.step + 1} (epoch {position.epoch + 1}, "
            f"learning rate {lr:g}{detail}); the checkpoints in {state.run.path / 'checkpoints'} are good; "
            "a lower optimizer.lr, schedule.warmup_epochs or train.grad_clip_norm may help"
        )
    if train.grad_clip_norm is not None:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.model.parameters(), train.grad_clip_norm)
    set_learning_rate(state.optimizer, lr)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    if state.ema is not None:
        state.ema.update(state.model, position.step)
    position.step += 1


def compute_gradients(
    state: TrainState[Recipe, Network, Batch],
    batch: Batch,
    teacher: Teacher | None = None,
    class_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor, int]:
    """Compute gradients of the mean loss over the global batch, to which a ``teacher`` adds its term.

    ``class_weights`` [K] weight the images; their sum is divided by the number of images, not by that of the weights.

    Returns the loss sum and the number of errors over this process's images, on the device, and the number of images
    in the global batch.
    """
    train, world, local = state.recipe.train, state.world, len(batch.labels)
    micro_batches = count_micro_batches(state.recipe, world.size)
    if local < 2 * micro_batches:
        raise WorkError(
            f"too few readable images in the batch of step {state.position.step + 1}: {'; '.join(batch.bad_images)}"
        )
    total = count_images(state, batch)
    preprocessing = get_preprocessing(state.model)
    images = normalize(batch.images, preprocessing, world.device, channels_last=train.channels_last == "yes")
    labels = batch.labels.to(world.device)
    loss_sum = torch.zeros((), dtype=world.sum_dtype, device=world.device)
    wrong = torch.zeros((), dtype=torch.int64, device=world.device)
    for number in range(micro_batches):
        first, end = (local * n // micro_batches for n in (number, number + 1))
        last = number == micro_batches - 1
        # Running statistics are updated by the first micro-batch of each process only, like those of the first device
        # in the release's DataParallelTable and in DDP: rank 0's do not depend on where other parts are computed.
        with (
            set_running_stats_tracking(state.model, number == 0),
            nullcontext() if last else world.no_sync(state.ddp),
        ):
            part = images[first:end], labels[first:end]
            part_loss, part_wrong = accumulate_gradients(state, *part, number, total, teacher, class_weights)
        loss_sum = loss_sum + part_loss
        wrong = wrong + part_wrong
    return loss_sum, wrong, total


def accumulate_gradients(
    state: TrainState[Recipe, Network, Batch],
    images: Tensor,
    labels: Tensor,
    number: int,
    total: int,
    teacher: Teacher | None = None,
    class_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Add the gradients of one micro-batch to those of the step; return its loss sum and number of errors."""
    recipe, world = state.recipe, state.world
    train, classes = recipe.train, state.model.architecture.num_classes
    part = world.rank * count_micro_batches(recipe, world.size) + number
    seed = derive_seed(train.seed, STEP_SEED_TAG, state.position.step, part)
    torch.manual_seed(seed)
    images, targets = mixup_cutmix(images, labels, classes, recipe.augment, train.label_smoothing, seed)
    with autocast(world.device, train.precision):
        logits = state.ddp(images)
        teacher_logits = None if teacher is None else teacher.compute_logits(images)
    weights = None
    if class_weights is not None:
        weights = compute_image_weights(targets, class_weights, train.label_smoothing)
    loss = compute_loss_sum(logits.float(), targets, train, weights)
    if teacher is not None and teacher_logits is not None:
        taught = compute_distillation_loss_sum(logits.float(), teacher_logits.float(), teacher.temperature, weights)
        loss = (1 - teacher.alpha) * loss + teacher.alpha * taught
    state.scaler.scale(loss * (world.size / total)).backward()  # because DDP averages over processes
    return loss.detach().to(world.sum_dtype), (logits.detach().argmax(1) != labels).sum()


def count_images(state: TrainState[Recipe, Network, Batch], batch: Batch) -> int:
    """Count the images of the global batch. Only if images may be skipped do the processes have to tell each other."""
    position, loader = state.position, state.loader
    if state.world.size > 1 and state.recipe.data.on_bad_image == "error":
        before = (position.step - position.epoch * loader.steps_per_epoch) * loader.batch_size
        return min(loader.batch_size, len(loader.dataset) - before)
    return int(state.world.all_reduce_sum([len(batch.labels)])[0])


def count_micro_batches(recipe: Recipe, processes: int) -> int:
    """Return the number of micro-batches per process and step. Raises RequestError if processes would differ."""
    train = recipe.train
    if train.bn_batch_size is None:
        return 1
    parts = train.batch_size // train.bn_batch_size
    if parts % processes:
        raise RequestError(
            f"train.batch_size {train.batch_size} with train.bn_batch_size {train.bn_batch_size} gives {parts} "
            f"micro-batches, which cannot be divided evenly between {processes} processes; choose a number of "
            f"processes that divides {parts}, or a smaller train.bn_batch_size"
        )
    return parts // processes
