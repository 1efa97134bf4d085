"""``resnext paper run``: start the recipe of a row, or continue its run."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnext.errors import RequestError
from resnext.paper.detect_recipes import rpn_name
from resnext.paper.numbers import Row, Table
from resnext.paper.recipe_entry import PaperRecipe
from resnext.paper.recipes import get_recipe
from resnext.paper.toy import toy
from resnext.run_directory import RunDirectory
from resnext.settings import Recipe

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class PlannedRun:
    """A run that is about to start or continue."""

    entry: PaperRecipe
    recipe: Recipe
    run: RunDirectory
    toy: bool


def plan_run(
    table: Table,
    row: Row,
    runs: Path,
    given: Mapping[str, Any],
    *,
    seed: int | None = None,
    schedule: str = "printed",
    toy_size: bool = False,
) -> PlannedRun:
    """Return the recipe of ``row`` with the given overrides, and its directory below ``runs``. Raises RequestError."""
    if row.recipe is None:
        why = f"its network is of another family ({row.family})" if row.family else "; ".join(table.remarks)
        raise RequestError(f"row {row.key} of {table.name} has no recipe{f': {why}' if why else ''}")
    entry, given = get_recipe(row.recipe), dict(given)
    if not isinstance(entry, PaperRecipe):
        raise RequestError(_describe_detection_commands(table, row, runs, seed))
    if seed is not None:
        if given.get("train.seed", seed) != seed:
            raise RequestError(
                f"--seed {seed} and --train.seed {given['train.seed']} are the same setting; give one of them"
            )
        given["train.seed"] = seed
    overrides = toy(entry.recipe(schedule=schedule), runs, given) if toy_size else given
    number = given.get("train.seed", 0)
    parts = [entry.name, "toy" if toy_size else "", "released" if schedule == "released" else ""]
    name = "-".join(filter(None, [*parts, f"seed{number}" if number else ""]))
    return PlannedRun(entry, entry.recipe(overrides, schedule), RunDirectory(runs / name), toy_size)


def _describe_detection_commands(table: Table, row: Row, runs: Path, seed: int | None) -> str:
    """Describe how to measure a detection row: two runs of ``resnext detect train``."""
    name, after = str(row.recipe), f"-seed{seed}" if seed else ""
    proposals = str(runs / (rpn_name(name) + after))
    more = ["--data.path", "COCO", *(["--train.seed", str(seed)] if seed else [])]
    first = [f"recipes/paper/{rpn_name(name)}.yaml", "--continue", proposals, *more]
    second = [f"recipes/paper/{name}.yaml", "--continue", str(runs / (name + after))]
    second += ["--train.proposals", proposals, *more]
    said = [shlex.join(["resnext", "detect", "train", *words]) for words in (first, second)]
    return f"row {row.key} of {table.name} needs two runs of resnext detect train: {said[0]}; then {said[1]}"


def announce(console: "Console", table: Table, row: Row, plan: PlannedRun) -> None:
    """Print what will be trained, for how long, and where."""
    from resnext.paper.recipe_files import cost_line

    if int(os.environ.get("RANK", "0")) != 0:
        return
    goes_on = plan.run.recipe.is_file()
    lines = [f"{table.title}, row {row.key}: {row.name}", f"recipe {plan.entry.name}: {plan.entry.title}"]
    if plan.toy:
        lines.append("toy size: 4 steps of 8 small images with few channels; its error has no meaning")
    else:
        lines += [f"expected {plan.entry.expected}", f"cost {cost_line(plan.entry)}"]
    lines.append(f"{'continuing' if goes_on else 'starting'} {plan.run.path}; the same command continues it")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def start_run(plan: PlannedRun) -> None:
    """Train to the end, as ``resnext train`` does."""
    from resnext.train.classification import train_classifier

    train_classifier(plan.recipe, plan.run, resume=None)
