"""Tell whether a run is running, stalled, finished or interrupted, from its files and its process."""

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from resnext.run_directory import OWNER_FILE
from resnext.serving.run_table import FoundRun, RunTable
from resnext.settings_shared import DEFAULT_EPOCHS
from resnext.training.lock import (
    HEARTBEAT_TIMEOUT,
    MAX_OWNER_BYTES,
    is_alive,
    read_machine,
    read_process_namespace,
)

State = Literal["running", "stalled", "finished", "interrupted"]
FIRST_PATIENCE = 600.0  # seconds without a line before the first epoch ends: downloads, autotuning, slow first steps
MIN_PATIENCE, MAX_PATIENCE = 120.0, 1800.0  # seconds afterwards: a quarter of an epoch, for its evaluation


@dataclass(frozen=True)
class Progress:
    """How far a run is: its last step and finished epoch, the seconds of its last epoch, and its settings."""

    step: int
    epoch: int
    epoch_seconds: float | None
    settings: dict[str, Any]  # "train.epochs" -> value
    is_stopped: bool = False  # whether the log says that it ended before its last step

    @property
    def total_steps(self) -> int | None:
        """The steps of the whole run, if the recipe counts in steps."""
        steps = self.settings.get("train.steps")
        return steps if isinstance(steps, int) else None

    @property
    def total_epochs(self) -> int | None:
        """The epochs of the whole run, if the recipe counts in epochs."""
        epochs = self.settings.get("train.epochs")
        if isinstance(epochs, int):
            return epochs
        return DEFAULT_EPOCHS if self.total_steps is None and self.settings else None

    @property
    def is_complete(self) -> bool:
        """Whether all steps are done that will be."""
        if self.is_stopped:
            return True
        if self.total_steps is not None:
            return self.step >= self.total_steps
        return self.total_epochs is not None and self.epoch >= self.total_epochs


def find_state(table: RunTable, run: FoundRun, progress: Progress, has_evaluation: bool) -> State:
    """Return the state of a run.

    A run whose process lives is running, or stalled if it logs nothing for a quarter of an epoch. One whose process is
    gone is finished if all its steps are done and its results are written, else interrupted.
    """
    stamp = table.stamp(run, OWNER_FILE)
    if stamp is not None and is_owner_alive(table, run, stamp.mtime_ns / 1e9):
        log = table.stamp(run, "log.jsonl")
        age = 0.0 if log is None else time.time() - max(log.mtime_ns / 1e9, read_start(table, run))
        return "stalled" if age > choose_patience(progress.epoch_seconds) else "running"
    return "finished" if progress.is_complete and (has_evaluation or stamp is None) else "interrupted"


def choose_patience(epoch_seconds: float | None) -> float:
    """Return the seconds without a line in the log after which a run counts as stalled."""
    if epoch_seconds is None:
        return FIRST_PATIENCE
    return min(max(epoch_seconds / 4, MIN_PATIENCE), MAX_PATIENCE)


def is_owner_alive(table: RunTable, run: FoundRun, heartbeat: float) -> bool:
    """Return whether the process that trains in a run lives: by its PID on this machine, else by its heartbeat."""
    owner = read_owner_facts(table, run)
    if owner.get("machine") == read_machine() and owner.get("processes") == read_process_namespace():
        return is_alive(owner)
    return time.time() - heartbeat < 2 * HEARTBEAT_TIMEOUT


def read_start(table: RunTable, run: FoundRun) -> float:
    """Return when the process of a run began, in seconds since 1970; 0 if unknown. A resumed run is silent at first."""
    since = read_owner_facts(table, run).get("since")
    try:
        return datetime.strptime(str(since), "%Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0


def read_owner_facts(table: RunTable, run: FoundRun) -> dict[str, Any]:
    """Read the owner file of a run; empty if it is missing or damaged."""
    try:
        value = json.loads(table.read(run, OWNER_FILE, limit=MAX_OWNER_BYTES) or b"")
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
