"""Tiny runs of classification, one of them cut off, and the images that they read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console

from resnext.data.loader import Batch
from resnext.errors import WorkError
from resnext.recipe import read_recipe
from resnext.run_directory import RunDirectory
from resnext.settings import Recipe
from resnext.training.classification import Classification, State
from resnext.training.distributed import World
from resnext.training.loop import run_training
from resnext.training.step import StepResult

CPU, QUIET = World(torch.device("cpu")), Console(quiet=True)


def create_run(folder: Path) -> RunDirectory:
    folder.mkdir()
    return RunDirectory(folder)


def read_changed(recipe: Path | str, changes: dict[str, Any]) -> Recipe:
    """Read a recipe with changes such as ``{"train__epochs": 3}``."""
    return read_recipe(recipe, {key.replace("__", "."): value for key, value in changes.items()})


def build_task(
    recipe: Path, folder: Path, console: Console = QUIET, resume: bool = False, **changes: Any
) -> tuple[Classification, State]:
    """Build the task and state of a run without mixup in ``folder``, with changes such as ``train__epochs=3``."""
    settings = read_changed(recipe, {"augment__mixup": 0, **changes})
    run = RunDirectory(folder) if resume else create_run(folder)
    task = Classification(settings)
    return task, task.build(settings, run, CPU, resume, console)


def train(recipe: Recipe, folder: Path, **options: Any) -> RunDirectory:
    """Train into ``folder`` and print nothing."""
    run = RunDirectory(folder)
    run_training(Classification, recipe, run, console=QUIET, **options)
    return run


@contextmanager
def cut_off_before(step: int) -> Iterator[None]:
    """End training in the context instead of taking the step after ``step``, as if the machine had disappeared."""
    take_step = Classification.step

    def no_further(task: Classification, state: State, batch: Batch, lr: float) -> StepResult:
        if state.position.step == step:
            raise WorkError("cut off")
        return take_step(task, state, batch, lr)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(WorkError, match="cut off"):
        patch.setattr(Classification, "step", no_further)
        yield


def write_photos(folder: Path, *classes: str, count: int, suffix: str = "png") -> Path:
    """Write so many images of noise for each class."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.effect_noise((40, 30), 60).convert("RGB").save(folder / name / f"{number}.{suffix}")
    return folder
