"""The recipes of the tables' rows, with the schedule of the paper's text or that of the released code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnext.detection.settings import DetectRecipe
from resnext.errors import RequestError, did_you_mean
from resnext.paper.numbers import get_table
from resnext.recipe import list_recipes, read_recipe, read_recipe_kind
from resnext.settings import Recipe

SCHEDULES = ("printed", "released")
PRINTED_CIFAR = (150, 225)  # epochs at whose end the learning rate drops
RELEASED_CIFAR = (147, 222)  # the released code drops at the start of epochs 148 and 223


def get_recipe_path(name: str) -> Path:
    """Return the path of a row's recipe. Raises RequestError naming the closest if there is none."""
    paths = {path.stem: path for path in list_recipes().values()}
    if name not in paths:
        raise RequestError(f"there is no recipe {name!r}{did_you_mean(name, paths)}")
    return paths[name]


def read_row_recipe(
    name: str, overrides: Mapping[str, Any] | None = None, schedule: str = "printed"
) -> Recipe | DetectRecipe:
    """Read a row's recipe with ``{"train.epochs": 3}``-like overrides. Raises RequestError."""
    path = get_recipe_path(name)
    kind: type[Recipe | DetectRecipe] = DetectRecipe if read_recipe_kind(path) == "detection" else Recipe
    if schedule not in SCHEDULES:
        raise RequestError(f"no schedule {schedule!r}{did_you_mean(schedule, SCHEDULES)}")
    if schedule == "released":
        if read_recipe(path, kind=kind).schedule.milestones != PRINTED_CIFAR:
            raise RequestError(f"{name} has one schedule: what is printed is what was released")
        overrides = {"schedule.milestones": RELEASED_CIFAR, **(overrides or {})}
    return read_recipe(path, overrides, kind)


def list_table_recipes(table: str) -> list[tuple[str, Recipe]]:
    """List the rows of a table that have classification recipes, with them. Raises RequestError for unknown tables."""
    recipes = [(row.key, read_row_recipe(row.recipe)) for row in get_table(table).rows if row.recipe]
    return [(key, recipe) for key, recipe in recipes if isinstance(recipe, Recipe)]
