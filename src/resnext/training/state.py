"""The state of a run: everything that a step reads or changes, and what of it a checkpoint stores."""

from collections.abc import Iterator, Sized
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import nn

from resnext.run_directory import RunDirectory
from resnext.settings_shared import RecipeBase
from resnext.training.distributed import World
from resnext.training.ema import Ema
from resnext.training.interrupts import Interrupts
from resnext.training.lock import RunLock
from resnext.training.schedule import compute_learning_rate
from resnext.training.time_limit import TimeLimit


class TrainBatch(Protocol):
    """The batch of one rank in one step."""

    @property
    def images(self) -> Sized:
        """The images."""

    @property
    def bad_images(self) -> tuple[str, ...]:
        """Error messages of the images that were skipped."""


RecipeT = TypeVar("RecipeT", bound=RecipeBase)
ModelT = TypeVar("ModelT", bound=nn.Module)
BatchT = TypeVar("BatchT", bound=TrainBatch)
BatchT_co = TypeVar("BatchT_co", covariant=True)


class BatchLoader(Protocol[BatchT_co]):
    """A training data loader."""

    steps_per_epoch: int
    batch_size: int  # over all ranks
    workers: int

    @property
    def dataset(self) -> Sized:
        """The training images."""

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[BatchT_co]:
        """Iterate over this rank's batches of an epoch, from ``first_step`` on."""


@dataclass
class Position:
    """How far a run is."""

    step: int = 0  # optimizer steps done
    epoch: int = 0  # epochs done, including evaluation and log row
    best: dict[str, Any] | None = None  # {"epoch", "step", "top1_error"} of the best epoch
    bad_images: int = 0  # skipped so far in this epoch
    stopped: str | None = None  # why the run ended before its last step, as "after 12 of 30 epochs: ..."
    seconds: float = 0.0  # of training so far, counted only with train.max_time


@dataclass
class EpochSums:
    """Sums over the images of the current epoch."""

    loss: float = 0.0
    loss_parts: dict[str, float] = field(default_factory=dict)  # by name, where the loss is a sum of several terms
    wrong: int = 0  # training images misclassified
    images: int = 0


@dataclass
class RunFacts:
    """What does not change during a run."""

    data: dict[str, Any] = field(default_factory=dict)  # classes, counts and listings; must be the same on resume
    plan: dict[str, Any] = field(default_factory=dict)  # fast paths chosen when the run started: model/plan.py


@dataclass
class SavedState:
    """Everything in a checkpoint that is not a tensor."""

    position: Position
    sums: EpochSums = field(default_factory=EpochSums)
    facts: RunFacts = field(default_factory=RunFacts)
    scaler: dict[str, Any] = field(default_factory=dict)  # state of the fp16 gradient scaler


@dataclass(kw_only=True)
class TrainState(Generic[RecipeT, ModelT, BatchT]):
    """The objects of a run: settings, network, optimizer, data loader, position."""

    recipe: RecipeT
    run: RunDirectory
    world: World
    model: ModelT  # the trained network
    ddp: nn.Module  # the same network, wrapped to average gradients over processes
    ema: Ema[ModelT] | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # scales the loss in fp16; disabled in other precisions
    loader: BatchLoader[BatchT]
    facts: RunFacts
    position: Position = field(default_factory=Position)
    sums: EpochSums = field(default_factory=EpochSums)
    lock: RunLock | None = None  # of the run directory, in rank 0
    interrupts: Interrupts = field(default_factory=Interrupts)  # the stop signals that this process got
    time_limit: TimeLimit = field(default_factory=TimeLimit)

    @property
    def total_steps(self) -> int:
        """Number of optimizer steps of the whole run."""
        return self.recipe.train.total_steps(self.loader.steps_per_epoch)

    @property
    def epochs(self) -> int:
        """Number of epochs of the whole run; ``train.steps`` may end it within the last one."""
        return self.recipe.train.total_epochs(self.loader.steps_per_epoch)

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of optimizer step ``step`` (from 0)."""
        recipe, per_epoch = self.recipe, self.loader.steps_per_epoch
        return compute_learning_rate(recipe.schedule, recipe.optimizer.lr, self.total_steps, per_epoch, step)

    def is_time_up(self) -> bool:
        """Whether ``train.max_time`` leaves no time for another step, by the clock of rank 0."""
        evaluations = 1 if self.position.best else 2
        return self.world.is_main and self.time_limit.is_up(evaluations)

    def check_lock(self) -> None:
        """Raise WorkError if another process has taken over the run directory."""
        if self.lock is not None:
            self.lock.check_owner()

    @property
    def eval_model(self) -> ModelT:
        """The model to evaluate and save: the averaged one if there is an EMA."""
        return self.model if self.ema is None else self.ema.model
