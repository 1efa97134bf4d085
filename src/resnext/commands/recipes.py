"""``resnext recipes``: list the recipes that come with the package, or print one."""

import argparse
import re
from fnmatch import fnmatch
from typing import Any

SUMMARY = "List the recipes that come with the package, or print one with everything it extends filled in."
NOTE = """
Train one with resnext train NAME, or one of detection (coco, bccd) with resnext detect train NAME.
resnext recipes NAME prints it with its source and settings; NAME > mine.yaml is a start for a recipe of your own."""
CLAUSE_END = re.compile(r" \(|;|: |\. (?=[A-Z])|\.$")  # in the header's sentences


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
    if any(mark in args.name for mark in "*?["):
        print_list(args.name)
    else:
        print(format_recipe(args.name, complete=args.all), end="")
    return 0


def print_list(pattern: str) -> None:
    """Print a table of the recipes whose names match a shell pattern."""
    from rich.table import Table

    from resnext.errors import RequestError
    from resnext.recipe import list_recipes
    from resnext.recipe_header import read_header
    from resnext.screen import make_screen

    recipes = {name: path for name, path in list_recipes().items() if fnmatch(name, pattern)}
    if not recipes:
        raise RequestError(f"no recipe matches {pattern!r}; resnext recipes lists them")
    table = Table("name", "what", "expected", "cost", box=None, header_style="bold")
    for name, path in recipes.items():
        header = read_header(path)
        table.add_row(name, header.title, *(CLAUSE_END.split(header.fields[key])[0] for key in ("Expected", "Cost")))
    console = make_screen()
    console.print(table)
    console.print(NOTE)


def format_recipe(name: str, *, complete: bool = False) -> str:
    """Format a recipe file with its header and the settings of those it extends; ``complete``: also the defaults."""
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
