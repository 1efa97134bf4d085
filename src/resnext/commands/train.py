"""``resnext train``: train by a recipe or on a folder of photos into a run directory, or resume a run."""

import argparse
import os
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

from resnext.errors import RequestError
from resnext.recipe import R, parse_command_line_value
from resnext.run_directory import RunDirectory
from resnext.settings import Recipe
from resnext.settings_fields import FieldSpec, list_fields, list_sections
from resnext.settings_shared import RecipeBase
from resnext.training.request import choose_run_directory, is_photo_folder, resolve_request

SUMMARY = "Train a network on a folder of photos or by a recipe, or resume a run."

SHORT_OPTIONS = {"init.weights": "--init"}  # short names of frequently used options


def add_arguments(parser: argparse.ArgumentParser, kind: type[RecipeBase] = Recipe) -> None:
    """Add RECIPE, --run, --resume, --continue, and one option for every setting of this kind of recipe.

    Classification also takes a folder of photos as RECIPE, and --dry-run.
    """
    ways, photos = "[--run DIR | --resume DIR | --continue DIR]", kind is Recipe
    recipe = "[RECIPE | PHOTOS]" if photos else "[RECIPE]"
    parser.usage = f"{parser.prog} {recipe} {ways} [--init WEIGHTS] [--SECTION.FIELD VALUE ...]"
    about = "YAML file, or a name that resnext recipes lists; optional with --resume"
    about += "; or PHOTOS, a folder with a folder of pictures for each class: all settings are chosen" if photos else ""
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help=about)
    if photos:
        about = "with PHOTOS: print the settings and the cost, and write them as a recipe; do not train"
        parser.add_argument("--dry-run", action="store_true", help=about)
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
    found = _resolve_photos(args)
    if found is None:
        return 0
    recipe, directory, resume = found

    from resnext.training.classification import Classification
    from resnext.training.loop import run_training

    run_training(Classification, recipe, directory, resume=resume)
    return 0


def _resolve_photos(args: argparse.Namespace) -> tuple[Recipe, RunDirectory, bool | None] | None:
    """Return what ``resolve_arguments`` does, also for a folder of photos; None if --dry-run has done all."""
    if args.recipe is None or not is_photo_folder(args.recipe):
        if args.dry_run:
            raise RequestError("--dry-run plans a run on a folder of photos: give PHOTOS, the folder")
        return resolve_arguments(args, Recipe)
    if args.resume is not None:
        again = f"resnext train --resume {shlex.quote(args.resume)}"
        raise RequestError(f"a run is resumed with its own recipe: leave {args.recipe} out, as in {again}")
    begun = args.again is not None and RunDirectory(Path(args.again)).recipe.is_file()
    if begun and not args.dry_run:
        args.recipe = str(RunDirectory(Path(args.again)).recipe)  # the plan it was started with
        return resolve_arguments(args, Recipe)
    run = args.run if args.again is None else args.again
    directory = choose_run_directory(run, Path(os.path.abspath(args.recipe)).name)

    from resnext.planning.photos import plan_photos, write_planned_recipe
    from resnext.screen import make_screen, print_line

    console = make_screen()
    plan = plan_photos(args.recipe, collect_settings(args), console)
    if args.dry_run:
        path = write_planned_recipe(plan, Path())
        print_line(console, f"recipe  {path}\ntrain with it: resnext train {shlex.quote(str(path))}")
        return None
    return plan.recipe, directory, False if args.again is None else None


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
