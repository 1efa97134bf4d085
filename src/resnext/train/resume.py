"""Going on with a run: what may differ from how it was begun, and whether there is one to go on with. No torch here."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from resnext.errors import RequestError, WorkError
from resnext.recipe import (
    change_places,
    differences,
    dump_recipe,
    is_same_place,
    make_absolute,
    parse_recipe,
    read_recipe,
    settings_of,
)
from resnext.run_directory import RunDirectory, check_new_run, step_in

if TYPE_CHECKING:
    from resnext.train.distributed import World

# What may differ between a run and its resumption: it does not change the result.
FREE = (
    *("data.path", "data.val_path", "data.classes", "data.download", "data.workers", "data.start_method"),
    *("train.device", "train.threads", "train.checkpoint_steps", "train.mirror", "train.peer_timeout"),
)

R = TypeVar("R", bound=Any)  # the kind of recipe

MEASURED = ("channels_last", "fast")  # of train: what auto leaves to a measurement when the run begins


def resumed_recipe(run: RunDirectory, asked: R) -> R:
    """The recipe a run goes on with: ``asked``, which may differ from its own in ``FREE`` only.

    Raises RequestError showing every other difference between what is asked for and what the run was begun with. Other
    ``init.weights`` are among them: a run goes on from its checkpoint, and weights given by hand would have no effect.
    """
    begun = read_recipe(run.recipe, kind=type(asked))
    asked = with_measured(asked, begun)
    changed = changes(begun, respell_places(asked, begun))
    if changed:
        raise RequestError(
            f"the run {run.path} was begun with another recipe (run -> asked for): {'; '.join(changed)}; "
            "leave RECIPE and these settings out to go on with the run's own, or begin a new run with --run"
        )
    return asked


def settled(recipe: R, run: RunDirectory, world: "World") -> tuple[R, bool]:
    """For ``--continue``: the recipe to follow, and whether there is a run to go on with; all processes agree.

    The leader's disk decides, brought up to date from ``train.mirror``; where there is nothing, a run begins. Raises
    RequestError where run and request differ, WorkError where a later checkpoint lies on another host's disk alone:
    going on without it would lose it.
    """
    if world.leads and recipe.train.mirror is not None:
        from resnext.train.mirror import pull

        pull(recipe.train.mirror, run)
    here = step_of(run)
    steps = world.sum([float(here) if rank == world.rank else 0.0 for rank in range(world.size)])
    if max(steps) > steps[0]:
        raise WorkError(
            f"process {steps.index(max(steps))} holds {run.path} at step {max(steps):.0f}, but the leading process "
            "does not: the hosts of a run need one folder that all see, or a train.mirror"
        )
    goes_on = steps[0] >= 0
    if world.leads:
        if goes_on:
            recipe = resumed_recipe(run, recipe)
        else:
            check_new_run(run.path)
    return agreed(recipe, world), goes_on


def agreed(recipe: R, world: "World") -> R:
    """``recipe`` once it is known to be that of all processes. Raises RequestError showing where it is not."""
    text = world.share_bytes(dump_recipe(recipe).encode()).decode()
    leaders = parse_recipe(text, "the leading process's recipe", kind=type(recipe))
    recipe = with_measured(recipe, leaders)
    changed = changes(leaders, recipe)
    if changed:
        raise RequestError(
            f"the processes of this run were given different recipes (leading process -> process {world.rank}): "
            f"{'; '.join(changed)}"
        )
    return recipe


def step_of(run: RunDirectory) -> int:
    """The step of a run's last checkpoint, -1 where there is none. Raises RequestError for a damaged one."""
    if not run.recipe.exists() or not (run.checkpoint("last") / "state.json").exists():
        return -1
    step = step_in(run.state("last"))
    if step is None:
        raise RequestError(f"{run.checkpoint('last') / 'state.json'} does not say where the run stands")
    return step


def with_measured(asked: R, begun: R) -> R:
    """``asked`` with the memory layout and fast paths that were measured for ``begun``, where it leaves them open."""
    open_ones = [name for name in MEASURED if getattr(asked.train, name) == "auto"]
    return replace(asked, train=replace(asked.train, **{name: getattr(begun.train, name) for name in open_ones}))


def respell_places(asked: R, begun: R) -> R:
    """``asked`` with paths as ``begun`` spells them, which holds them absolute, where they are the same ones."""
    spelled = dict(settings_of(change_places(begun, make_absolute)))

    def respell(key: str, value: str) -> str:
        there = spelled[key]
        return dict(settings_of(begun))[key] if there is not None and is_same_place(key, value, there) else value

    return change_places(asked, respell)


def changes(begun: R, asked: R) -> list[str]:
    """The settings outside of ``FREE`` in which two recipes differ."""
    return [row for row in differences(begun, asked) if row.partition(":")[0] not in FREE]
