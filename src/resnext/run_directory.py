"""The layout of a run directory: what a user keeps of a run, and where each piece lies. No torch here."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnext.errors import RequestError
from resnext.recipe import Kind, recipe_kind

CHECKPOINTS = ("last", "best")
OWNER = ".owner.json"  # who trains into the run, while one does: train/lock.py
LARGEST_JSON = 64 << 20  # bytes


@dataclass(frozen=True)
class RunDirectory:
    """Paths inside one run directory."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def speed(self) -> Path:
        return self.path / "speed.csv"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def samples(self) -> Path:
        return self.path / "samples.png"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def checkpoint(self, which: str) -> Path:
        """The folder of the ``last`` or ``best`` checkpoint."""
        return self.path / "checkpoints" / which

    def state(self, which: str) -> dict[str, Any]:
        """The checkpoint's ``state.json``. Raises RequestError where there is none or it is not one."""
        return read_state(self.checkpoint(which))

    def weights(self, which: str = "best") -> Path:
        """The weights file of a checkpoint (a plain safetensors file). Raises RequestError."""
        folder = self.checkpoint(which)
        return folder / file_name(read_state(folder), "model", folder)


def is_run(path: Path) -> bool:
    """Whether ``path`` looks like a run directory. A hub's folder may have a recipe too, and its weights beside it."""
    recipe = (path / "recipe.yaml").exists() and not (path / "model.safetensors").exists()
    return path.is_dir() and (recipe or (path / "checkpoints").is_dir())


def run_kind(path: Path | str) -> Kind | None:
    """The task that a run was trained for; None for what is no run, or has no recipe that says it."""
    path = Path(path)
    return recipe_kind(path / "recipe.yaml") if is_run(path) and (path / "recipe.yaml").is_file() else None


def check_run_kind(path: Path | str, kind: Kind, instead: str) -> None:
    """Raises RequestError for a run that is not of ``kind``: the command to use is then ``instead``."""
    found = run_kind(path)
    if found is not None and found != kind:
        raise RequestError(f"{path} is a {found} run: use {instead}")


def check_checkpoint(checkpoint: str, weights: Sequence[str]) -> None:
    """Raises RequestError for a checkpoint that is asked for where none of ``weights`` is a run, which has several."""
    if checkpoint != "best" and not any(is_run(Path(name)) for name in weights):
        raise RequestError(f"--checkpoint {checkpoint} says which checkpoint of a run, and {weights[0]} is no run")


def open_run(path: Path | str) -> RunDirectory:
    """An existing run directory. Raises RequestError saying what is missing."""
    path = Path(path)
    if not path.exists():
        raise RequestError(f"there is no run directory {path}")
    if not path.is_dir() or not (path / "recipe.yaml").is_file():
        raise RequestError(f"{path} is not a run directory: it has no recipe.yaml")
    return RunDirectory(path)


def create_run(path: Path | str) -> RunDirectory:
    """A new, empty run directory. Raises RequestError where the place holds anything or cannot be written."""
    run = check_new_run(path)
    try:
        run.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"the run directory {path} cannot be written: {error.strerror or error}") from None
    return run


def check_new_run(path: Path | str) -> RunDirectory:
    """A place for a new run, not made yet. Raises RequestError where it holds anything but a start that was killed."""
    path = Path(path)
    try:
        if not holds_no_run(path):
            again = f"; --resume {path} continues it" if is_run(path) else ""
            raise RequestError(f"the run directory {path} is not empty{again}; give --run another place")
    except OSError as error:
        raise RequestError(f"the run directory {path} cannot be written: {error.strerror or error}") from None
    return RunDirectory(path)


def holds_no_run(path: Path) -> bool:
    """Whether a folder is not there, is empty, or holds no more than the checkpoint of a run killed as it began."""
    names = {entry.name for entry in path.iterdir()} if path.exists() else set()
    rest = {name for name in names if name != OWNER and not (name.startswith(".") and name.endswith(".part"))}
    begun = path / "checkpoints"
    return not rest or (rest == {begun.name} and {entry.name for entry in begun.iterdir()} <= {"last"})


def read_state(folder: Path) -> dict[str, Any]:
    """``state.json`` of a checkpoint folder. Raises RequestError for a missing, foreign or damaged one."""
    path = folder / "state.json"
    if not path.exists():
        raise RequestError(f"there is no checkpoint in {folder} (no state.json)")
    if not path.is_file() or path.stat().st_size > LARGEST_JSON:  # a pipe would block, a device might never end
        raise RequestError(f"{path} is no file of at most {LARGEST_JSON:,} bytes, so no checkpoint's state")
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{path} is damaged: {error}") from None
    if not isinstance(state, dict) or state.get("format") != "resnext-checkpoint":
        raise RequestError(f"{path} is not the state of a resnext checkpoint")
    return state


def step_in(state: dict[str, Any]) -> int | None:
    """The optimizer step a state says it is of; None where it does not say."""
    position = state.get("position")
    step = position.get("step") if isinstance(position, dict) else None
    return step if isinstance(step, int) else None


def file_name(state: dict[str, Any], key: str, folder: Path) -> str:
    """The file a state names under ``key``, held to be a plain name inside ``folder``. Raises RequestError."""
    files = state.get("files")
    entry = files.get(key) if isinstance(files, dict) else None
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str) or name != os.path.basename(name) or not re.fullmatch(r"[\w.-]+\.safetensors", name):
        raise RequestError(f"{folder / 'state.json'} names no usable {key} file")
    return name
