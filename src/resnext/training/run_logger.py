"""What a logger of runs is: something that keeps settings, metrics and plots beside the run directory."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from resnext.run_directory import RunDirectory
from resnext.settings_shared import RecipeBase
from resnext.training.callbacks import EpochResult

PROJECT = "resnext"  # where runs are logged if the environment names no project or experiment
REPORT_FILES = (
    "recipe.yaml",
    "environment.json",
    "metrics.csv",
    "speed.csv",
    "curves.png",
    "samples.png",
    "report.html",
)


class RunLogger(ABC):
    """Logs one run, in rank 0. Its methods may raise anything: ``Loggers`` turns it into a warning."""

    package: ClassVar[str]  # that it needs, as it is imported

    @abstractmethod
    def start(self, run: RunDirectory, recipe: RecipeBase, run_id: str | None) -> tuple[str, str]:
        """Begin to log, or go on with the run ``run_id`` of an earlier sitting.

        Returns the id, and a sentence on where the run is logged.
        """

    @abstractmethod
    def log_epoch(self, result: EpochResult) -> None:
        """Log the metrics of an epoch."""

    @abstractmethod
    def log_outcome(self, run: RunDirectory, best: Mapping[str, float]) -> None:
        """Log what a finished run leaves: the values of its best epoch, and its report and plots as artifacts."""

    @abstractmethod
    def close(self, *, failed: bool) -> None:
        """End the logging of a run that is finished, or that failed or was stopped and may be resumed."""


def list_report_files(run: RunDirectory) -> Iterator[Path]:
    """List the files of a finished run that a logger keeps: report, plots, tables, recipe; no weights."""
    for path in (*(run.path / name for name in REPORT_FILES), *sorted(run.evaluation.glob("*"))):
        if path.is_file():
            yield path


def select_numbers(values: Mapping[str, object]) -> dict[str, float]:
    """Select the numbers among ``values``."""
    return {name: value for name, value in values.items() if isinstance(value, int | float)}
