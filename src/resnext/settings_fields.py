"""Declare and inspect settings. A field's annotation holds its type, choices and bounds; its metadata a help sentence.

This module does not import torch.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
PLACE = "place"  # marks the annotation of a path, URL or hub id


@dataclass(frozen=True)
class Bounds:
    """The smallest and the largest allowed value of a number, both included."""

    low: float
    high: float | None = None

    def allows(self, value: float) -> bool:
        """Return whether ``value`` lies within the bounds."""
        return self.low <= value and (self.high is None or value <= self.high)

    def __str__(self) -> str:
        return f"at least {self.low}" if self.high is None else f"from {self.low} to {self.high}"


@dataclass(frozen=True)
class Choices:
    """The allowed words, where they are the rows of a table that can grow; otherwise those of the Literal."""

    words: tuple[str, ...]


PositiveInt = Annotated[int, Bounds(1)]
NonNegativeInt = Annotated[int, Bounds(0)]
NonNegativeFloat = Annotated[float, Bounds(0)]
Fraction = Annotated[float, Bounds(0, 1)]
Place = Annotated[str, PLACE]
YesNo = Literal["yes", "no"]
AutoYesNo = Literal["auto", "yes", "no"]

UNIT_SECONDS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float | None:
    """Return the seconds of a time such as ``90 s``, ``30 m``, ``1.5 h`` or ``1 h 30 m``; None for anything else."""
    if not re.fullmatch(r"(\s*\d+(\.\d+)?\s*[a-z]+)+\s*", text):
        return None
    parts = re.findall(r"([\d.]+)\s*([a-z]+)", text)
    if any(unit not in UNIT_SECONDS for _, unit in parts):
        return None
    return sum(float(number) * UNIT_SECONDS[unit] for number, unit in parts)


def option(sentence: str, default: T) -> T:
    """Declare a setting: its help sentence and its default."""
    declared: T = field(default=default, metadata={"help": sentence})
    return declared


def section(cls: type[T]) -> T:
    """Declare a section of a recipe. Its help is the first line of the docstring of ``cls``."""
    declared: T = field(default_factory=cls, metadata={"help": (cls.__doc__ or "").partition("\n")[0]})
    return declared


@dataclass(frozen=True)
class FieldSpec:
    """What a setting allows, and its help sentence."""

    name: str
    help: str
    default: object
    type: type  # bool, int, float or str; of a list, that of its elements
    is_list: bool = False
    is_optional: bool = False  # may be None
    is_place: bool = False  # a path, URL or hub id
    choices: tuple[str, ...] = ()
    bounds: Bounds | None = None


@cache
def list_fields(cls: type) -> Mapping[str, FieldSpec]:
    """List the settings of a section by name, in the order of its class."""
    hints = get_type_hints(cls, include_extras=True)
    specs = {}
    for f in fields(cls):
        options = get_args(hints[f.name]) if get_origin(hints[f.name]) in (Union, UnionType) else (hints[f.name],)
        (hint,) = [option for option in options if option is not NoneType]
        is_list = get_origin(hint) is tuple
        hint = get_args(hint)[0] if is_list else hint
        hint, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        stated = get_args(hint) if get_origin(hint) is Literal else ()
        choices = next((mark.words for mark in marks if isinstance(mark, Choices)), stated)
        specs[f.name] = FieldSpec(
            name=f.name,
            help=f.metadata["help"],
            default=f.default,
            type=str if choices else hint,
            is_list=is_list,
            is_optional=NoneType in options,
            is_place=PLACE in marks,
            choices=choices,
            bounds=next((mark for mark in marks if isinstance(mark, Bounds)), None),
        )
    return MappingProxyType(specs)


def list_sections(cls: type) -> Mapping[str, type]:
    """List the sections of a recipe by name, in the order of its class."""
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in fields(cls)}
