"""Train a classification network."""

from collections.abc import Callable

from rich.console import Console

from resnext.run_directory import RunDirectory
from resnext.settings import Recipe
from resnext.train.checkpoint import Position
from resnext.train.loop import EpochResult, run_training
from resnext.train.task import CLASSIFICATION


def train_classifier(
    recipe: Recipe,
    run: RunDirectory,
    *,
    resume: bool | None = False,
    console: Console | None = None,
    on_epoch_end: Callable[[EpochResult], None] | None = None,
) -> Position:
    """Train a network by a recipe into a run directory: ``run_training`` for classification."""
    return run_training(CLASSIFICATION, recipe, run, resume=resume, console=console, on_epoch_end=on_epoch_end)
