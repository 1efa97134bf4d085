"""Collect what has been measured for a recipe: run directories named after it, and rows of results/. No torch here.

Run directories are not trusted: sizes are limited, values are checked, and damaged runs are reported and left out.
"""

import csv
import json
import math
import re
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnext.detection.settings import DetectRecipe
from resnext.errors import RequestError
from resnext.paper.numbers import Column
from resnext.paper.row_recipes import read_row_recipe
from resnext.recipe import read_recipe
from resnext.run_directory import MAX_JSON_BYTES, RunDirectory, has_no_run, read_stop_reason
from resnext.settings import Recipe
from resnext.training.resume import list_changes

ALIVE_SECONDS = 900.0  # a run counts as running if it wrote something within this time
MAX_CSV_BYTES = 16 << 20  # bytes
MAX_RUNS = 200  # per recipe
MAX_EVALUATIONS = 64  # per run
IGNORED_SETTINGS = ("train.seed", "data.max_val_images")  # ignored beside what resuming may change
PLACE_SETTINGS = ("train.proposals", "data.train", "data.val", "data.train_images", "data.val_images", "train.fast")
RELEASED_SCHEDULE = "as released"


@dataclass(frozen=True)
class RecipeRun:
    """One run of a recipe, finished or not."""

    path: Path
    seed: int
    state: str  # finished, running, stopped
    epoch: int
    step: int
    length: str  # format of the progress: "epoch {epoch} of 100"
    differences: tuple[str, ...] = ()  # settings that differ from the recipe
    rows: tuple[Mapping[str, str], ...] = ()  # of metrics.csv
    evaluations: tuple[Mapping[str, Any], ...] = ()
    silent_seconds: float = 0.0  # seconds since it last wrote something

    @property
    def progress(self) -> str:
        """Progress, such as ``epoch 43 of 100``."""
        return self.length.format(epoch=self.epoch, step=self.step)


@dataclass(frozen=True)
class MeasuredValue:
    """One measured value: a mean over ``count`` runs."""

    mean: float
    deviation: float | None  # sample standard deviation, of two runs or more
    count: int
    is_changed: bool = False  # whether the runs differ from the recipe in more than the seed

    def text(self, decimals: int) -> str:
        """Format as ``22.4`` or ``22.4 ± 0.1 (3)``, with ≠ if the runs differ from the recipe."""
        spread = f" ± {self.deviation:.{decimals}f} ({self.count})" if self.deviation is not None else ""
        return f"{self.mean:.{decimals}f}{spread}{' ≠' if self.is_changed else ''}"


@dataclass(frozen=True)
class Measurement:
    """Everything found for one recipe."""

    recipe: str
    runs: tuple[RecipeRun, ...] = ()
    results: tuple[Mapping[str, str], ...] = ()  # rows of results/*.csv
    damaged: tuple[str, ...] = ()  # one sentence per damaged run

    @property
    def state(self) -> str:
        """State of the furthest run: finished, running, stopped or missing; runs that follow the recipe count first."""
        if any(not run.differences for run in self.finished_runs) or self.results:
            return "finished"
        for state in ("running", "stopped"):
            if any(run.state == state for run in self.runs):
                return state
        return "finished" if self.finished_runs else "missing"

    @property
    def finished_runs(self) -> tuple[RecipeRun, ...]:
        """The finished runs; only those that follow the recipe exactly, if there are any."""
        done = tuple(run for run in self.runs if run.state == "finished")
        return tuple(run for run in done if not run.differences) or done

    def value(self, column: Column) -> MeasuredValue | None:
        """Return the measured value of a printed column: mean over seeds at the last epoch, never the best one."""
        if column.measured is None:
            return None
        runs = self.finished_runs
        values = [v * column.scale for v in (_read_value(run, column) for run in runs) if v is not None]
        if not column.view and column.measured == "top1_error" and not (runs and runs[0].differences):
            values += [v for line in self.results if (v := _parse_number(line.get("top1_error_last"))) is not None]
        if not values:
            return None
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return MeasuredValue(statistics.fmean(values), deviation, len(values), bool(runs and runs[0].differences))

    def curve(self, name: str, key: str = "epoch") -> list[tuple[float, float]]:
        """Return (epoch or step, value) points of the furthest run, for a plot."""
        if not self.runs:
            return []
        furthest = max(self.runs, key=lambda run: (not run.differences, run.step))
        points = [(_parse_number(row.get(key), 1e12), _parse_number(row.get(name))) for row in furthest.rows]
        return [(at, value) for at, value in points if at is not None and value is not None]


def collect_measurement(recipe: str, runs: Path, results: Path | None = None, now: float | None = None) -> Measurement:
    """Collect the runs (``RUNS/NAME``, ``RUNS/NAME-seed3``, ``RUNS/NAME-released``) and noted results of a recipe."""
    found, damaged = [], []
    name = re.compile(rf"{re.escape(recipe)}(-released)?(-seed\d{{1,9}})?")
    for path in _list_run_folders(runs, name):
        try:
            found.append(_read_run(path, recipe, time.time() if now is None else now))
        except RequestError as error:
            damaged.append(str(error))
    return Measurement(recipe, tuple(found), tuple(_read_results(recipe, results)), tuple(damaged))


def _list_run_folders(runs: Path, name: re.Pattern[str]) -> list[Path]:
    try:
        named = [path for path in runs.iterdir() if name.fullmatch(path.name) and path.is_dir()]
        begun = [path for path in named if not has_no_run(path)]  # a run that is about to start has no files yet
    except OSError:
        return []
    return sorted(begun)[:MAX_RUNS]


def _read_run(path: Path, recipe: str, now: float) -> RecipeRun:
    """Read a run directory. Raises RequestError if it is damaged or not a run."""
    run = RunDirectory(path)
    if not run.recipe.is_file():
        raise RequestError(f"{path} has the name of a run, but no recipe.yaml")
    schedule = "released" if "-released" in path.name else "printed"
    asked = read_row_recipe(recipe, schedule=schedule)
    begun, state = read_recipe(run.recipe, kind=type(asked)), run.state("last")
    position = state.get("position")
    step, epoch = (_read_count(position, key) for key in ("step", "epoch"))
    if step is None or epoch is None:
        raise RequestError(f"{run.checkpoint('last') / 'state.json'} does not say at which step the run is")
    rows = _read_csv(run.metrics)
    silent = max(0.0, now - max(_read_mtime(run.log), _read_mtime(run.checkpoint("last") / "state.json")))
    over = step >= begun.train.steps if begun.train.steps is not None else epoch >= (begun.train.epochs or 100)
    stopped = read_stop_reason(state)
    alive = "running" if silent <= ALIVE_SECONDS else "stopped"
    return RecipeRun(
        path=path,
        seed=begun.train.seed,
        state="finished" if over or stopped is not None else alive,
        epoch=epoch,
        step=step,
        length=f"step {{step:,}} of {begun.train.steps:,}" if begun.train.steps is not None
        else f"epoch {{epoch}} of {begun.train.epochs or 100}",
        differences=(*_find_differences(asked, begun, schedule), *([] if stopped is None else [f"stopped {stopped}"])),
        rows=tuple(rows),
        evaluations=tuple(_read_evaluations(path)),
        silent_seconds=silent,
    )  # fmt: skip


def _find_differences(asked: Recipe | DetectRecipe, begun: Recipe | DetectRecipe, schedule: str) -> tuple[str, ...]:
    """List the settings that differ from the paper's recipe and may change a result."""
    same = {*IGNORED_SETTINGS, "train.channels_last"}
    if isinstance(asked, DetectRecipe):
        same |= set(PLACE_SETTINGS)
        if _get_weights_file_name(asked) == _get_weights_file_name(begun):
            same.add("init.weights")
    different = [line for line in list_changes(asked, begun) if line.partition(":")[0] not in same]
    return (RELEASED_SCHEDULE, *different) if schedule == "released" and different else tuple(different)


def _get_weights_file_name(recipe: Recipe | DetectRecipe) -> str:
    """Return the file name of the initial weights: a copy of a published file counts as that file."""
    return (recipe.init.weights or "").partition("#")[0].rpartition("/")[2]


def _read_evaluations(path: Path) -> Iterable[Mapping[str, Any]]:
    """Read the evaluations inside the run directory: ``evaluation/``, ``evaluation-320/`` ..."""
    for file in sorted(path.glob("*/metrics.json"))[:MAX_EVALUATIONS]:
        try:
            if file.is_file() and file.stat().st_size <= MAX_JSON_BYTES:
                values = json.loads(file.read_text(encoding="utf-8"))
                if isinstance(values, dict) and values.get("format") == "resnext-evaluation":
                    yield values
        except (OSError, ValueError, RecursionError):
            continue


def _read_value(run: RecipeRun, column: Column) -> float | None:
    """Read a column's value of a finished run: from its log at the last or given epoch, or from an evaluation."""
    assert column.measured is not None
    if column.view:
        for values in run.evaluations:
            if _is_view(values.get("protocol"), column.view):
                return _parse_number(values.get(column.measured))
        return None
    if column.epoch is not None:
        rows = [row for row in run.rows if row.get("epoch") == str(column.epoch)][:1]
    else:
        rows = list(run.rows[-1:])
    return _parse_number(rows[0].get(column.measured)) if rows else None


def _is_view(about: Any, view: Mapping[str, Any]) -> bool:
    """Whether an evaluation used this view, the last checkpoint, and no other special options."""
    if not isinstance(about, dict):
        return False
    wanted = {"checkpoint": "last", "restricted_to": None, "corruption": None, "ensemble": None} | dict(view)
    plain = about.get("view", "center") == "center" and (about.get("image_size") == 224 or "image_size" in view)
    return plain and all(about.get(key) == value for key, value in wanted.items())


def _read_results(recipe: str, folder: Path | None) -> Iterable[Mapping[str, str]]:
    """Read rows of ``results/*.csv`` for this recipe without changes (columns recipe, top1_error_last, changes)."""
    if folder is None or not folder.is_dir():
        return
    for path in sorted(folder.glob("*.csv")):
        try:
            rows = _read_csv(path)
        except RequestError:
            continue
        for row in rows:
            same = (row.get("recipe") or "").removesuffix(".yaml").rpartition("/")[2] == recipe
            unchanged = (row.get("changes") or "none") == "none"
            if same and unchanged and _parse_number(row.get("top1_error_last")) is not None:
                yield row


def _read_csv(path: Path) -> list[dict[str, str]]:
    """Read a small CSV; no rows if there is no file. Raises RequestError if it is not a CSV."""
    if not path.exists():
        return []
    try:
        if not path.is_file() or path.stat().st_size > MAX_CSV_BYTES:
            raise RequestError(f"{path} is not a file of at most {MAX_CSV_BYTES:,} bytes")
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"{path} cannot be read: {error}") from None
    return [{k: v for k, v in row.items() if isinstance(k, str) and isinstance(v, str)} for row in rows]


def _parse_number(value: Any, high: float = 100.0) -> float | None:
    """Parse a number from 0 to ``high`` from text or JSON; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and 0 <= number <= high else None


def _read_count(position: Any, key: str) -> int | None:
    value = position.get(key) if isinstance(position, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 48 else None


def _read_mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
