"""A training task: what the loop calls to train one kind of model (``Classification`` or ``Detection``)."""

import json
import shlex
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar, Generic

import torch
from rich.console import Console
from torch import nn

from resnext.environment import describe_environment
from resnext.files import atomic_write
from resnext.model.plan import Plan
from resnext.recipe import dump_recipe, make_absolute, replace_places
from resnext.run_directory import RunDirectory
from resnext.screen import print_line
from resnext.training.checkpoint import read_checkpoint
from resnext.training.distributed import World
from resnext.training.ema import Ema
from resnext.training.logbook import read_log
from resnext.training.setup import broadcast_checkpoint, check_warmup, restore_state
from resnext.training.state import BatchLoader, BatchT, ModelT, RecipeT, RunFacts, TrainState
from resnext.training.step import StepResult


class Task(ABC, Generic[RecipeT, ModelT, BatchT]):
    """One kind of training, on the data of one run. The loop calls ``build``, ``step``, ``evaluate``, ``on_finish``."""

    next_steps: ClassVar[tuple[tuple[str, str], ...]]  # what can be done with a run: a command with {run}, and what for
    verb: ClassVar[str]  # the command that resumes such a run: resnext VERB --resume
    skip_option: ClassVar[str] = ""  # the words that say how to go on without an unreadable image
    columns: ClassVar[tuple[str, ...]]  # of metrics.csv
    evaluation_columns: ClassVar[tuple[str, ...]]  # those of the columns that an evaluation fills
    best_metric: ClassVar[str]  # the column that selects the best checkpoint
    lower_is_better: ClassVar[bool]  # whether a lower value is better

    @abstractmethod
    def __init__(self, recipe: RecipeT) -> None:
        """Open the data."""

    def build(
        self, recipe: RecipeT, run: RunDirectory, world: World, resume: bool, console: Console
    ) -> TrainState[RecipeT, ModelT, BatchT]:
        """Build the state of a new run, or restore that of the last checkpoint."""
        files = broadcast_checkpoint(run, world) if resume else {}
        model = self.restore_model(files["model"]) if resume else self.build_model(recipe, world, console)
        loader = self.make_loader(recipe, model, world)
        check_warmup(recipe, loader.steps_per_epoch)
        saved_plan = Plan.from_dict(json.loads(files["state"])["facts"]["plan"]) if resume else None
        recipe, model, plan = self.prepare_model(recipe, model, loader, saved_plan, world, console)
        train = recipe.train
        state = TrainState(
            recipe=recipe,
            run=run,
            world=world,
            model=model,
            ddp=model,
            ema=Ema(model, train.ema_decay, train.ema_warmup, train.ema_steps) if train.ema_decay else None,
            optimizer=self.build_optimizer(recipe, model),
            scaler=torch.amp.GradScaler(world.device.type, enabled=train.precision == "fp16"),
            loader=loader,
            facts=RunFacts(self.collect_data_facts(), plan.to_dict()),
        )
        if resume:
            restore_state(state, files)
        state.ddp = self.wrap_model(state)
        return state

    @abstractmethod
    def build_model(self, recipe: RecipeT, world: World, console: Console) -> ModelT:
        """Build the model of a new run, with new or loaded weights; rank 0 prints notes on loaded ones."""

    @abstractmethod
    def restore_model(self, data: bytes) -> ModelT:
        """Load the model from the bytes of a checkpoint's weights file."""

    @abstractmethod
    def make_loader(self, recipe: RecipeT, model: ModelT, world: World) -> BatchLoader[BatchT]:
        """Make the loader of the training batches."""

    @abstractmethod
    def prepare_model(
        self,
        recipe: RecipeT,
        model: ModelT,
        loader: BatchLoader[BatchT],
        saved_plan: Plan | None,
        world: World,
        console: Console,
    ) -> tuple[RecipeT, ModelT, Plan]:
        """Prepare the model to train: frozen layers, device, memory layout, fast paths (``saved_plan`` on resuming).

        Returns the recipe with every "auto" decided, the model, and the plan of the fast paths.
        """

    @abstractmethod
    def build_optimizer(self, recipe: RecipeT, model: ModelT) -> torch.optim.Optimizer:
        """Build the optimizer of the parameters that are not frozen."""

    @abstractmethod
    def collect_data_facts(self) -> dict[str, Any]:
        """Collect what identifies the data, which must be the same on resuming."""

    def wrap_model(self, state: TrainState[RecipeT, ModelT, BatchT]) -> nn.Module:
        """Wrap the model for training steps."""
        return state.world.wrap_ddp(state.model)

    @abstractmethod
    def describe_run(self, state: TrainState[RecipeT, ModelT, BatchT]) -> Iterable[str]:
        """Yield the lines to print at the start: model, data, steps."""

    def on_start(self, state: TrainState[RecipeT, ModelT, BatchT]) -> None:
        """Write the files of a new run: the resolved recipe, the environment, a picture of training images.

        recipe.yaml, with absolute paths so that it works from any directory, marks the directory as a run that can be
        resumed, so its first checkpoint must exist before.
        """
        with atomic_write(state.run.recipe, "w") as file:
            file.write(dump_recipe(replace_places(state.recipe, make_absolute)))
        with atomic_write(state.run.environment, "w") as file:
            json.dump(describe_environment(str(state.world.device)), file, indent=1)
        self.write_samples(state)

    @abstractmethod
    def write_samples(self, state: TrainState[RecipeT, ModelT, BatchT]) -> None:
        """Write samples.png, a grid of augmented training images, and files of the data."""

    @abstractmethod
    def step(self, state: TrainState[RecipeT, ModelT, BatchT], batch: BatchT, lr: float) -> StepResult:
        """Compute gradients, update the weights, add to the sums of the epoch.

        The processes add up what they measured in one operation, and the host reads it at once.
        Raises WorkError if the loss is not finite, before the weights change.
        """

    @abstractmethod
    def train_metrics(self, state: TrainState[RecipeT, ModelT, BatchT]) -> dict[str, float | None]:
        """Compute the training columns of an epoch's row from the sums of the epoch."""

    @abstractmethod
    def evaluate(self, state: TrainState[RecipeT, ModelT, BatchT]) -> dict[str, float | None]:
        """Evaluate on the held-out images; return the evaluation columns of an epoch's row, in all processes."""

    @abstractmethod
    def summarize_epoch(self, row: dict[str, Any]) -> Iterable[str]:
        """Yield parts of the line printed after an epoch."""

    def is_better(self, row: dict[str, Any], best: dict[str, Any] | None) -> bool:
        """Return whether an epoch's row is better than the best so far. Of equal epochs the earlier one stays best."""
        if best is None:
            return True
        now, before = row[self.best_metric], best[self.best_metric]
        if now is None or before is None:  # not measurable on this data
            return before is None and now is not None
        return bool(now < before if self.lower_is_better else now > before)

    @abstractmethod
    def serialize_model(self, model: ModelT, provenance: dict[str, Any]) -> bytes:
        """Return the bytes of a weights file; ``provenance`` is added to that of the model."""

    def on_finish(self, state: TrainState[RecipeT, ModelT, BatchT], console: Console) -> None:
        """Evaluate the best checkpoint with all processes; rank 0 writes curves, evaluation and report.html."""
        run, world = state.run, state.world
        files = read_checkpoint(run, "best") if world.is_main else {}
        best = self.restore_model(world.broadcast_bytes(files.get("model", b""))).to(world.device)
        if world.is_main:  # a run that was stopped within its first epoch has a best checkpoint that "last" knows not
            state.position.best = json.loads(files["state"])["position"]["best"]
        summary = self.write_final_evaluation(state, best, read_log(run.log) if world.is_main else [])
        if world.is_main:
            stopped = state.position.stopped
            for text in (
                *([] if stopped is None else [f"stopped {stopped}"]),
                summary,
                f"run directory  {run.path}\nreport         {run.report}",
                *self.list_next_steps(run),
            ):
                print_line(console, text)

    def list_next_steps(self, run: RunDirectory) -> Iterable[str]:
        """Yield a line for each command that a finished run is of use for."""
        commands = [step.format(run=shlex.quote(str(run.path))) for step, _ in self.next_steps]
        width = max(map(len, commands), default=0)
        for number, (command, (_, purpose)) in enumerate(zip(commands, self.next_steps, strict=True)):
            yield f"{'' if number else 'next':<15}{command:<{width}}  # {purpose}"

    @abstractmethod
    def write_final_evaluation(
        self, state: TrainState[RecipeT, ModelT, BatchT], best: ModelT, rows: list[dict[str, Any]]
    ) -> str:
        """Evaluate the best model; in rank 0 write the results and return a sentence about them. ``rows``: the log."""
