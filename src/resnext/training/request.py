"""Decide which recipe to train, in which directory, and whether to resume. Does not import torch."""

import os
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnext.errors import RequestError
from resnext.recipe import TRAIN_COMMANDS, Kind, R, find_recipe, list_recipes, read_recipe
from resnext.run_directory import RunDirectory, check_new_run, check_run_kind, is_run, open_run_directory
from resnext.settings import Recipe
from resnext.training.resume import resolve_resumed_recipe


def resolve_request(
    kind: type[R],
    recipe: Path | str | None,
    overrides: Mapping[str, Any] | None = None,
    *,
    run: Path | str | None = None,
    resume: Path | str | None = None,
    continue_: Path | str | None = None,
) -> tuple[R, RunDirectory, bool | None]:
    """Return the recipe, the run directory, and whether to resume (None: resume if the run exists).

    At most one directory is given: ``run`` for a new run, ``resume`` for one to resume, where ``recipe`` is optional,
    ``continue_`` for either. Raises RequestError if they contradict each other, or do not fit the run or its recipe.
    """
    if sum(value is not None for value in (run, resume, continue_)) > 1:
        raise RequestError(
            "--run starts a new run, --resume resumes one, --continue does either: give only one of them"
        )
    begun = resume if resume is not None else continue_
    if begun is not None:
        task: Kind = "classification" if kind is Recipe else "detection"
        other = TRAIN_COMMANDS["detection" if task == "classification" else "classification"]
        check_run_kind(begun, task, f"{other} {'--continue' if resume is None else '--resume'} {begun}")
    if resume is not None:
        directory = open_run_directory(resume)
        asked = read_recipe(directory.recipe if recipe is None else recipe, overrides, kind)
        return resolve_resumed_recipe(directory, asked), directory, True
    if recipe is None:
        raise RequestError("train needs a RECIPE, or --resume DIR")
    settings = read_recipe(recipe, overrides, kind)
    if continue_ is not None:
        return settings, RunDirectory(Path(continue_)), None
    return settings, choose_run_directory(run, Path(recipe).stem), False


def choose_run_directory(run: Path | str | None, name: str) -> RunDirectory:
    """Choose the directory of a new run: ``run``, or one named after the recipe and the time.

    With several processes (``torchrun``), only rank 0 checks that it is empty.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return check_new_run(run or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    if run is None:
        raise RequestError("all processes of a run need the same directory: give --run DIR")
    return check_new_run(run) if int(os.environ.get("RANK", "0")) == 0 else RunDirectory(Path(run))


def is_photo_folder(name: Path | str) -> bool:
    """Return whether ``name`` is a folder to train on, and neither a run nor a recipe.

    Raises RequestError for a run, and for a folder whose name is also that of a recipe.
    """
    if not os.path.isdir(name):
        return False
    if is_run(Path(name)):
        raise RequestError(f"{name} is a run; resnext train --resume {shlex.quote(str(name))} continues it")
    if not os.path.isfile(find_recipe(name)):
        return True
    if str(name) in list_recipes():
        return False  # the whole name of a recipe
    raise RequestError(
        f"{name} is a folder here and also a recipe: write {os.path.join('.', name)} for the folder, "
        f"{_find_full_name(str(name))} for the recipe"
    )


def _find_full_name(short: str) -> str:
    return next(name for name in list_recipes() if name.rpartition("/")[2] == short)
