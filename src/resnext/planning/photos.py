"""Plan a training run on a folder of photos: look at them, choose the settings by rules, estimate the cost."""

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from resnext.data.folds import check_class_sizes
from resnext.data.tools.findings import format_table, pluralize
from resnext.errors import RequestError, WorkError, escape_unprintable
from resnext.files import atomic_write, check_file
from resnext.planning.photo_rules import (
    Choice,
    Cost,
    Processor,
    StartWeights,
    choose_settings,
    estimate_cost,
    list_warnings,
)
from resnext.planning.photo_survey import PhotoSurvey, survey_photos
from resnext.recipe import build_settings, parse_recipe, read_stated_settings
from resnext.screen import print_line
from resnext.settings import Recipe
from resnext.settings_fields import list_sections
from resnext.speed.cache_folder import warn_once

FINETUNE_RECIPE = "modern/finetune"  # whose weights are started from
CONTACT_SECONDS = 5.0  # in which the server of the weights must answer
MAX_NAMED_CLASSES = 6


@dataclass(frozen=True)
class PhotoPlan:
    """A recipe for a folder of photos, why it is so, and what it costs."""

    survey: PhotoSurvey
    choices: tuple[Choice, ...]
    recipe: Recipe
    cost: Cost
    processor: Processor
    folds: int | None = None  # of a cross-validation, which trains as many runs

    def describe(self) -> Iterator[str]:
        """Yield the lines that tell a user the plan: what was found, each setting with its reason, the cost."""
        yield _describe_survey(self.survey)
        yield from (f"note: {text}" for text in list_warnings(self.survey))
        rows = [(choice.key, format_value(choice.value), choice.reason) for choice in self.choices]
        yield from format_table(("setting", "value", "why"), rows)
        yield self.describe_cost()

    def describe_cost(self) -> str:
        """Describe time and memory in one line."""
        cost, each = self.cost, format_duration(self.cost.seconds)
        long = each if self.folds is None else f"{format_duration(self.folds * cost.seconds)} ({self.folds} x {each})"
        where = "this GPU" if self.processor.gpu else f"{pluralize(self.processor.threads, 'thread')} of this CPU"
        return (
            f"cost: about {long}, {cost.images_per_second:,.0f} images/s, "
            f"{cost.memory_bytes / 1e9:.1f} GB of memory on {where} (estimated)"
        )

    def to_yaml(self) -> str:
        """Return the recipe as a file with the reason of each setting as a comment."""
        lines = [f"# {escape_unprintable(_describe_survey(self.survey))}", f"# {self.describe_cost()}"]
        sections = dict.fromkeys(choice.key.partition(".")[0] for choice in self.choices)
        for section in sections:
            lines.append(f"{section}:")
            for choice in self.choices:
                if choice.key.startswith(f"{section}."):
                    line = f"  {choice.key.partition('.')[2]}: {format_value(choice.value)}"
                    lines.append(f"{line}  # {choice.reason}" if choice.reason else line)
        return "\n".join(lines) + "\n"


def plan_photos(
    folder: Path | str, given: Mapping[str, Any], console: Console, *, folds: int | None = None
) -> PhotoPlan:
    """Plan a run on ``FOLDER/CLASS/PICTURE``, or the same below train/ and val/ or test/, and print the plan.

    Args:
        folder: The folder.
        given: Settings that replace the plan's choices, such as ``{"train.epochs": 3}``; ``init.weights`` None trains
            from scratch.
        console: Where rank 0 prints what was found, each setting with its reason, and the cost.
        folds: Number of folds of a cross-validation; its cost is that of all folds.

    Raises:
        RequestError: The folder cannot be trained on, or a setting does not fit.
        WorkError: The weights in ``given`` could not be downloaded.
    """
    folder = Path(os.path.expanduser(folder)).absolute()
    for key in ("data.source", "data.path"):
        if key in given:
            raise RequestError(f"--{key} does not go with a folder of pictures, {folder}; give one of both")
    given = {key: _coerce_setting(key, value) for key, value in given.items()}
    survey = survey_photos(folder, given.get("data.group"))
    if folds is not None:
        check_class_sizes(tuple(survey.classes), list(survey.classes.values()), folds)
    _check_readable(survey, given)
    processor = _describe_processor(given)

    is_main = int(os.environ.get("RANK", "0")) == 0
    if survey.group_hint and is_main:
        warn_once(survey.group_hint)  # training, which would say the same, then does not

    def say(text: str) -> None:
        if is_main:
            print_line(console, text)

    weights = _find_weights(given, say)
    choices = tuple(choose_settings(survey, processor, weights, given, folds))
    recipe = parse_recipe("", f"the plan for {folder}", {choice.key: choice.value for choice in choices})
    channels = recipe.data.channels or 3
    network = recipe.model.architecture(len(survey.classes), channels) if weights is None else weights.architecture
    plan = PhotoPlan(
        survey, choices, recipe, estimate_cost(recipe, survey, processor, network, folds), processor, folds
    )
    for line in plan.describe():
        say(line)
    return plan


def write_planned_recipe(plan: PhotoPlan, folder: Path) -> Path:
    """Write the plan as a recipe into ``folder``, under the first of NAME.yaml, NAME-2.yaml, ... that is free."""
    name, number = Path(plan.survey.folder).name, 1
    while (path := folder / (f"{name}-{number}.yaml" if number > 1 else f"{name}.yaml")).exists():
        number += 1
    check_file(path, "the recipe")
    with atomic_write(path, "w") as file:
        file.write(plan.to_yaml())
    return path


def format_value(value: Any) -> str:
    """Format the value of a setting as YAML on one line."""
    if isinstance(value, str) and re.fullmatch(r"\w+", value, re.ASCII) and yaml.safe_load(value) == value:
        return value
    return json.dumps(value, ensure_ascii=not str(value).isprintable())


def format_duration(seconds: float) -> str:
    """Format a time in minutes, or in seconds if it is short."""
    minutes = seconds / 60
    return f"{minutes:.{0 if minutes >= 10 else 1}f} minutes" if minutes >= 1.5 else f"{seconds:.0f} s"


def _coerce_setting(key: str, value: Any) -> Any:
    """Return a given value as its setting has it. Raises RequestError for an unknown setting or a wrong value."""
    section, _, name = key.partition(".")
    sections = list_sections(Recipe)
    if section not in sections or not name:
        raise RequestError(f"{key} is not a setting of a recipe; settings look like train.epochs")
    return getattr(build_settings(sections[section], {name: value}, f"{section}."), name)


def _describe_survey(survey: PhotoSurvey) -> str:
    """Describe the pictures in one line."""
    counts = [f"{name} {count:,}" for name, count in list(survey.classes.items())[:MAX_NAMED_CLASSES]]
    more = len(survey.classes) - len(counts)
    named = ", ".join(counts) + (f", and {more:,} more" if more else "")
    split = f" in train/, {survey.held_out:,} in {survey.held_out_folder}/" if survey.held_out_folder else ""
    colours = "grey" if survey.is_grey else "colour"
    return (
        f"{survey.folder}: {survey.pictures:,} pictures{split}, {len(survey.classes):,} classes ({named}); {colours}, "
        f"shorter side {survey.shorter_side:,} pixels, {survey.megapixels:.2g} megapixels (medians of {survey.sampled})"
    )


def _check_readable(survey: PhotoSurvey, given: Mapping[str, Any]) -> None:
    if survey.unreadable and given.get("data.on_bad_image") != "skip":
        raise RequestError(
            f"{len(survey.unreadable)} of {survey.sampled} pictures looked at cannot be read, such as "
            f"{survey.unreadable[0]}; resnext data check {shlex.quote(survey.folder)} names all such pictures: mend or "
            "remove them, or train without them by --data.on_bad_image skip"
        )


def _describe_processor(given: Mapping[str, Any]) -> Processor:
    """Describe the device that the run would use."""
    import torch

    from resnext.device import pick_device
    from resnext.environment import count_available_cores

    device = pick_device(given.get("train.device") or "auto")
    threads = given.get("train.threads") or torch.get_num_threads()
    return Processor(threads, count_available_cores(), device.type == "cuda")


def _find_weights(given: Mapping[str, Any], say: Callable[[str], None]) -> StartWeights | None:
    """Find the weights to start from: those given, or ImageNet weights if they are cached or can be downloaded."""
    from resnext.weights import load_spec
    from resnext.weights.hub import check_reachable

    if "init.weights" in given:
        name = given["init.weights"]
        return None if name is None else StartWeights(name, load_spec(name).architecture)
    if any(key.startswith("model.") for key in given):
        return None
    name = read_stated_settings(FINETUNE_RECIPE)["init"]["weights"]
    try:
        if check_reachable(name, CONTACT_SECONDS):
            say(f"downloading {name}, about 100 MB ...")
        return StartWeights(name, load_spec(name).architecture)
    except WorkError as error:
        reason = str(error).partition(";")[0]
        say(f"without pretrained weights: {reason}; a small network trains instead (--init WEIGHTS starts from a file)")
        return None
