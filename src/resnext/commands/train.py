"""``resnext train``: a recipe into a run directory, or a run directory further along."""

import argparse
import os
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from resnext.errors import RequestError
from resnext.recipe import differences, from_command_line, read_recipe
from resnext.run_directory import RunDirectory, create_run, open_run
from resnext.settings import Recipe

SENTENCE = "Train a network by a recipe, or go on with a run."

# What may differ between a run and its resumption: it does not change the result.
FREE = (
    *("data.path", "data.download", "data.workers", "data.start_method"),
    *("train.device", "train.threads", "train.checkpoint_steps"),
)
SHORT = {"init.weights": "--init"}  # what is given often has a short name too


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RECIPE, --run, --resume, and one option for every setting."""
    parser.usage = f"{parser.prog} [RECIPE] [--run DIR] [--resume DIR] [--init WEIGHTS] [--SECTION.FIELD VALUE ...]"
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="YAML file; may be left out with --resume")
    parser.add_argument("--run", metavar="DIR", help="new run directory (default: runs/NAME-DATE-TIME)")
    parser.add_argument("--resume", metavar="DIR", help="go on with this run from its last checkpoint")
    hints = get_type_hints(Recipe)
    for section in fields(Recipe):
        group = parser.add_argument_group(section.name, section.metadata["help"])
        for f in fields(hints[section.name]):
            default = "not given" if f.default is None else f.default
            choices = f" Choices: {', '.join(f.metadata['choices'])}." if f.metadata["choices"] else ""
            key = f"{section.name}.{f.name}"
            group.add_argument(
                *([SHORT[key]] if key in SHORT else []),
                f"--{key}",
                dest=f"set:{key}",
                metavar=_word(get_type_hints(hints[section.name])[f.name]),
                help=f"{f.metadata['help']}{choices} [{default}]".replace("%", "%%"),
            )


def run(args: argparse.Namespace) -> int:
    """Train; exit status 0 when the run is complete."""
    overrides = {
        key.removeprefix("set:"): from_command_line(key.removeprefix("set:"), text)
        for key, text in vars(args).items()
        if key.startswith("set:") and text is not None
    }
    if args.resume is not None:
        if args.run is not None:
            raise RequestError("--run begins a new run and --resume goes on with one: give one of them")
        directory = open_run(args.resume)
        recipe = resumed_recipe(directory, args.recipe, overrides)
    else:
        if args.recipe is None:
            raise RequestError("train needs a RECIPE, or --resume DIR")
        recipe = read_recipe(args.recipe, overrides)
        directory = new_run(args)

    from resnext.train.loop import train

    train(recipe, directory, resume=args.resume is not None)
    return 0


def new_run(args: argparse.Namespace) -> RunDirectory:
    """The directory of a new run. Of several processes (``torchrun``), the first makes it. Raises RequestError."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return create_run(args.run or Path("runs") / f"{Path(args.recipe).stem}-{time.strftime('%Y%m%d-%H%M%S')}")
    if args.run is None:
        raise RequestError("the processes of one run need the same directory: give --run DIR")
    return create_run(args.run) if int(os.environ.get("RANK", "0")) == 0 else RunDirectory(Path(args.run))


def resumed_recipe(directory: RunDirectory, path: str | None, overrides: dict[str, Any]) -> Recipe:
    """The recipe a run goes on with: its own, with those of ``FREE`` changed that were asked for.

    Raises RequestError showing every other difference between what is asked for and what the run was begun with. Other
    ``init.weights`` are among them: a run goes on from its checkpoint, and weights given by hand would have no effect.
    """
    begun = read_recipe(directory.recipe)
    asked = read_recipe(directory.recipe if path is None else path, overrides)
    if asked.train.channels_last == "auto":  # the run holds what was measured
        asked = replace(asked, train=replace(asked.train, channels_last=begun.train.channels_last))
    changed = [row for row in differences(begun, asked) if row.partition(":")[0] not in FREE]
    if changed:
        raise RequestError(
            f"the run {directory.path} was begun with another recipe (run -> asked for): {'; '.join(changed)}; "
            "leave RECIPE and these settings out to go on with the run's own, or begin a new run with --run"
        )
    return asked


def _word(hint: Any) -> str:
    """A metavar for a field's type."""
    words = {int: "N", float: "X", bool: "BOOL", str: "WORD"}
    return next((words[option] for option in (hint, *get_args(hint)) if option in words), "LIST")
