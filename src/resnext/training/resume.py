"""Resume a run: decide whether there is one, and check that its settings are unchanged. Does not import torch."""

from dataclasses import replace
from typing import TYPE_CHECKING

from resnext.errors import RequestError, WorkError
from resnext.recipe import (
    R,
    dump_recipe,
    is_same_place,
    iterate_settings,
    list_differences,
    make_absolute,
    parse_recipe,
    read_recipe,
    replace_places,
)
from resnext.run_directory import RunDirectory, check_new_run, read_last_step

if TYPE_CHECKING:
    from resnext.training.distributed import World

# Settings that may change when a run is resumed, because they do not affect the result of what is done.
ALLOWED_CHANGES = (
    *("data.path", "data.val_path", "data.classes", "data.group", "data.download", "data.workers", "data.start_method"),
    "data.on_bad_image",  # a run that does not skip ends at the first such image
    "data.cache",
    *("train.device", "train.threads", "train.checkpoint_steps", "train.checkpoint_url", "train.peer_timeout"),
    *("train.patience", "train.max_time"),  # where the run ends; its steps stay the same
    "train.log_to",
    "distill.weights",  # the same file elsewhere: its SHA-256 is compared
)

AUTOTUNED_SETTINGS = ("channels_last", "fast")  # of train, whose "auto" is decided by timing when the run starts


def resolve_resumed_recipe(run: RunDirectory, asked: R) -> R:
    """Return the recipe to resume with: ``asked``, which may differ from the run's in ``ALLOWED_CHANGES`` only.

    Raises RequestError listing every other difference. ``init.weights`` counts as one: a run resumes from its
    checkpoint, so other initial weights would have no effect.
    """
    begun = read_recipe(run.recipe, kind=type(asked))
    asked = fill_autotuned_settings(asked, begun)
    if changed := compare_with_begun(begun, asked):
        raise RequestError(
            f"the run {run.path} was started with another recipe (run -> requested): {'; '.join(changed)}; "
            "leave RECIPE and these settings out to resume with the run's own, or start a new run with --run"
        )
    return asked


def resolve_resume(recipe: R, run: RunDirectory, world: "World") -> tuple[R, bool]:
    """For ``--continue``: return the recipe, and whether to resume, the same in all processes.

    Rank 0 decides by its disk, after downloading what is newer in ``train.checkpoint_url``; without a checkpoint a
    new run starts. Raises RequestError if the run has another recipe, WorkError if only another host's disk
    has the latest checkpoint, which would be lost.
    """
    if world.is_main and recipe.train.checkpoint_url is not None:
        from resnext.training.remote_checkpoints import download_run

        download_run(recipe.train.checkpoint_url, run)
    here = read_last_step(run)
    steps = world.all_reduce_sum([float(here) if rank == world.rank else 0.0 for rank in range(world.size)])
    if max(steps) > steps[0]:
        raise WorkError(
            f"process {steps.index(max(steps))} has {run.path} at step {max(steps):.0f}, but the main process (0) "
            "does not: the hosts of a run need a shared folder, or a train.checkpoint_url"
        )
    goes_on = steps[0] >= 0
    if world.is_main and goes_on:
        recipe = resolve_resumed_recipe(run, recipe)
    elif world.is_main:
        check_new_run(run.path)
    return check_same_recipe(recipe, world), goes_on


def check_same_recipe(recipe: R, world: "World") -> R:
    """Check that all processes have the same recipe; return it with the settings that rank 0 autotuned."""
    text = world.broadcast_bytes(dump_recipe(recipe).encode()).decode()
    leaders = parse_recipe(text, "the main process's recipe", kind=type(recipe))
    recipe = fill_autotuned_settings(recipe, leaders)
    changed = list_changes(leaders, recipe)
    if changed:
        raise RequestError(
            f"the processes of this run were given different recipes (main process -> process {world.rank}): "
            f"{'; '.join(changed)}"
        )
    return recipe


def fill_autotuned_settings(asked: R, begun: R) -> R:
    """Replace "auto" in ``asked`` by the memory layout and fast paths that were autotuned for ``begun``."""
    found = {name: getattr(begun.train, name) for name in AUTOTUNED_SETTINGS if getattr(asked.train, name) == "auto"}
    return replace(asked, train=replace(asked.train, **found))


def reuse_path_spelling(asked: R, begun: R) -> R:
    """Replace paths in ``asked`` by the absolute ones of ``begun`` where both mean the same place."""
    spelled, absolute = (dict(iterate_settings(one)) for one in (begun, replace_places(begun, make_absolute)))

    def respell(key: str, value: str) -> str:
        is_same = absolute[key] is not None and is_same_place(key, value, absolute[key])
        return spelled[key] if is_same else value

    return replace_places(asked, respell)


def compare_with_begun(begun: R, asked: R) -> list[str]:
    """List the settings of a begun run which ``asked`` may not change; other spellings of a path are no change."""
    return list_changes(begun, reuse_path_spelling(fill_autotuned_settings(asked, begun), begun))


def list_changes(begun: R, asked: R) -> list[str]:
    """List the differences between two recipes that ``ALLOWED_CHANGES`` does not have."""
    return [row for row in list_differences(begun, asked) if row.partition(":")[0] not in ALLOWED_CHANGES]
