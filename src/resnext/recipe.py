"""Convert recipes between YAML, command line values, and the frozen dataclasses of settings.py.

A recipe is a YAML file, or the name of one that comes with the package: ``small/digits``. Its key ``extends`` names
another recipe whose settings it takes where it does not give its own.
"""

import math
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal

import yaml
from typing_extensions import TypeVar

from resnext.errors import RequestError, did_you_mean
from resnext.settings import Recipe, is_group_file
from resnext.settings_fields import FieldSpec, list_fields, list_sections
from resnext.settings_shared import RecipeBase

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RECIPES = Path(__file__).parent / "recipes"  # those that come with the package: FAMILY/NAME.yaml
MAX_FILE_BYTES = 1 << 20  # bytes
TYPE_WORDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a word"}
Kind = Literal["classification", "detection"]
TRAIN_COMMANDS: dict[Kind, str] = {"classification": "resnext train", "detection": "resnext detect train"}
S = TypeVar("S", bound="DataclassInstance")
R = TypeVar("R", bound=RecipeBase, default=Recipe)  # the class of recipe: Recipe, or DetectRecipe


def list_recipes() -> dict[str, Path]:
    """List the recipes that come with the package, by name; those that others only extend (``_NAME``) are left out."""
    files = sorted(RECIPES.glob("*/*.yaml"))
    return {f"{path.parent.name}/{path.stem}": path for path in files if not path.name.startswith("_")}


def find_recipe(name: Path | str) -> Path:
    """Find a recipe: the file ``name``, or else the one of that name that comes with the package.

    The family may be left out: ``digits`` is ``small/digits``. Returns ``name`` as a path if there is neither.
    """
    if os.path.isfile(name):
        return Path(name)
    known = list_recipes()
    return ({path.stem: path for path in known.values()} | known).get(str(name), Path(name))


def read_recipe(path: Path | str, overrides: Mapping[str, object] | None = None, kind: type[R] = Recipe) -> R:  # type: ignore[assignment]
    """Read a recipe file, or the recipe of this name that comes with the package.

    ``overrides`` such as ``{"train.epochs": 3}`` replace its settings. Raises RequestError, which names the file, the
    key and the closest valid key.
    """
    path = find_recipe(path)
    return _build_recipe(read_stated_settings(path), describe_path(path), overrides, kind)


def read_stated_settings(path: Path | str) -> dict[str, Any]:
    """Read the settings that a recipe or those it extends give, as plain nested values. Raises RequestError."""
    path = find_recipe(path)
    origin = describe_path(path)
    return _merge_bases(parse_sections(_read_text(path), origin), origin, path)


def describe_path(path: Path) -> str:
    """Return the name of a recipe that comes with the package, or the path of another."""
    return path.relative_to(RECIPES).with_suffix("").as_posix() if path.is_relative_to(RECIPES) else str(path)


def _read_text(path: Path) -> str:
    """Read the text of a recipe file. Raises RequestError."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise RequestError(f"{path} is larger than 1 MiB, so it is not a recipe")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        hint = _suggest_recipe(path) or "; resnext recipes lists those that come with the package"
        what = "recipe" if path.suffix else "recipe and no folder"
        raise RequestError(f"there is no {what} {path}{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} cannot be read as a recipe: {error}") from None


def _merge_bases(values: dict[str, Any], origin: str, path: Path | None) -> dict[str, Any]:
    """Add the settings of the recipe that ``extends`` names, and of those that it extends in turn.

    Raises RequestError for a name that is no recipe and for recipes that extend each other.
    """
    chain = [] if path is None else [path.resolve()]
    while "extends" in values:
        base = _find_base(values.pop("extends"), origin, path)
        if base.resolve() in chain:
            raise RequestError(f"{origin}: extends leads back to {describe_path(base)}, so it has no end")
        path, origin = base, describe_path(base)
        chain.append(base.resolve())
        values = _merge_sections(parse_sections(_read_text(base), origin), values)
    return values


def _find_base(name: Any, origin: str, path: Path | None) -> Path:
    """Find the recipe that ``extends`` names: beside or below the file, or one that comes with the package."""
    if not isinstance(name, str):
        raise RequestError(f"{origin}: extends must be the name of a recipe, not {_describe_value(name)}")
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        raise RequestError(
            f"{origin}: extends {name!r} must name a recipe beside or below this file, or one of resnext recipes"
        )
    folders = [RECIPES] if path is None else [path.parent, RECIPES]
    for found in (folder / file for folder in folders for file in (name, f"{name}.yaml")):
        if os.path.isfile(found):
            return found
    raise RequestError(f"{origin}: extends {name!r} is not a recipe{did_you_mean(name, list_recipes())}")


def _merge_sections(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Merge two recipes setting by setting; those of ``values`` win."""
    merged = base | values
    for section, under in base.items():
        over = values.get(section)
        if isinstance(under, dict) and (over is None or isinstance(over, dict)):
            merged[section] = under | (over or {})
    return merged


def parse_recipe(
    text: str,
    origin: str = "the recipe",
    overrides: Mapping[str, object] | None = None,
    kind: type[R] = Recipe,  # type: ignore[assignment]
) -> R:
    """Parse a recipe from YAML text; ``origin`` names it in errors. Raises RequestError, also for the wrong kind."""
    return _build_recipe(_merge_bases(parse_sections(text, origin), origin, None), origin, overrides, kind)


def _build_recipe(values: dict[str, Any], origin: str, overrides: Mapping[str, Any] | None, kind: type[R]) -> R:
    """Build a recipe from plain nested values. Raises RequestError."""
    found, asked = infer_kind(values), "classification" if kind is Recipe else "detection"
    if found is not None and found != asked:
        raise RequestError(f"{origin} is a {found} recipe, not a {asked} recipe; use {TRAIN_COMMANDS[found]}")
    for key, value in (overrides or {}).items():
        section, _, name = key.partition(".")
        inside = values.setdefault(section, {})
        if not isinstance(inside, dict) or not name:
            raise RequestError(f"--{key} is not a setting of a recipe; settings look like --train.epochs")
        inside[name] = value
    sections = list_sections(kind)
    built: dict[str, Any] = {}
    try:
        for name, inside in values.items():
            if name not in sections:
                raise RequestError(f"unknown setting {name}{_suggest_key(name, [*sections, 'extends'], kind)}")
            built[name] = build_settings(sections[name], {} if inside is None else inside, f"{name}.", kind)
        return kind(**built)
    except RequestError as error:
        raise RequestError(f"{origin}: {error}") from None


def parse_sections(text: str, origin: str) -> dict[str, Any]:
    """Parse YAML text to plain nested values. Raises RequestError."""
    try:
        values = yaml.load(text, Loader=_StrictLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise RequestError(f"{origin} is not valid YAML: {reason}") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise RequestError(f"{origin} must hold sections such as model: and train:, not {_describe_value(values)}")
    return values


def read_recipe_kind(path: Path | str) -> Kind | None:
    """Read the kind of a recipe; None if it cannot be told or there is no readable recipe."""
    try:
        return infer_kind(read_stated_settings(path))
    except RequestError:
        return None


def infer_kind(values: Mapping[str, object]) -> Kind | None:
    """Infer the kind of recipe that knows more of these settings; None if both know equally many."""
    from resnext.detection.settings import DetectRecipe  # imported here: that package builds on this module

    in_classification, in_detection = (_count_unknown_settings(values, cls) for cls in (Recipe, DetectRecipe))
    if in_classification == in_detection:
        return None
    return "classification" if in_classification < in_detection else "detection"


def _count_unknown_settings(values: Mapping[str, object], cls: type[RecipeBase]) -> int:
    """Count the sections, settings and values of ``data.source`` that this kind of recipe does not know."""
    sections, unknown = list_sections(cls), 0
    for section, inside in values.items():
        known = list_fields(sections[section]) if section in sections else {}
        unknown += section not in sections
        for key in inside if isinstance(inside, dict) else ():
            unknown += key not in known
        if section == "data" and isinstance(inside, dict) and "source" in inside:
            unknown += inside["source"] not in known["source"].choices
    return unknown


def build_settings(cls: type[S], values: object, prefix: str, kind: type[RecipeBase] = Recipe) -> S:
    """Build one section of settings from plain values.

    ``prefix`` names the section in errors, as ``train.``. An unknown setting is looked for in all sections of ``kind``.
    Raises RequestError.
    """
    if not isinstance(values, dict):
        raise RequestError(f"{prefix.rstrip('.')} must hold settings, not {_describe_value(values)}")
    known = list_fields(cls)
    for key in values:
        if key not in known:
            raise RequestError(f"unknown setting {prefix}{key}{_suggest_key(key, known, kind)}")
    return cls(**{key: _coerce(value, known[key], f"{prefix}{key}") for key, value in values.items()})


def dump_recipe(recipe: RecipeBase) -> str:
    """Write a recipe as YAML with all settings; ``parse_recipe`` returns an equal recipe."""
    values = to_dict(recipe)
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    if yaml.safe_load(text) == values:
        return text
    return yaml.safe_dump(values, sort_keys=False)  # a path with a line separator, which YAML would fold


def to_dict(settings: "DataclassInstance") -> dict[str, Any]:
    """Convert settings to plain nested values, with tuples as lists."""
    return asdict(
        settings, dict_factory=lambda items: {key: list(v) if isinstance(v, tuple) else v for key, v in items}
    )


def list_differences(before: R, after: R) -> list[str]:
    """List the settings in which two recipes differ, as ``train.epochs: 10 -> 20``."""
    pairs = zip(iterate_settings(before), iterate_settings(after), strict=True)
    return [f"{key}: {old!r} -> {new!r}" for (key, old), (_, new) in pairs if old != new]


def iterate_settings(recipe: RecipeBase) -> Iterator[tuple[str, Any]]:
    """Iterate over all settings as (``section.field``, value), in the order of settings.py."""
    for section in fields(recipe):
        inside = getattr(recipe, section.name)
        for f in fields(inside):
            yield f"{section.name}.{f.name}", getattr(inside, f.name)


def replace_places(recipe: R, change: Callable[[str, str], str]) -> R:
    """Replace every path, URL or hub id in the recipe by ``change(key, value)``."""
    sections = {}
    for section, cls in list_sections(type(recipe)).items():
        inside = getattr(recipe, section)
        places = {name: getattr(inside, name) for name, spec in list_fields(cls).items() if spec.is_place}
        given = {name: value for name, value in places.items() if value is not None}
        if "group" in given and not is_group_file(given["group"]):
            del given["group"]  # a pattern
        new = {name: change(f"{section}.{name}", value) for name, value in given.items()}
        sections[section] = replace(inside, **new)
    return replace(recipe, **sections)


def make_absolute(key: str, value: str) -> str:
    """Make a path setting absolute, so that it means the same in every working directory."""
    if "://" in value or (key, value) == ("data.classes", "imagenet"):
        return value
    return str(Path.cwd() / os.path.expanduser(value))


def is_same_place(key: str, asked: str, absolute: str) -> bool:
    """Whether a path means ``absolute`` in this working directory or, by its last parts, on another host."""
    found = make_absolute(key, asked)
    if found == asked:
        return found == absolute
    parts = Path(asked).parts
    return os.path.normpath(found) == os.path.normpath(absolute) or (
        len(parts) > 0 and parts == Path(absolute).parts[-len(parts) :]
    )


def parse_command_line_value(key: str, text: str, kind: type[RecipeBase] = Recipe) -> Any:
    """Parse the value of ``--key`` on the command line: YAML, or a comma-separated list."""
    try:
        value = yaml.load(text, Loader=_StrictLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    section, _, name = key.partition(".")
    sections = list_sections(kind)
    spec = list_fields(sections[section]).get(name) if section in sections else None
    if spec is not None and spec.is_list:
        if isinstance(value, str):
            return [yaml.load(part, Loader=_StrictLoader) for part in value.split(",")]
        return [value] if isinstance(value, int | float) and not isinstance(value, bool) else value
    if spec is not None and spec.type is str and value is not None:
        return text
    return value


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys and aliases."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed in recipes")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.YAMLError(f"the key {key!r} on line {key_node.start_mark.line + 1} is not a word")
            if key in seen:
                raise yaml.YAMLError(f"the key {key!r} is given twice (line {key_node.start_mark.line + 1})")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _suggest_key(key: str, known: Iterable[str], kind: type[RecipeBase]) -> str:
    hint = did_you_mean(key, known)
    if "did you mean" in hint:
        return hint
    elsewhere = [f"{section}.{key}" for section, cls in list_sections(kind).items() if key in list_fields(cls)]
    return f"; did you mean {' or '.join(elsewhere)}?" if elsewhere else hint


def _coerce(value: object, spec: FieldSpec, key: str) -> Any:
    """Convert ``value`` to the type of the setting. Raises RequestError naming the key and what was expected."""
    if value is None:
        if spec.is_optional:
            return None
        expected = "a list" if spec.is_list else TYPE_WORDS[spec.type]
        raise RequestError(f"{key} needs {expected}, not an empty value")
    if not spec.is_list:
        return _coerce_scalar(value, spec, key)
    if not isinstance(value, list | tuple):
        raise RequestError(f"{key} must be a list, such as [30, 60, 90], not {value!r}")
    return tuple(_coerce_scalar(item, spec, key) for item in value)


def _coerce_scalar(value: object, spec: FieldSpec, key: str) -> bool | int | float | str:
    result = _convert_scalar(value, spec)
    if result is None:
        raise RequestError(f"{key} must be {TYPE_WORDS[spec.type]}, not {value!r}")
    if spec.choices and result not in spec.choices:
        raise RequestError(f"{key} {result!r} is unknown{did_you_mean(str(result), spec.choices)}")
    if spec.bounds is not None and not isinstance(result, str) and not spec.bounds.allows(result):
        raise RequestError(f"{key} must be {spec.bounds}, not {result!r}")
    return result


def _convert_scalar(value: object, spec: FieldSpec) -> bool | int | float | str | None:
    """Convert ``value`` to the type of the setting, or return None if it does not fit."""
    if isinstance(value, bool):
        word = "yes" if value else "no"  # YAML 1.1 reads yes and no as true and false
        return value if spec.type is bool else word if word in spec.choices else None
    if spec.type is float:
        try:  # YAML 1.1 reads 1e-4 as a word
            number = float(value) if isinstance(value, int | float | str) else math.nan
        except (ValueError, OverflowError):
            return None
        return number if math.isfinite(number) else None
    if spec.type is int:
        return value if isinstance(value, int) else None
    return value if isinstance(value, str) and spec.type is str else None


def _describe_value(value: object) -> str:
    return "a list" if isinstance(value, list) else f"{value!r:.40}"


def _suggest_recipe(path: Path) -> str:
    here = [str(p) for p in sorted(path.parent.glob("*.yaml"))[:50]] if path.parent.is_dir() else []
    return did_you_mean(str(path), [*here, *list_recipes(), *(known.stem for known in list_recipes().values())])
