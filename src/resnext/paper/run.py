"""``resnext paper run``: start the recipe of a row, or resume its run; ``--toy`` runs it in seconds."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnext.errors import RequestError
from resnext.files import atomic_write, report_write_errors
from resnext.paper.numbers import Row, Table
from resnext.paper.row_recipes import get_recipe_path, read_row_recipe
from resnext.recipe_header import read_header
from resnext.run_directory import RunDirectory
from resnext.settings import Recipe

if TYPE_CHECKING:
    from rich.console import Console

# A run of toy size.
TOY_STEPS, TOY_BATCH, TOY_BN_BATCH, TOY_IMAGES, TOY_CLASSES = 4, 8, 4, 32, 4
TOY_SIDE, TOY_RESIZE = 32, 36  # pixels
TOY_CHANNELS, TOY_NARROWING = 8, 16  # channels of the stem; factor by which the width shrinks
TOY_RATE = 0.01  # factor of the learning rate: deep networks with few channels diverge at the full rate
TOY_FOLDER = "toy-images"  # in the folder of runs


@dataclass(frozen=True)
class PlannedRun:
    """A run that is about to start or continue."""

    name: str  # of the recipe
    recipe: Recipe
    run: RunDirectory
    toy: bool


def plan_run(
    table: Table,
    row: Row,
    runs: Path,
    given: Mapping[str, Any],
    *,
    seed: int | None = None,
    schedule: str = "printed",
    toy: bool = False,
) -> PlannedRun:
    """Return the recipe of ``row`` with the given overrides, and its directory below ``runs``. Raises RequestError."""
    if row.recipe is None:
        why = f"its network is of another family ({row.family})" if row.family else "; ".join(table.remarks)
        raise RequestError(f"row {row.key} of {table.name} has no recipe{f': {why}' if why else ''}")
    recipe, given = read_row_recipe(row.recipe, schedule=schedule), dict(given)
    if not isinstance(recipe, Recipe):
        raise RequestError(_describe_detection_commands(table, row, runs, seed))
    if seed is not None:
        if given.get("train.seed", seed) != seed:
            raise RequestError(
                f"--seed {seed} and --train.seed {given['train.seed']} are the same setting; give one of them"
            )
        given["train.seed"] = seed
    overrides = make_toy_overrides(recipe, runs, given) if toy else given
    number = given.get("train.seed", 0)
    parts = [row.recipe, "toy" if toy else "", "released" if schedule == "released" else ""]
    name = "-".join(filter(None, [*parts, f"seed{number}" if number else ""]))
    recipe = read_row_recipe(row.recipe, overrides, schedule)
    assert isinstance(recipe, Recipe)
    return PlannedRun(row.recipe, recipe, RunDirectory(runs / name), toy)


def get_rpn_recipe(fast_rcnn: str) -> str:
    """Return the recipe of the RPN on whose proposals the recipe ``fast_rcnn`` trains."""
    return fast_rcnn.removesuffix("-fast-rcnn") + "-rpn"


def _describe_detection_commands(table: Table, row: Row, runs: Path, seed: int | None) -> str:
    """Describe how to measure a detection row: two runs of ``resnext detect train``."""
    name, after = str(row.recipe), f"-seed{seed}" if seed else ""
    rpn = get_rpn_recipe(name)
    proposals = str(runs / (rpn + after))
    more = ["--data.path", "COCO", *(["--train.seed", str(seed)] if seed else [])]
    first = [f"paper/{rpn}", "--continue", proposals, *more]
    second = [f"paper/{name}", "--continue", str(runs / (name + after)), "--train.proposals", proposals, *more]
    said = [shlex.join(["resnext", "detect", "train", *words]) for words in (first, second)]
    return f"row {row.key} of {table.name} needs two runs of resnext detect train: {said[0]}; then {said[1]}"


def announce_run(console: "Console", table: Table, row: Row, plan: PlannedRun) -> None:
    """Print what will be trained, for how long, and where."""
    if int(os.environ.get("RANK", "0")) != 0:
        return
    header = read_header(get_recipe_path(plan.name))
    lines = [f"{table.title}, row {row.key}: {row.name}", f"recipe {plan.name}: {header.title}"]
    if plan.toy:
        lines.append("toy size: 4 steps of 8 small images with few channels; its error has no meaning")
    else:
        lines += [f"expected {header.fields['Expected']}", f"cost {header.fields['Cost']}"]
    how = "continuing" if plan.run.recipe.is_file() else "starting"
    lines.append(f"{how} {plan.run.path}; the same command continues it")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def make_toy_overrides(recipe: Recipe, runs: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Make the overrides of a run of toy size: 4 steps of 8 images of 32 pixels, with few channels.

    Depth, cardinality, optimizer, loss, shape of the schedule and augmentation stay those of the recipe. Without
    ``data.path`` in ``given`` the images are noise, written below ``runs``. Overrides in ``given`` win.
    """
    small = _narrow_model(recipe) | {
        "data.max_train_images": TOY_IMAGES,
        "data.max_val_images": TOY_BATCH,
        "data.image_size": TOY_SIDE,
        "data.resize": TOY_RESIZE if recipe.augment.crop != "pad" else TOY_SIDE,
        "data.workers": 0,
        "train.epochs": None,
        "train.steps": TOY_STEPS,
        "train.batch_size": TOY_BATCH,
        "train.channels_last": "no",
        "train.threads": 1,
        "optimizer.lr": recipe.optimizer.lr * TOY_RATE,
    }
    if recipe.augment.size is not None:  # training images are smaller than those of evaluation
        small |= {"augment.size": TOY_SIDE, "data.image_size": TOY_SIDE + 4, "data.resize": TOY_SIDE + 8}
    if recipe.train.bn_batch_size is not None:
        small["train.bn_batch_size"] = TOY_BN_BATCH
    if recipe.train.ema_steps > 1:
        small["train.ema_steps"] = 2
    if recipe.schedule.milestones:
        drops = [min(TOY_STEPS - 1, 1 + i) for i in range(len(recipe.schedule.milestones))]
        small |= {"schedule.milestones": drops, "schedule.milestone_unit": "steps"}
    if recipe.schedule.warmup_epochs:
        small["schedule.warmup_epochs"] = 0.25
    if "data.path" not in given:
        small |= {"data.source": "folder", "data.path": str(write_toy_images(runs / TOY_FOLDER))}
    return small | dict(given)


def _narrow_model(recipe: Recipe) -> dict[str, Any]:
    """Return the overrides for a narrow network of the same depth, cardinality and blocks."""
    a = recipe.model.architecture(TOY_CLASSES, 3)
    if recipe.model.stage_widths is not None:
        widths = [TOY_CHANNELS * 2**stage for stage in range(len(recipe.model.stage_widths))]
        return {
            "model.name": f"resnet{a.depth}_1x{TOY_CHANNELS}d",
            "model.stage_widths": widths,
            "model.stage_channels": widths,
            "model.base_channels": TOY_CHANNELS,
        }
    assert a.width is not None
    return {"model.width": max(1, a.width // TOY_NARROWING), "model.base_channels": TOY_CHANNELS}


def write_toy_images(folder: Path) -> Path:
    """Write a folder of small noisy images with train/ and val/, the same ones every time, unless they exist."""
    import numpy as np
    from PIL import Image

    generator = np.random.Generator(np.random.PCG64(0))
    for split, count in (("train", TOY_IMAGES // TOY_CLASSES), ("val", TOY_BATCH // TOY_CLASSES)):
        for label in range(TOY_CLASSES):
            place = folder / split / f"class{label}"
            with report_write_errors(place):
                place.mkdir(parents=True, exist_ok=True)
                for number in range(count):
                    pixels = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
                    pixels[..., label % 3] //= 2
                    path = place / f"{number}.png"
                    if not path.exists():
                        with atomic_write(path) as file:  # several processes may write it at once
                            Image.fromarray(pixels).save(file, format="png")
    return folder
