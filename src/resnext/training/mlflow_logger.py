"""Log a run to MLflow. Its own environment variables apply: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, ..."""

import os
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from resnext.recipe import iterate_settings
from resnext.run_directory import RunDirectory
from resnext.settings_shared import RecipeBase
from resnext.training.callbacks import EpochResult
from resnext.training.run_logger import PROJECT, RunLogger, list_report_files, select_numbers
from resnext.version import __version__

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

MAX_VALUE = 500  # characters of a setting that every MLflow stores
BATCH = 100  # settings in one call


class MlflowLogger(RunLogger):
    """A run of MLflow, on the server or in the file that MLFLOW_TRACKING_URI names; by default in ./mlflow.db."""

    package = "mlflow"

    def __init__(self) -> None:
        self.client: MlflowClient | None = None
        self.run_id = ""

    def start(self, run: RunDirectory, recipe: RecipeBase, run_id: str | None) -> tuple[str, str]:
        """Create a run with all settings as parameters, or go on with one that the same store has."""
        # a server out of reach is given up after half a minute
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        from mlflow import MlflowClient, get_tracking_uri
        from mlflow.exceptions import MlflowException

        self.client = client = MlflowClient()
        if run_id is not None:
            try:
                client.update_run(run_id, status="RUNNING")
                self.run_id = run_id
            except MlflowException:  # another store than before
                run_id = None
        if run_id is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            experiment = client.get_experiment_by_name(name)
            experiment_id = client.create_experiment(name) if experiment is None else experiment.experiment_id
            tags = {"resnext.version": __version__, "resnext.run": str(run.path.resolve())}
            self.run_id = client.create_run(experiment_id, run_name=run.path.resolve().name, tags=tags).info.run_id
            parameters = list(make_parameters(recipe))
            for first in range(0, len(parameters), BATCH):
                client.log_batch(self.run_id, params=parameters[first : first + BATCH])
        return self.run_id, f"run {self.run_id} in {get_tracking_uri()}"

    def log_epoch(self, result: EpochResult) -> None:
        """Log the metrics of an epoch at its optimizer step."""
        self._log_numbers({"epoch": result.epoch, **select_numbers(result.metrics)}, result.step)

    def log_outcome(self, run: RunDirectory, best: Mapping[str, float]) -> None:
        """Log the best epoch, report and plots."""
        assert self.client is not None
        self._log_numbers({f"best_{name}": value for name, value in best.items()}, int(best.get("step", 0)))
        for path in list_report_files(run):
            folder = path.parent.relative_to(run.path).as_posix()
            self.client.log_artifact(self.run_id, str(path), None if folder == "." else folder)

    def close(self, *, failed: bool) -> None:
        """Mark the run as finished or as failed."""
        if self.client is not None and self.run_id:
            self.client.set_terminated(self.run_id, "FAILED" if failed else "FINISHED")

    def _log_numbers(self, values: Mapping[str, float], step: int) -> None:
        assert self.client is not None
        self.client.log_batch(self.run_id, metrics=list(make_metrics(values, step)))


def make_parameters(recipe: RecipeBase) -> "Iterator[Param]":
    """Make a parameter of each setting that has a value."""
    from mlflow.entities import Param

    for key, value in iterate_settings(recipe):
        if value is not None:
            yield Param(key, str(value)[:MAX_VALUE])


def make_metrics(values: Mapping[str, float], step: int) -> "Iterator[Metric]":
    """Make a metric of each number, now."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    for name, value in values.items():
        yield Metric(name, float(value), now, step)
