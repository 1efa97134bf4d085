"""A row's recipe at toy size: the same code paths within seconds, before GPUs are rented for the real one."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from resnext.files import atomic_write, report_write_errors
from resnext.model.architecture import Architecture
from resnext.settings import Recipe

STEPS, BATCH, BN_BATCH, IMAGES = 4, 8, 4, 32
SIDE, RESIZE = 32, 36  # pixels
BASE, NARROWER = 8, 16  # channels of the stem; division of d
CLASSES = 4
RATE = 0.01  # of the learning rate: a deep network of few channels would not survive the whole of it
PICTURES = "toy-pictures"  # below the runs


def toy(recipe: Recipe, runs: Path, given: dict[str, Any]) -> dict[str, Any]:
    """The overrides that make ``recipe`` small: 4 steps of 8 images of 32 pixels, few channels, all else as it was.

    Depth, cardinality, optimizer, loss, shape of the schedule and augmentation are those of the recipe. Without
    ``data.path`` in ``given`` the images are noise, written below ``runs``. What is given by hand wins.
    """
    small = _model(recipe) | {
        "data.max_train_images": IMAGES,
        "data.max_val_images": BATCH,
        "data.image_size": SIDE,
        "data.resize": RESIZE if recipe.augment.crop != "pad" else SIDE,
        "data.workers": 0,
        "train.epochs": None,
        "train.steps": STEPS,
        "train.batch_size": BATCH,
        "train.channels_last": "no",
        "train.threads": 1,
        "optimizer.lr": recipe.optimizer.lr * RATE,
    }
    if recipe.augment.size is not None:  # training sees less than evaluation
        small |= {"augment.size": SIDE, "data.image_size": SIDE + 4, "data.resize": SIDE + 8}
    if recipe.train.bn_batch_size is not None:
        small["train.bn_batch_size"] = BN_BATCH
    if recipe.train.ema_steps > 1:
        small["train.ema_steps"] = 2
    if recipe.schedule.milestones:
        drops = [min(STEPS - 1, 1 + i) for i in range(len(recipe.schedule.milestones))]
        small |= {"schedule.milestones": drops, "schedule.milestone_unit": "steps"}
    if recipe.schedule.warmup_epochs:
        small["schedule.warmup_epochs"] = 0.25
    if "data.path" not in given:
        small |= {"data.source": "folder", "data.path": str(write_pictures(runs / PICTURES))}
    return small | given


def _model(recipe: Recipe) -> dict[str, Any]:
    """The same depth, cardinality and blocks, narrow."""
    a: Architecture = recipe.model.architecture(CLASSES, 3)
    if recipe.model.stage_widths is not None:
        widths = [BASE * 2**stage for stage in range(len(recipe.model.stage_widths))]
        name = f"resnet{a.depth}_1x{BASE}d"
        return {
            "model.name": name,
            "model.stage_widths": widths,
            "model.stage_channels": widths,
            "model.base_channels": BASE,
        }
    assert a.width is not None
    return {"model.width": max(1, a.width // NARROWER), "model.base_channels": BASE}


def write_pictures(folder: Path) -> Path:
    """A folder of small noisy pictures, the same ones every time, with train/ and val/; made where it is missing."""
    generator = np.random.Generator(np.random.PCG64(0))
    for split, count in (("train", IMAGES // CLASSES), ("val", BATCH // CLASSES)):
        for label in range(CLASSES):
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
