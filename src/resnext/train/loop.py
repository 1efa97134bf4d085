"""The training loop: build the session, run epochs and steps, evaluate, write checkpoints and the report.

All randomness is a function of (seed, epoch, index) or (seed, step), so a run resumes at any step without replay.
"""

import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any

from rich.console import Console

from resnext.errors import WorkError
from resnext.run_directory import RunDirectory, check_new_run
from resnext.screen import screen
from resnext.train.checkpoint import Position, write_checkpoint
from resnext.train.distributed import SKEW, World, joined
from resnext.train.interrupts import Interrupts, Stopped, heeded
from resnext.train.lock import lock_run
from resnext.train.logbook import Logbook
from resnext.train.mirror import push
from resnext.train.progress import Reporter
from resnext.train.resume import agreed, settled
from resnext.train.schedule import learning_rate
from resnext.train.session import BaseSession
from resnext.train.task import CLASSIFICATION, Task


def train(
    recipe: Any,
    run: RunDirectory,
    *,
    resume: bool | None = False,
    console: Console | None = None,
    task: Task = CLASSIFICATION,
) -> Position:
    """Train by a recipe into a run directory and return the final position.

    Args:
        recipe: Settings of the run, of the kind that ``task`` trains.
        run: Directory to write to. A new run needs an empty or missing one.
        resume: True resumes from the last checkpoint, False starts a new run. None resumes if the run exists, on this
            disk or in ``train.mirror``, and starts it otherwise, so that the same call can be repeated.
        console: Where progress is printed; standard output by default.
        task: What is trained: classification or detection.

    Raises:
        RequestError: The settings do not fit the data, or another process is training in ``run``.
        WorkError: Training failed (loss not finite, bad image, full disk, lost process) or was stopped by a signal.
            The last checkpoint is intact.
    """
    console = console or screen()
    with ExitStack() as held:
        world = held.enter_context(joined(recipe.train.device, recipe.train.peer_timeout))
        interrupts = held.enter_context(heeded(alone=world.size == 1))
        warn_of_skew(world, console)
        with interrupts.end_with("before the first step: run the command again"):
            lock = held.enter_context(lock_run(run, world, console))
            if world.leads and resume is False:
                check_new_run(run.path)
            recipe, goes_on = settled(recipe, run, world) if resume is None else (agreed(recipe, world), resume)
            session = task.prepare(recipe, run, world, goes_on, console)
        session.lock = lock if world.leads else None
        if world.leads and not goes_on:
            with undo_failed_start(run):
                save("last", session, task)
                task.begin(session)
        position = session.position
        log_from = position if goes_on else None
        with Logbook(run, log_from, world.leads, task.columns) as logbook, Reporter(console, session) as reporter:
            reporter.begin(session, task.about(session))
            while position.epoch < session.epochs:
                reporter.begin_epoch()
                try:
                    train_epoch(session, task, logbook, reporter, interrupts)
                    finish_epoch(session, task, logbook, reporter, interrupts)
                except Stopped:
                    stop(session, task, logbook, interrupts.requested)
        again = f"resnext {task.verb} --resume {run.path}"
        with interrupts.end_with(f"while writing the results; all steps are done, so write them with: {again}"):
            confirm_lock(session)
            task.finish(session, console)
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


def train_epoch(session: BaseSession, task: Task, logbook: Logbook, reporter: Reporter, interrupts: Interrupts) -> None:
    """Run the remaining steps of the epoch. Raises StopRequested after the step in which a signal came."""
    position, world, total = session.position, session.world, session.total_steps
    per_epoch, every = session.loader.steps_per_epoch, session.recipe.train.checkpoint_steps
    first_step = position.step - position.epoch * per_epoch
    batches = islice(session.loader.batches(position.epoch, first_step), total - position.step)
    for batch in reporter.watch(interrupts.watch(batches)):
        lr = rate_of(session, position.step)
        loss = task.step(session, batch, lr)
        reporter.step(position.epoch + 1, len(batch.images) * world.size, loss)
        reporter.skipped(batch.bad)
        logbook.step(position.step, position.epoch + 1, loss, lr)
        if world.any(interrupts.requested is not None):
            raise Stopped
        if every and position.step % every == 0 and position.step % per_epoch and position.step < total:
            save_last(session, task, logbook)


def finish_epoch(
    session: BaseSession, task: Task, logbook: Logbook, reporter: Reporter, interrupts: Interrupts
) -> None:
    """Evaluate, log the epoch, write the best and the last checkpoint. Raises StopRequested on a signal."""
    position, train = session.position, session.recipe.train
    speed = {
        "epoch": position.epoch + 1,
        "images_per_second": round(reporter.rate, 2),
        "data_wait_share": round(reporter.wait_share, 4),
        "seconds": round(reporter.seconds, 2),
        "peak_memory_mb": peak_memory_mb(),
    }
    due = (position.epoch + 1) % train.evaluate_every == 0 or position.epoch + 1 == session.epochs
    with interrupts.end_at_once():
        judged = task.judge(session) if due else {}
    confirm_lock(session)
    position.epoch += 1
    row: dict[str, Any] = {
        "epoch": position.epoch,
        "step": position.step,
        "lr": rate_of(session, position.step - 1),
        **task.trained(session),
        **dict.fromkeys(task.judged),
        **judged,
        "bad_images": position.bad_images,
    }
    position.loss_sum, position.wrong, position.images, position.loss_parts = 0.0, 0, 0, {}
    logbook.epoch(row, speed)
    reporter.epoch(row, speed, task.line(row))
    if due and task.better(row, position.best):
        position.best = {"epoch": position.epoch, "step": position.step, task.goal: row[task.goal]}
        save("best", session, task)
    save_last(session, task, logbook)


def rate_of(session: BaseSession, step: int) -> float:
    """Return the learning rate of optimizer step ``step`` (from 0)."""
    recipe, per_epoch = session.recipe, session.loader.steps_per_epoch
    return learning_rate(recipe.schedule, recipe.optimizer.lr, session.total_steps, per_epoch, step)


def save_last(session: BaseSession, task: Task, logbook: Logbook) -> None:
    """Flush the log, write the last checkpoint, then upload it if there is a ``train.mirror``."""
    if session.world.leads:
        logbook.flush()
        save("last", session, task)
        if session.recipe.train.mirror is not None:
            push(session.run, session.recipe.train.mirror)


def save(which: str, session: BaseSession, task: Task) -> None:
    """Write the checkpoint ``which`` in rank 0."""
    confirm_lock(session)
    if session.world.leads:
        write_checkpoint(
            session.run, which, session.position, session.model, session.ema, session.optimizer, task.encode
        )


def confirm_lock(session: BaseSession) -> None:
    """Raise WorkError if another process has taken over the run directory."""
    if session.lock is not None:
        session.lock.confirm()


def stop(session: BaseSession, task: Task, logbook: Logbook, signal_name: str | None) -> None:
    """Write the last checkpoint, then raise a WorkError that says how to resume."""
    save_last(session, task, logbook)
    position = session.position
    raise WorkError(
        f"stopped by {signal_name or 'a signal to another process'} after step {position.step} "
        f"(epoch {position.epoch + 1}); continue with: resnext {task.verb} --resume {session.run.path}"
    )


def warn_of_skew(world: World, console: Console) -> None:
    """Warn if the clocks of the hosts differ so much that torchrun's rendezvous may fail."""
    skew = world.skew()
    if world.leads and skew > SKEW:
        console.print(
            f"the clocks of this run's hosts differ by {skew:.0f} s; above 15 s torchrun's c10d rendezvous treats a "
            "live host as dead when it joins again: set the clocks (NTP), or use --rdzv-backend static",
            highlight=False,
            soft_wrap=True,
        )


def peak_memory_mb() -> int:
    """Return the peak resident memory of this process in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1024 if sys.platform != "darwin" else 1024**2)
