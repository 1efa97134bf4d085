"""What every kind of training does to set up a run: the process, checks of the data, what a checkpoint brings."""

from typing import Any, Protocol

import torch
from rich.console import Console

from resnext.data.classes import check_same_classes
from resnext.errors import RequestError, escape_unprintable
from resnext.run_directory import RunDirectory
from resnext.screen import print_line
from resnext.settings_shared import RecipeBase, RunSettings
from resnext.speed.allocator import tune_malloc
from resnext.training.checkpoint import read_checkpoint, restore_checkpoint
from resnext.training.distributed import World
from resnext.training.state import BatchT, ModelT, RecipeT, TrainState


class LabelledImages(Protocol):
    """One split of any data set."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""

    def __len__(self) -> int: ...


def configure_process(train: RunSettings, world: World) -> None:
    """Set threads, determinism and memory allocation of the process, before anything is built."""
    if train.threads is not None:
        torch.set_num_threads(train.threads)
    torch.backends.cudnn.deterministic = True
    if world.device.type == "cpu":
        tune_malloc()


def print_notes(provenance: dict[str, Any], weights: str | None, console: Console) -> None:
    """Print notes on the initial weights: what was assumed and what was not loaded."""
    for note in provenance.get("init", {}).get("notes", []):
        print_line(console, escape_unprintable(f"{weights}: {note}"))


def broadcast_checkpoint(run: RunDirectory, world: World) -> dict[str, bytes]:
    """Read the files of the last checkpoint in rank 0 and send them to all processes."""
    files = read_checkpoint(run) if world.is_main else {}
    return {key: world.broadcast_bytes(files.get(key, b"")) for key in ("state", "model", "training")}


def restore_state(state: TrainState[RecipeT, ModelT, BatchT], files: dict[str, bytes]) -> None:
    """Load the last checkpoint into ``state``. Raises RequestError if the data is not what the run was trained on."""
    saved = restore_checkpoint(files, state.run, state.model, state.ema, state.optimizer)
    check_same_data(saved.facts.data, state.facts.data, state.run)
    if saved.scaler:
        state.scaler.load_state_dict(saved.scaler)
    state.position, state.sums, state.facts = saved.position, saved.sums, saved.facts


def check_warmup(recipe: RecipeBase, steps_per_epoch: int) -> None:
    """Raise RequestError if the warm-up is as long as the whole run."""
    total, warmup = recipe.train.total_steps(steps_per_epoch), recipe.schedule.warmup_epochs * steps_per_epoch
    if warmup >= total:
        raise RequestError(
            f"schedule.warmup_epochs {recipe.schedule.warmup_epochs:g} ({warmup:g} steps) must be shorter than "
            f"the whole run ({total:,} steps)"
        )


def collect_data_facts(
    train: LabelledImages, val: LabelledImages, train_listing: str, val_listing: str
) -> dict[str, Any]:
    """Collect what identifies the data of a run; a listing is a digest of a split's images and labels."""
    return {
        "classes": list(train.classes),
        "train_images": len(train),
        "train_listing": train_listing,
        "val_images": len(val),
        "val_listing": val_listing,
    }


def check_same_data(before: dict[str, Any], now: dict[str, Any], run: RunDirectory) -> None:
    """Raise RequestError if the data is not what the run was trained on."""
    check_same_classes(before.get("classes", []), now["classes"], f"the data of {run.path}")
    for split, what in (("train", "training"), ("val", "held-out")):
        had, has = (facts.get(f"{split}_images") for facts in (before, now))
        if had != has or before.get(f"{split}_listing") != now[f"{split}_listing"]:
            others = f"{has}" if had != has else f"{has}, some with other names or labels"
            raise RequestError(
                f"{run.path} was trained with {had} {what} images, but the data now has {others}: "
                "a run can be resumed only with the same data"
            )
