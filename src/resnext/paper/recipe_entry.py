"""What is known of one recipe: its settings as a recipe file has them, and what its header says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from resnext.errors import RequestError, nearest
from resnext.recipe import parse_recipe
from resnext.settings import Recipe

Values = dict[str, dict[str, Any]]
SCHEDULES = ("printed", "released")
IMAGENET_IMAGES = 1_281_167  # of training


@dataclass(frozen=True)
class PaperRecipe:
    """A recipe with what its header says of it."""

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

    def recipe(self, overrides: Mapping[str, Any] | None = None, schedule: str = "printed") -> Recipe:
        """The recipe, with ``{"train.epochs": 3}``-like overrides on top. Raises RequestError."""
        if schedule not in SCHEDULES:
            raise RequestError(f"no schedule {schedule!r}{nearest(schedule, SCHEDULES)}")
        if schedule == "released" and not self.released:
            raise RequestError(f"{self.name} has one schedule: what is printed is what was released")
        changed = dict(self.released) if schedule == "released" else {}
        return parse_recipe(yaml_of(self.values), f"{self.folder}/{self.name}.yaml", changed | dict(overrides or {}))


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
