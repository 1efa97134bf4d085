"""A finished or running training run, as Python sees it: settings, metrics, weights, evaluation."""

import csv
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnext.choices import CheckpointName
from resnext.detection.settings import DetectRecipe
from resnext.errors import RequestError
from resnext.recipe import read_recipe, read_recipe_kind
from resnext.run_directory import RunDirectory, open_run_directory, read_stop_reason
from resnext.settings import Recipe

if TYPE_CHECKING:
    from resnext.detection.model.faster_rcnn import FasterRcnn
    from resnext.model.network import Network

INTEGER_COLUMNS = ("epoch", "step", "bad_images")


@dataclass(frozen=True)
class Run:
    """A run directory of ``train``, for classification or detection.

    Attributes:
        path: The directory.
        recipe: The settings of the run: a Recipe, or a DetectRecipe for a detector.
    """

    path: Path
    recipe: Recipe | DetectRecipe

    @property
    def files(self) -> RunDirectory:
        """The paths of all files of the run."""
        return RunDirectory(self.path)

    @cached_property
    def metrics(self) -> dict[str, np.ndarray]:
        """The columns of metrics.csv, one value per epoch, read once: int64 for counts, float64 for the others.

        What was not measured in an epoch is NaN. Empty before the first epoch has ended.
        """
        return _read_columns(self.files.metrics)

    @cached_property
    def speed(self) -> dict[str, np.ndarray]:
        """The columns of speed.csv (images per second, seconds, peak memory, ...), one value per epoch, read once."""
        return _read_columns(self.files.speed)

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """The run's own evaluation of its best checkpoint with its protocol (metrics.json); None before its end."""
        path = self.files.evaluation / "metrics.json"
        if not path.exists():
            return None
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return values

    @property
    def stopped(self) -> str | None:
        """Why training ended before its last step, as ``after 12 of 30 epochs: ...``; None if it did not.

        Raises RequestError if the last checkpoint is damaged.
        """
        return read_stop_reason(self.files.state("last"))

    def weights(self, checkpoint: CheckpointName = "best") -> Path:
        """Return the path of a checkpoint's weights file (safetensors). Raises RequestError if there is none."""
        return self.files.weights(checkpoint)

    def load(self, checkpoint: CheckpointName = "best") -> "Network":
        """Load the network of a checkpoint, in eval mode on the CPU. Raises RequestError for a run of a detector."""
        from resnext.weights import load

        if isinstance(self.recipe, DetectRecipe):
            raise RequestError(f"{self.path} is a detection run: use load_detector()")
        return load(self.path, checkpoint)

    def load_detector(self, checkpoint: CheckpointName = "best") -> "FasterRcnn":
        """Load the detector of a checkpoint, in eval mode on the CPU. Raises RequestError for another run."""
        from resnext.detection.weights import load_detector

        if not isinstance(self.recipe, DetectRecipe):
            raise RequestError(f"{self.path} is a classification run: use load()")
        return load_detector(self.path, checkpoint)


def open_run(path: Path | str) -> Run:
    """Open a run directory of ``train``, finished or not.

    Raises:
        RequestError: ``path`` is not a run directory, or its recipe cannot be read.
    """
    run = open_run_directory(path)
    if read_recipe_kind(run.recipe) == "detection":
        return Run(run.path, read_recipe(run.recipe, kind=DetectRecipe))
    return Run(run.path, read_recipe(run.recipe))


def _read_columns(path: Path) -> dict[str, np.ndarray]:
    """Read a CSV file of numbers by column; empty if there is none. Raises RequestError for a damaged one."""
    if not path.exists():
        return {}
    try:
        with open(path, encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        columns = zip(*rows, strict=True) if rows else [()] * len(header)
        return {
            name: np.array([int(text) for text in column], np.int64)
            if name in INTEGER_COLUMNS
            else np.array([float(text or "nan") for text in column], np.float64)
            for name, column in zip(header, columns, strict=True)
        }
    except (ValueError, csv.Error) as error:  # UnicodeDecodeError is a ValueError
        raise RequestError(f"{path} is damaged: not a table of numbers with a header ({error})") from None
