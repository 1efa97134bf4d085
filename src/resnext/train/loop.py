"""Training, top to bottom: prepare, go through epochs and steps, evaluate, keep checkpoints, report.

All randomness is a function of (seed, epoch, index) or (seed, step), so a run goes on from any step without replay.
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
    """Train as ``recipe`` says into ``run``; with ``resume``, go on from its last checkpoint.

    With ``resume`` None, go on where there is such a run, on this disk or in ``train.mirror``, else begin it: the same
    call again goes on. Returns where the run ended. Raises RequestError for settings that cannot work with the data and
    for a run that another process trains, WorkError when the work fails on the way (a loss that is not finite, a bad
    image, a full disk, a lost process, a signal): the last good checkpoint is then intact.
    """
    console = console or screen()
    with ExitStack() as held:
        world = held.enter_context(joined(recipe.train.device, recipe.train.peer_timeout))
        interrupts = held.enter_context(heeded(alone=world.size == 1))
        warn_of_skew(world, console)
        with interrupts.end_with("before the first step: give the command again"):
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
        with interrupts.end_with(f"while the results were written; all steps are done: {again} writes them"):
            confirm_lock(session)
            task.finish(session, console)
        return position


@contextmanager
def undo_failed_start(run: RunDirectory) -> Iterator[None]:
    """Within, what is written into the directory of a new run goes again where anything fails: its name stays free."""
    before = {path.name for path in run.path.iterdir()}
    try:
        yield
    except BaseException:
        for path in run.path.iterdir():
            if path.name == "checkpoints":  # perhaps of an earlier start, which was killed
                shutil.rmtree(path)
            elif path.name not in before:
                path.unlink()
        raise


def train_epoch(session: BaseSession, task: Task, logbook: Logbook, reporter: Reporter, interrupts: Interrupts) -> None:
    """The steps that are left of the epoch. Raises Stopped after the one during which a signal came."""
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
    """Evaluate, note the epoch, keep the best and the last checkpoint. Raises Stopped where a signal asks for it."""
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
    """The learning rate of optimizer step ``step`` (from 0)."""
    recipe, per_epoch = session.recipe, session.loader.steps_per_epoch
    return learning_rate(recipe.schedule, recipe.optimizer.lr, session.total_steps, per_epoch, step)


def save_last(session: BaseSession, task: Task, logbook: Logbook) -> None:
    """Write the last checkpoint; what the log says up to here is on the disk before it. The mirror follows."""
    if session.world.leads:
        logbook.flush()
        save("last", session, task)
        if session.recipe.train.mirror is not None:
            push(session.run, session.recipe.train.mirror)


def save(which: str, session: BaseSession, task: Task) -> None:
    """Write a checkpoint, where this process leads."""
    confirm_lock(session)
    if session.world.leads:
        write_checkpoint(
            session.run, which, session.position, session.model, session.ema, session.optimizer, task.encode
        )


def confirm_lock(session: BaseSession) -> None:
    """Raises WorkError where another process has taken the run directory."""
    if session.lock is not None:
        session.lock.confirm()


def stop(session: BaseSession, task: Task, logbook: Logbook, signal_name: str | None) -> None:
    """Save and leave, saying how to go on."""
    save_last(session, task, logbook)
    position = session.position
    raise WorkError(
        f"stopped by {signal_name or 'a signal to another process'} after step {position.step} "
        f"(epoch {position.epoch + 1}); go on with: resnext {task.verb} --resume {session.run.path}"
    )


def warn_of_skew(world: World, console: Console) -> None:
    """Say that the hosts' clocks differ, before it costs a run: torchrun's rendezvous compares them."""
    skew = world.skew()
    if world.leads and skew > SKEW:
        console.print(
            f"the clocks of this run's hosts differ by {skew:.0f} s; above 15 s torchrun's c10d rendezvous takes a "
            "living host for dead when it joins again: set the clocks (NTP), or use --rdzv-backend static",
            highlight=False,
            soft_wrap=True,
        )


def peak_memory_mb() -> int:
    """The largest memory this process has held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1024 if sys.platform != "darwin" else 1024**2)
