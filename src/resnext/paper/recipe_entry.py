"""What is known of one recipe: its settings as a recipe file has them, and what its header says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from resnext.detect.settings import DetectRecipe
from resnext.errors import RequestError, did_you_mean
from resnext.recipe import R, parse_recipe
from resnext.settings import Recipe

Values = dict[str, dict[str, Any]]
SCHEDULES = ("printed", "released")
IMAGENET_IMAGES = 1_281_167  # of training


@dataclass(frozen=True)
class WrittenRecipe:
    """A recipe of some kind with what its header says of it."""

    name: str
    folder: str  # below recipes/: paper or modern
    title: str
    source: str
    expected: str
    values: Values
    images: int  # of the training set
    classes: int
    notes: tuple[str, ...] = ()  # further lines of the header
    released: Mapping[str, Any] = field(default_factory=dict)  # what --schedule released changes

    def recipe(self, overrides: Mapping[str, Any] | None = None, schedule: str = "printed") -> Recipe | DetectRecipe:
        """The recipe, with ``{"train.epochs": 3}``-like overrides on top. Raises RequestError."""
        raise NotImplementedError

    def _parsed(self, kind: type[R], overrides: Mapping[str, Any] | None, schedule: str) -> R:
        if schedule not in SCHEDULES:
            raise RequestError(f"no schedule {schedule!r}{did_you_mean(schedule, SCHEDULES)}")
        if schedule == "released" and not self.released:
            raise RequestError(f"{self.name} has one schedule: what is printed is what was released")
        changed = dict(self.released) if schedule == "released" else {}
        origin = f"{self.folder}/{self.name}.yaml"
        return parse_recipe(yaml_of(self.values), origin, changed | dict(overrides or {}), kind)


@dataclass(frozen=True)
class PaperRecipe(WrittenRecipe):
    """A recipe of ``resnext train``."""

    def recipe(self, overrides: Mapping[str, Any] | None = None, schedule: str = "printed") -> Recipe:
        """The recipe, with ``{"train.epochs": 3}``-like overrides on top. Raises RequestError."""
        return self._parsed(Recipe, overrides, schedule)


@dataclass(frozen=True)
class DetectorRecipe(WrittenRecipe):
    """A recipe of ``resnext detect train``."""

    def recipe(self, overrides: Mapping[str, Any] | None = None, schedule: str = "printed") -> DetectRecipe:
        """The recipe, with ``{"train.steps": 3}``-like overrides on top. Raises RequestError."""
        return self._parsed(DetectRecipe, overrides, schedule)


def yaml_of(values: Values) -> str:
    """Plain YAML of nested values, in the house's form: one line a setting, lists on their line."""
    lines = []
    for section, inside in values.items():
        lines.append(f"{section}:")
        lines += [f"  {key}: {_scalar(value)}" for key, value in inside.items()]
    return "\n".join(lines) + "\n"


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:e}".partition("e")
        return f"{float(mantissa)}e{int(exponent)}"
    return str(value)
