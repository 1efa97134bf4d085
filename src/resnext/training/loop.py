"""The training loop: build the state, run epochs and steps, evaluate, write checkpoints and the report.

All randomness is a function of (seed, epoch, index) or (seed, step), so a run resumes at any step without replay.
"""

import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import NoReturn

from rich.console import Console

from resnext.data.dataset import BadImageError
from resnext.errors import WorkError
from resnext.run_directory import RunDirectory, check_new_run
from resnext.screen import make_screen, print_line
from resnext.training.checkpoint import write_checkpoint
from resnext.training.distributed import MAX_CLOCK_SKEW, World, init_distributed
from resnext.training.interrupts import StopRequested, deferred_interrupts
from resnext.training.lock import lock_run
from resnext.training.logbook import Logbook
from resnext.training.progress import Reporter
from resnext.training.remote_checkpoints import upload_run
from resnext.training.resume import check_same_recipe, resolve_resume
from resnext.training.setup import configure_process
from resnext.training.state import BatchT, EpochSums, ModelT, Position, RecipeT, SavedState, TrainState
from resnext.training.task import Task


@dataclass(frozen=True)
class EpochResult:
    """A finished epoch, as ``on_epoch_end`` gets it: its row is logged, its checkpoints are written."""

    epoch: int  # from 1
    step: int  # optimizer steps done
    metrics: dict[str, float | None]  # the other columns of metrics.csv by name; None where nothing was measured
    is_best: bool  # whether the "best" checkpoint is of this epoch
    run: RunDirectory


def run_training(
    task_class: type[Task[RecipeT, ModelT, BatchT]],
    recipe: RecipeT,
    run: RunDirectory,
    *,
    resume: bool | None = False,
    console: Console | None = None,
    on_epoch_end: Callable[[EpochResult], None] | None = None,
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
        log_from = position if goes_on else None
        with (
            Logbook(run, log_from, world.is_main, task.columns) as logbook,
            Reporter(console, position, state.total_steps, world.is_main) as reporter,
        ):
            reporter.report_start(position, task.describe_run(state))
            while position.epoch < state.epochs:
                reporter.start_epoch()
                try:
                    train_epoch(state, task, logbook, reporter)
                    result = finish_epoch(state, task, logbook, reporter)
                except StopRequested:
                    stop_run(state, task, logbook)
                except BadImageError as error:
                    stop_at_bad_image(error, state, task, logbook)
                if on_epoch_end is not None and world.is_main:
                    on_epoch_end(result)
        again = f"resnext {task.verb} --resume {run.path}"
        with interrupts.stop_with_error(f"while writing the results; all steps are done, so write them with: {again}"):
            state.check_lock()
            task.on_finish(state, console)
        return position


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
) -> None:
    """Run the remaining steps of the epoch. Raises StopRequested after the step in which a signal came."""
    position, world, interrupts, total = state.position, state.world, state.interrupts, state.total_steps
    per_epoch, every = state.loader.steps_per_epoch, state.recipe.train.checkpoint_steps
    first_step = position.step - position.epoch * per_epoch
    batches = islice(state.loader.batches(position.epoch, first_step), total - position.step)
    for batch in reporter.time_batches(interrupts.guard_batches(batches)):
        lr = state.learning_rate_at(position.step)
        loss, stop = task.step(state, batch, lr)
        reporter.report_step(position.epoch + 1, len(batch.images) * world.size, loss)
        for message in batch.bad_images:
            reporter.print_line(f"skipped: {message}")
        logbook.log_step(position.step, position.epoch + 1, loss, lr)
        if stop or (world.size == 1 and interrupts.signal_name is not None):
            raise StopRequested
        if every and position.step % every == 0 and position.step % per_epoch and position.step < total:
            save_last_checkpoint(state, task, logbook)


def finish_epoch(
    state: TrainState[RecipeT, ModelT, BatchT],
    task: Task[RecipeT, ModelT, BatchT],
    logbook: Logbook,
    reporter: Reporter,
) -> EpochResult:
    """Evaluate, log the epoch, write the best and the last checkpoint. Raises StopRequested on a signal."""
    position, train = state.position, state.recipe.train
    speed = {
        "epoch": position.epoch + 1,
        "images_per_second": round(reporter.images_per_second, 2),
        "data_wait_share": round(reporter.wait_share, 4),
        "seconds": round(reporter.epoch_seconds, 2),
        "peak_memory_mb": measure_peak_memory_mb(),
    }
    due = (position.epoch + 1) % train.evaluate_every == 0 or position.epoch + 1 == state.epochs
    with state.interrupts.stop_immediately():
        evaluated = task.evaluate(state) if due else {}
    state.check_lock()
    position.epoch += 1
    metrics: dict[str, float | None] = {
        "lr": state.learning_rate_at(position.step - 1),
        **task.train_metrics(state),
        **dict.fromkeys(task.evaluation_columns),
        **evaluated,
        "bad_images": position.bad_images,
    }
    row = {"epoch": position.epoch, "step": position.step, **metrics}
    state.sums, position.bad_images = EpochSums(), 0
    logbook.log_epoch(row, speed)
    reporter.report_epoch(row, speed, task.summarize_epoch(row))
    is_best = due and task.is_better(row, position.best)
    if is_best:
        position.best = {"epoch": position.epoch, "step": position.step, task.best_metric: row[task.best_metric]}
        save_checkpoint("best", state, task)
    save_last_checkpoint(state, task, logbook)
    return EpochResult(position.epoch, position.step, metrics, is_best, state.run)


def save_last_checkpoint(
    state: TrainState[RecipeT, ModelT, BatchT], task: Task[RecipeT, ModelT, BatchT], logbook: Logbook
) -> None:
    """Flush the log, write the last checkpoint, then upload it if there is a ``train.checkpoint_url``."""
    if state.world.is_main:
        logbook.flush()
        save_checkpoint("last", state, task)
        if state.recipe.train.checkpoint_url is not None:
            upload_run(state.run, state.recipe.train.checkpoint_url)


def save_checkpoint(
    which: str, state: TrainState[RecipeT, ModelT, BatchT], task: Task[RecipeT, ModelT, BatchT]
) -> None:
    """Write the checkpoint ``which`` in rank 0."""
    state.check_lock()
    if state.world.is_main:
        saved = SavedState(state.position, state.sums, state.facts, state.scaler.state_dict())
        write_checkpoint(state.run, which, saved, state.model, state.ema, state.optimizer, task.serialize_model)


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


def measure_peak_memory_mb() -> int:
    """Return the peak resident memory of this process in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1024 if sys.platform != "darwin" else 1024**2)
