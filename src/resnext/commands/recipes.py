"""``resnext recipes``: list the recipes that come with the package, or print one."""

import argparse
import re
from fnmatch import fnmatch
from typing import Any

SUMMARY = "List the recipes that come with the package, or print one with everything it extends filled in."
NOTE = """
Train one with resnext train NAME, or one of detection (coco, bccd) with resnext detect train NAME.
resnext recipes NAME prints it with its source and settings; NAME > mine.yaml is a start for a recipe of your own."""
FIRST_CLAUSE = re.compile(r".+?(?= \(|;|: |\. [A-Z]|\.$|$)")  # of the header's sentences


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``resnext recipes``."""
    parser.add_argument(
        "name", nargs="?", default="*",
        help="recipe to print, such as small/digits, or shell pattern of those to list, such as 'modern/*' "
        "(default: all)",
    )  # fmt: skip
    parser.add_argument("--all", action="store_true", help="print all settings, also those left at their defaults")


def run(args: argparse.Namespace) -> int:
    """Print the list or the recipe. Raises RequestError if nothing matches."""
    from resnext.recipe import list_recipes

    if any(mark in args.name for mark in "*?["):
        return _print_list([name for name in list_recipes() if fnmatch(name, args.name)], args.name)
    print(format_recipe(args.name, complete=args.all), end="")
    return 0


def _print_list(names: list[str], pattern: str) -> int:
    from rich.table import Table

    from resnext.errors import RequestError
    from resnext.recipe import list_recipes
    from resnext.recipe_header import read_header
    from resnext.screen import make_screen

    if not names:
        raise RequestError(f"no recipe matches {pattern!r}; resnext recipes lists them")
    table = Table("name", "what", "expected", "cost", box=None, header_style="bold")
    for name in names:
        header = read_header(list_recipes()[name])
        table.add_row(name, header.title, *(_shorten(text) for text in (header.expected, header.cost)))
    console = make_screen()
    console.print(table)
    console.print(NOTE)
    return 0


def _shorten(text: str) -> str:
    """Return the first clause of a text."""
    found = FIRST_CLAUSE.match(text)
    return found[0] if found else text


def format_recipe(name: str, *, complete: bool = False) -> str:
    """Format a recipe with its header and the settings of the recipes it extends, as a recipe file.

    Args:
        name: The recipe, or a file.
        complete: Whether to include the settings that are left at their defaults.

    Raises:
        RequestError: If there is no such recipe, or it is wrong.
    """
    from resnext.detection.settings import DetectRecipe
    from resnext.recipe import dump_recipe, find_recipe, read_recipe, read_recipe_kind, read_stated_settings
    from resnext.recipe_header import read_header
    from resnext.settings import Recipe

    kind = DetectRecipe if read_recipe_kind(name) == "detection" else Recipe
    recipe = read_recipe(name, kind=kind)  # also checks it
    body = dump_recipe(recipe) if complete else _dump_settings(read_stated_settings(name), kind)
    header = read_header(find_recipe(name)).text
    return f"{header}\n{body}" if header else body


def _dump_settings(settings: dict[str, Any], kind: type) -> str:
    """Format settings as YAML, the sections in the order of ``kind``, and each list on one line."""
    from dataclasses import fields

    import yaml

    class Dumper(yaml.SafeDumper):
        """SafeDumper that writes lists on one line."""

    Dumper.add_representer(
        list, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)
    )
    ordered = {section.name: settings[section.name] for section in fields(kind) if settings.get(section.name)}
    return yaml.dump(ordered, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=10_000)
