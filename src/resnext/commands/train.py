"""``resnext train``: train by a recipe into a run directory, or resume a run."""

import argparse
import os
import time
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from resnext.errors import RequestError
from resnext.recipe import TRAIN_COMMANDS, Kind, parse_command_line_value, read_recipe
from resnext.run_directory import RunDirectory, check_new_run, check_run_kind, open_run
from resnext.settings import Recipe
from resnext.train.resume import resolve_resumed_recipe

SUMMARY = "Train a network by a recipe, or resume a run."

R = TypeVar("R")
SHORT_OPTIONS = {"init.weights": "--init"}  # short names of frequently used options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add RECIPE, --run, --resume, --continue, and one option for every setting."""
    add_run_options(parser)
    add_setting_options(parser)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the recipe and the run directory."""
    ways = "[--run DIR | --resume DIR | --continue DIR]"
    parser.usage = f"{parser.prog} [RECIPE] {ways} [--init WEIGHTS] [--SECTION.FIELD VALUE ...]"
    parser.add_argument(
        "recipe",
        nargs="?",
        metavar="RECIPE",
        help="YAML file, or a name that resnext recipes lists; optional with --resume",
    )
    parser.add_argument("--run", metavar="DIR", help="new run directory (default: runs/NAME-DATE-TIME)")
    parser.add_argument("--resume", metavar="DIR", help="resume this run from its last checkpoint")
    parser.add_argument(
        "--continue",
        dest="again",
        metavar="DIR",
        help="start this run, or resume it if it exists, here or in train.checkpoint_url; safe to repeat",
    )


def add_setting_options(parser: argparse.ArgumentParser, kind: type = Recipe) -> None:
    """Add one option for every setting of a recipe."""
    hints = get_type_hints(kind)
    for section in fields(kind):
        group = parser.add_argument_group(section.name, section.metadata["help"])
        for f in fields(hints[section.name]):
            default = "not given" if f.default is None else f.default
            choices = f" Choices: {', '.join(f.metadata['choices'])}." if f.metadata["choices"] else ""
            key = f"{section.name}.{f.name}"
            group.add_argument(
                *([SHORT_OPTIONS[key]] if key in SHORT_OPTIONS else []),
                f"--{key}",
                dest=f"set:{key}",
                metavar=_choose_metavar(get_type_hints(hints[section.name])[f.name]),
                help=f"{f.metadata['help']}{choices} [{default}]".replace("%", "%%"),
            )


def collect_settings(args: argparse.Namespace, kind: type = Recipe) -> dict[str, Any]:
    """Collect the settings given as options, as ``{"train.epochs": 3}``."""
    return {
        key.removeprefix("set:"): parse_command_line_value(key.removeprefix("set:"), text, kind)
        for key, text in vars(args).items()
        if key.startswith("set:") and text is not None
    }


def run(args: argparse.Namespace) -> int:
    """Train, and return exit status 0 when the run is complete."""
    recipe, directory, resume = resolve_request(args, Recipe)

    from resnext.train.loop import train

    train(recipe, directory, resume=resume)
    return 0


def resolve_request(args: argparse.Namespace, kind: type[R]) -> tuple[R, RunDirectory, bool | None]:
    """Return the recipe, the run directory, and whether to resume (None: resume if the run exists)."""
    overrides = collect_settings(args, kind)
    ways = {"--run": args.run, "--resume": args.resume, "--continue": args.again}
    if sum(value is not None for value in ways.values()) > 1:
        raise RequestError(
            "--run starts a new run, --resume resumes one, --continue does either: give only one of them"
        )
    begun = args.resume if args.resume is not None else args.again
    if begun is not None:
        task: Kind = "classification" if kind is Recipe else "detection"
        other = TRAIN_COMMANDS["detection" if task == "classification" else "classification"]
        check_run_kind(begun, task, f"{other} {'--continue' if args.resume is None else '--resume'} {begun}")
    if args.resume is not None:
        directory = open_run(args.resume)
        asked = read_recipe(directory.recipe if args.recipe is None else args.recipe, overrides, kind)
        return resolve_resumed_recipe(directory, asked), directory, True
    if args.recipe is None:
        raise RequestError("train needs a RECIPE, or --resume DIR")
    recipe = read_recipe(args.recipe, overrides, kind)
    if args.again is not None:
        return recipe, RunDirectory(Path(args.again)), None
    return recipe, choose_run_directory(args), False


def choose_run_directory(args: argparse.Namespace) -> RunDirectory:
    """Choose the directory of a new run. With several processes (``torchrun``), only rank 0 creates it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return check_new_run(args.run or Path("runs") / f"{Path(args.recipe).stem}-{time.strftime('%Y%m%d-%H%M%S')}")
    if args.run is None:
        raise RequestError("all processes of a run need the same directory: give --run DIR")
    return check_new_run(args.run) if int(os.environ.get("RANK", "0")) == 0 else RunDirectory(Path(args.run))


def _choose_metavar(hint: Any) -> str:
    """Choose the metavar for a field's type."""
    words = {int: "N", float: "X", bool: "BOOL", str: "WORD"}
    return next((words[option] for option in (hint, *get_args(hint)) if option in words), "LIST")
