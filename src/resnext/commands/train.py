"""``resnext train``: train by a recipe into a run directory, or resume a run."""

import argparse
from dataclasses import fields
from typing import Any

from resnext.recipe import R, parse_command_line_value
from resnext.run_directory import RunDirectory
from resnext.settings import Recipe
from resnext.settings_fields import FieldSpec, list_fields, list_sections
from resnext.settings_shared import RecipeBase
from resnext.training.request import resolve_request

SUMMARY = "Train a network by a recipe, or resume a run."

SHORT_OPTIONS = {"init.weights": "--init"}  # short names of frequently used options


def add_arguments(parser: argparse.ArgumentParser, kind: type[RecipeBase] = Recipe) -> None:
    """Add RECIPE, --run, --resume, --continue, and one option for every setting of this kind of recipe."""
    ways = "[--run DIR | --resume DIR | --continue DIR]"
    parser.usage = f"{parser.prog} [RECIPE] {ways} [--init WEIGHTS] [--SECTION.FIELD VALUE ...]"
    about = "YAML file, or a name that resnext recipes lists; optional with --resume"
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help=about)
    parser.add_argument("--run", metavar="DIR", help="new run directory (default: runs/NAME-DATE-TIME)")
    parser.add_argument("--resume", metavar="DIR", help="resume this run from its last checkpoint")
    about = "start this run, or resume it if it exists, here or in train.checkpoint_url; safe to repeat"
    parser.add_argument("--continue", dest="again", metavar="DIR", help=about)
    add_setting_options(parser, kind)


def add_setting_options(parser: argparse.ArgumentParser, kind: type[RecipeBase] = Recipe) -> None:
    """Add one option for every setting of a recipe."""
    for section in fields(kind):
        group = parser.add_argument_group(section.name, section.metadata["help"])
        for spec in list_fields(list_sections(kind)[section.name]).values():
            key = f"{section.name}.{spec.name}"
            group.add_argument(
                *([SHORT_OPTIONS[key]] if key in SHORT_OPTIONS else []),
                f"--{key}",
                dest=f"set:{key}",
                metavar=_choose_metavar(spec),
                help=f"{spec.help}{_describe_values(spec)}".replace("%", "%%"),
            )


def collect_settings(args: argparse.Namespace, kind: type[RecipeBase] = Recipe) -> dict[str, Any]:
    """Collect the settings given as options, as ``{"train.epochs": 3}``."""
    return {
        key.removeprefix("set:"): parse_command_line_value(key.removeprefix("set:"), text, kind)
        for key, text in vars(args).items()
        if key.startswith("set:") and text is not None
    }


def run(args: argparse.Namespace) -> int:
    """Train, and return exit status 0 when the run is complete."""
    recipe, directory, resume = resolve_arguments(args, Recipe)

    from resnext.training.classification import Classification
    from resnext.training.loop import run_training

    run_training(Classification, recipe, directory, resume=resume)
    return 0


def resolve_arguments(args: argparse.Namespace, kind: type[R]) -> tuple[R, RunDirectory, bool | None]:
    """Return the recipe, the run directory, and whether to resume (None: resume if the run exists)."""
    overrides = collect_settings(args, kind)
    return resolve_request(kind, args.recipe, overrides, run=args.run, resume=args.resume, continue_=args.again)


def _choose_metavar(spec: FieldSpec) -> str:
    """Choose the metavar for a setting's type."""
    if spec.is_list or spec.is_place:
        return "LIST" if spec.is_list else "PATH"
    return {int: "N", float: "X", bool: "BOOL", str: "WORD"}[spec.type]


def _describe_values(spec: FieldSpec) -> str:
    """Describe the choices and the default of a setting, as `` Choices: a, b. [a]``."""
    choices = f" Choices: {', '.join(spec.choices)}." if spec.choices else ""
    default = spec.default
    if isinstance(default, tuple):
        default = ", ".join(map(str, default)) or "none"
    elif isinstance(default, bool):
        default = str(default).lower()
    return choices if default is None else f"{choices} [{default}]"
