"""Stop a run before its last step: no better for ``train.patience`` evaluations, or ``train.max_time`` is over.

Patience depends on nothing but the position, so a run resumed at any step stops at the same epoch.
"""

from resnext.settings_shared import RunSettings
from resnext.training.state import BatchT, ModelT, Position, RecipeT, TrainState
from resnext.training.time_limit import FINISH_SECONDS


def explain_stop(state: TrainState[RecipeT, ModelT, BatchT]) -> str | None:
    """Return why the run ends where it is now, as ``after 12 of 30 epochs: ...``; None if it goes on or is complete.

    To be called by all processes, after an evaluated epoch or where a run is resumed.
    """
    position, train = state.position, state.recipe.train
    if position.epoch >= state.epochs:
        return None
    if train.patience is not None and count_stale_evaluations(position, train) >= train.patience:
        return describe_stop(state, f"no better for {train.patience} {describe_unit(train)}")
    if state.time_limit.limit is None:
        return None
    to_do = min(train.evaluate_every * state.loader.steps_per_epoch, state.total_steps - position.step)
    is_over = state.world.is_main and not state.time_limit.has_time_for(to_do, evaluations=2)
    return describe_time_stop(state) if state.world.all_reduce_any(is_over) else None


def forecast_end(state: TrainState[RecipeT, ModelT, BatchT]) -> str | None:
    """Return a sentence if ``train.max_time`` will be over before the last epoch, at the speed of the latest one."""
    clock, train, position = state.time_limit, state.recipe.train, state.position
    if clock.limit is None or clock.step_seconds is None or position.stopped is not None:
        return None
    evaluation = clock.evaluation_seconds or 0.0
    epoch = state.loader.steps_per_epoch * clock.step_seconds + evaluation / train.evaluate_every
    more = int((clock.limit - clock.elapsed - evaluation - FINISH_SECONDS) / epoch)
    if position.epoch + more >= state.epochs:
        return None
    return (
        f"at this speed train.max_time {train.max_time} ends this run after about {position.epoch + more} of "
        f"{state.epochs} epochs; with so many train.epochs its learning rate would fall to the end"
    )


def describe_time_stop(state: TrainState[RecipeT, ModelT, BatchT]) -> str:
    """Note that the time of ``train.max_time`` is used up, and return why the run ends."""
    assert state.time_limit.limit is not None
    state.position.seconds = max(state.position.seconds, state.time_limit.limit)  # so that resuming ends here too
    return describe_stop(state, f"train.max_time {state.recipe.train.max_time} is over")


def count_stale_evaluations(position: Position, train: RunSettings) -> int:
    """Count the evaluations since the best one."""
    return 0 if position.best is None else (position.epoch - int(position.best["epoch"])) // train.evaluate_every


def describe_unit(train: RunSettings) -> str:
    """Return what patience counts."""
    return ("epoch" if train.evaluate_every == 1 else "evaluation") + "s" * (train.patience != 1)


def describe_stop(state: TrainState[RecipeT, ModelT, BatchT], reason: str) -> str:
    """Say where the run ends and why, and how far down its learning rate is if the schedule would have gone on."""
    position, per_epoch = state.position, state.loader.steps_per_epoch
    if position.step == position.epoch * per_epoch and state.recipe.train.steps is None:
        place = f"after {position.epoch} of {state.epochs} epochs"
    else:
        place = f"after {position.step:,} of {state.total_steps:,} steps"
    rate = state.learning_rate_at(max(position.step - 1, 0))
    if rate > state.learning_rate_at(state.total_steps - 1):
        reason += f"; the schedule was cut short at a learning rate of {rate:.3g}"
    return f"{place}: {reason}"
