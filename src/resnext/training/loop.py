"""The training loop: build the state, run epochs and steps, evaluate, write checkpoints and the report.

All randomness is a function of (seed, epoch, index) or (seed, step), so a run resumes at any step without replay.
"""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import NoReturn

from rich.console import Console

from resnext.data.dataset import BadImageError
from resnext.errors import WorkError
from resnext.run_directory import RunDirectory, check_new_run
from resnext.screen import make_screen, print_line
from resnext.settings_fields import parse_duration
from resnext.training.callbacks import EpochCallback
from resnext.training.distributed import MAX_CLOCK_SKEW, World, init_distributed
from resnext.training.early_stop import explain_stop
from resnext.training.epoch_end import (
    finish_cut_epoch,
    finish_epoch,
    is_evaluation_due,
    save_checkpoint,
    save_last_checkpoint,
)
from resnext.training.interrupts import StopRequested, deferred_interrupts
from resnext.training.lock import lock_run
from resnext.training.logbook import Logbook
from resnext.training.loggers import Loggers, check_loggers
from resnext.training.progress import Reporter
from resnext.training.resume import check_same_recipe, resolve_resume
from resnext.training.setup import configure_process
from resnext.training.state import BatchT, ModelT, Position, RecipeT, TrainState
from resnext.training.task import Task
from resnext.training.time_limit import TimeLimit


def run_training(
    task_class: type[Task[RecipeT, ModelT, BatchT]],
    recipe: RecipeT,
    run: RunDirectory,
    *,
    resume: bool | None = False,
    console: Console | None = None,
    on_epoch_end: EpochCallback | None = None,
) -> Position:
    """Train by a recipe into a run directory and return the final position.

    Args:
        task_class: What is trained: ``Classification`` or ``Detection``.
        recipe: Settings of the run, of the kind that the task trains.
        run: Directory to write to. A new run needs an empty or missing one.
        resume: True resumes from the last checkpoint, False starts a new run. None resumes if the run exists, on this
            disk or in ``train.checkpoint_url``, and starts it otherwise, so that the same call can be repeated.
        console: Where progress is printed; standard output by default.
        on_epoch_end: Called in rank 0 after every epoch. What it raises ends the run, which can be resumed.

    Raises:
        RequestError: The settings do not fit the data, or another process is training in ``run``.
        WorkError: Training failed (loss not finite, bad image, full disk, lost process) or was stopped by a signal.
            The last checkpoint is intact.
    """
    console = console or make_screen()
    check_loggers(recipe.train.log_to)
    limit = None if recipe.train.max_time is None else parse_duration(recipe.train.max_time)
    time_limit = TimeLimit(limit)
    with ExitStack() as held:
        world = held.enter_context(init_distributed(recipe.train.device, recipe.train.peer_timeout))
        interrupts = held.enter_context(deferred_interrupts(single_process=world.size == 1))
        warn_about_clock_skew(world, console)
        with interrupts.stop_with_error("before the first step: run the command again"):
            lock = held.enter_context(lock_run(run, world, console))
            if world.is_main and resume is False:
                check_new_run(run.path)
            recipe, goes_on = (
                resolve_resume(recipe, run, world) if resume is None else (check_same_recipe(recipe, world), resume)
            )
            configure_process(recipe.train, world)
            task = task_class(recipe)
            state = task.build(recipe, run, world, goes_on, console)
        state.lock, state.interrupts = lock if world.is_main else None, interrupts
        if world.is_main and not goes_on:
            with undo_failed_start(run):
                save_checkpoint("last", state, task)
                task.on_start(state)
        position = state.position
        start_clock(state, time_limit)
        was_stopped = position.stopped is not None
        position.stopped = explain_stop(state) if goes_on else None
        log_from = position if goes_on else None
        with (
            Logbook(run, log_from, world.is_main, task.columns) as logbook,
            Reporter(console, position, state.total_steps, world.is_main) as reporter,
        ):
            loggers = held.enter_context(
                Loggers(recipe.train.log_to if world.is_main else (), run, state.recipe, reporter.print_line)
            )
            reporter.report_start(position, task.describe_run(state))
            if position.stopped is not None and not was_stopped:  # with less patience or time than before
                save_last_checkpoint(state, task, logbook)
            while position.epoch < state.epochs and position.stopped is None:
                reporter.start_epoch()
                try:
                    is_cut_short = train_epoch(state, task, logbook, reporter)
                    finish = finish_cut_epoch if is_cut_short else finish_epoch
                    result = finish(state, task, logbook, reporter)
                except StopRequested:
                    stop_run(state, task, logbook)
                except BadImageError as error:
                    stop_at_bad_image(error, state, task, logbook)
                if world.is_main and result is not None:
                    loggers.log_epoch(result)
                    if on_epoch_end is not None:
                        on_epoch_end(result)
        again = f"resnext {task.verb} --resume {run.path}"
        with interrupts.stop_with_error(f"while writing the results; all steps are done, so write them with: {again}"):
            state.check_lock()
            task.on_finish(state, console)
            loggers.log_outcome(position.best)
        return position


def start_clock(state: TrainState[RecipeT, ModelT, BatchT], time_limit: TimeLimit) -> None:
    """Let the clock of the run go on from the time of earlier sittings."""
    time_limit.used = state.position.seconds
    time_limit.evaluation_batches = state.facts.data["val_images"] / state.loader.batch_size
    state.time_limit = time_limit


@contextmanager
def undo_failed_start(run: RunDirectory) -> Iterator[None]:
    """Delete what was written to the directory of a new run if the context fails, so that the name stays free."""
    before = {path.name for path in run.path.iterdir()}
    try:
        yield
    except BaseException:
        for path in run.path.iterdir():
            if path.name == "checkpoints":  # may exist from an earlier start that was killed
                shutil.rmtree(path)
            elif path.name not in before:
                path.unlink()
        raise


def train_epoch(
    state: TrainState[RecipeT, ModelT, BatchT],
    task: Task[RecipeT, ModelT, BatchT],
    logbook: Logbook,
    reporter: Reporter,
) -> bool:
    """Run the remaining steps of the epoch; return whether it is cut short because ``train.max_time`` is over.

    Raises StopRequested after the step in which a signal came.
    """
    position, world, interrupts, total = state.position, state.world, state.interrupts, state.total_steps
    per_epoch, every = state.loader.steps_per_epoch, state.recipe.train.checkpoint_steps
    first_step = position.step - position.epoch * per_epoch
    batches = islice(state.loader.batches(position.epoch, first_step), total - position.step)
    state.time_limit.start_epoch()
    for batch in reporter.time_batches(interrupts.guard_batches(batches)):
        lr = state.learning_rate_at(position.step)
        loss, stop, time_up = task.step(state, batch, lr)
        state.time_limit.count_step()
        reporter.report_step(position.epoch + 1, len(batch.images) * world.size, loss)
        for message in batch.bad_images:
            reporter.print_line(f"skipped: {message}")
        logbook.log_step(position.step, position.epoch + 1, loss, lr)
        if stop or (world.size == 1 and interrupts.signal_name is not None):
            raise StopRequested
        at_evaluation = position.step == total or (
            position.step % per_epoch == 0 and is_evaluation_due(state, position.step // per_epoch)
        )
        if time_up and not at_evaluation:
            return True
        if every and position.step % every == 0 and position.step % per_epoch and position.step < total:
            save_last_checkpoint(state, task, logbook)
    return False


def stop_run(
    state: TrainState[RecipeT, ModelT, BatchT], task: Task[RecipeT, ModelT, BatchT], logbook: Logbook
) -> NoReturn:
    """Write the last checkpoint, then raise a WorkError that says how to resume."""
    save_last_checkpoint(state, task, logbook)
    position = state.position
    raise WorkError(
        f"stopped by {state.interrupts.signal_name or 'a signal to another process'} after step {position.step} "
        f"(epoch {position.epoch + 1}); continue with: resnext {task.verb} --resume {state.run.path}"
    )


def stop_at_bad_image(
    error: BadImageError, state: TrainState[RecipeT, ModelT, BatchT], task: Task[RecipeT, ModelT, BatchT],
    logbook: Logbook,
) -> NoReturn:  # fmt: skip
    """Write the last checkpoint if this is the only process, then raise a WorkError that says what can be done."""
    if state.world.size == 1:
        save_last_checkpoint(state, task, logbook)
    raise WorkError(
        f"{error}; resnext data check names all such images; "
        f"to go on after mending it: resnext {task.verb} --resume {state.run.path}{task.skip_option}"
    ) from None


def warn_about_clock_skew(world: World, console: Console) -> None:
    """Warn if the clocks of the hosts differ so much that torchrun's rendezvous may fail."""
    skew = world.clock_skew()
    if world.is_main and skew > MAX_CLOCK_SKEW:
        print_line(
            console,
            f"the clocks of this run's hosts differ by {skew:.0f} s; above 15 s torchrun's c10d rendezvous treats a "
            "live host as dead when it joins again: set the clocks (NTP), or use --rdzv-backend static",
        )
