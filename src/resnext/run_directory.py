"""The layout of a run directory: paths of its files, creation, and checks. Does not import torch."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from resnext.errors import RequestError
from resnext.recipe import Kind, read_recipe, read_recipe_kind
from resnext.settings import Recipe

SPLIT_FILE = "split.csv"  # the side of each image, where data.group decides it: data/sources/group_split.py
OWNER_FILE = ".owner.json"  # the process that is training in the run: training/lock.py
MAX_JSON_BYTES = 64 << 20  # bytes


class RunDirectory:
    """The paths of the files in a run directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.yaml"  # the resolved recipe
        self.environment = path / "environment.json"  # versions, machine and device of the run
        self.log = path / "log.jsonl"  # all steps and epochs
        self.metrics = path / "metrics.csv"  # a row of metrics per epoch
        self.speed = path / "speed.csv"  # a row of speeds per epoch
        self.curves = path / "curves.png"  # plot of the metrics over epochs
        self.samples = path / "samples.png"  # grid of augmented training images
        self.evaluation = path / "evaluation"  # folder with the evaluation of the best checkpoint
        self.report = path / "report.html"
        self.loggers = path / "loggers.json"  # ids of the run where train.log_to logs it

    def checkpoint(self, which: str) -> Path:
        """Path of the folder of the "last" or "best" checkpoint."""
        return self.path / "checkpoints" / which

    def state(self, which: str) -> dict[str, Any]:
        """Read a checkpoint's ``state.json``. Raises RequestError if it is missing or invalid."""
        return read_state(self.checkpoint(which))

    def weights(self, which: str = "best") -> Path:
        """Path of a checkpoint's weights file (safetensors). Raises RequestError if there is none."""
        folder = self.checkpoint(which)
        return folder / get_file_name(read_state(folder), "model", folder)


def is_run(path: Path) -> bool:
    """Return whether ``path`` looks like a run directory."""
    # a folder from a model hub may have a recipe.yaml too, but has its weights beside it
    recipe = (path / "recipe.yaml").exists() and not (path / "model.safetensors").exists()
    return path.is_dir() and (recipe or (path / "checkpoints").is_dir())


def read_run_kind(path: Path | str) -> Kind | None:
    """Read the task of a run from its recipe; None if ``path`` is not a run or has no such recipe."""
    path = Path(path)
    return read_recipe_kind(path / "recipe.yaml") if is_run(path) and (path / "recipe.yaml").is_file() else None


def read_run_recipe(path: Path | str) -> Recipe:
    """Read the recipe of a classification run; its ``data.group`` is the split that the run recorded, if it did.

    So the split stays what it was when images were added or the file of ``data.group`` was changed. Raises
    RequestError.
    """
    recipe = read_recipe(RunDirectory(Path(path)).recipe)
    split = Path(path).absolute() / SPLIT_FILE
    if recipe.data.group is None or not split.is_file():
        return recipe
    return replace(recipe, data=replace(recipe.data, group=str(split)))


def check_run_kind(path: Path | str, kind: Kind, instead: str) -> None:
    """Raise RequestError, naming the command ``instead``, for a run that is not of ``kind``."""
    found = read_run_kind(path)
    if found is not None and found != kind:
        raise RequestError(f"{path} is a {found} run: use {instead}")


def check_checkpoint_choice(checkpoint: str, weights: Sequence[str]) -> None:
    """Raise RequestError if a checkpoint is selected but none of ``weights`` is a run."""
    if checkpoint != "best" and not any(is_run(Path(name)) for name in weights):
        raise RequestError(f"--checkpoint {checkpoint} selects a checkpoint of a run, but {weights[0]} is not a run")


def open_run_directory(path: Path | str) -> RunDirectory:
    """Open an existing run directory. Raises RequestError if it is not one."""
    path = Path(path)
    if not path.exists():
        raise RequestError(f"there is no run directory {path}")
    if not path.is_dir() or not (path / "recipe.yaml").is_file():
        raise RequestError(f"{path} is not a run directory: it has no recipe.yaml")
    return RunDirectory(path)


def check_new_run(path: Path | str) -> RunDirectory:
    """Check that a new run can be created at ``path``, without creating it.

    Raises RequestError if the directory holds anything but the rest of a run that was killed at its start.
    """
    path = Path(path)
    try:
        if not has_no_run(path):
            again = f"; --resume {path} continues it" if is_run(path) else ""
            raise RequestError(f"the run directory {path} is not empty{again}; choose another --run")
    except OSError as error:
        raise RequestError(f"the run directory {path} cannot be written: {error.strerror or error}") from None
    return RunDirectory(path)


def has_no_run(path: Path) -> bool:
    """Return whether a folder is missing, empty, or has only the checkpoint of a run that was killed at its start."""
    names = {entry.name for entry in path.iterdir()} if path.exists() else set()
    rest = {name for name in names if name != OWNER_FILE and not (name.startswith(".") and name.endswith(".part"))}
    begun = path / "checkpoints"
    return not rest or (rest == {begun.name} and {entry.name for entry in begun.iterdir()} <= {"last"})


def read_state(folder: Path) -> dict[str, Any]:
    """Read ``state.json`` of a checkpoint folder. Raises RequestError if it is missing or invalid."""
    path = folder / "state.json"
    if not path.exists():
        raise RequestError(f"there is no checkpoint in {folder} (no state.json)")
    # reading a pipe could block, a device may be endless
    if not path.is_file() or path.stat().st_size > MAX_JSON_BYTES:
        raise RequestError(f"{path} is not a regular file of at most {MAX_JSON_BYTES:,} bytes")
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{path} is damaged: {error}") from None
    if not isinstance(state, dict) or state.get("format") != "resnext-checkpoint":
        raise RequestError(f"{path} is not the state of a resnext checkpoint")
    return state


def read_step(state: dict[str, Any]) -> int | None:
    """Return the optimizer step in a checkpoint's state; None if it has none."""
    position = state.get("position")
    step = position.get("step") if isinstance(position, dict) else None
    return step if isinstance(step, int) else None


def read_stop_reason(state: dict[str, Any]) -> str | None:
    """Return why a run ended before its last step, from a checkpoint's state; None if it did not."""
    position = state.get("position")
    reason = position.get("stopped") if isinstance(position, dict) else None
    return reason if isinstance(reason, str) else None


def read_last_step(run: RunDirectory) -> int:
    """Read the step of a run's last checkpoint; -1 without one. Raises RequestError for a damaged one."""
    if not run.recipe.exists() or not (run.checkpoint("last") / "state.json").exists():
        return -1
    step = read_step(run.state("last"))
    if step is None:
        raise RequestError(f"{run.checkpoint('last') / 'state.json'} has no valid training position")
    return step


def get_file_name(state: dict[str, Any], key: str, folder: Path) -> str:
    """Return the file name in a state under ``key``. Raises RequestError unless it is a plain name, without a path."""
    files = state.get("files")
    entry = files.get(key) if isinstance(files, dict) else None
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str) or name != os.path.basename(name) or not re.fullmatch(r"[\w.-]+\.safetensors", name):
        raise RequestError(f"{folder / 'state.json'} names no usable {key} file")
    return name
