"""Training, top to bottom: prepare, go through epochs and steps, evaluate, keep checkpoints, report.

All randomness is a function of (seed, epoch, index) or (seed, step), so a run goes on from any step without replay.
"""

import resource
import sys
from itertools import islice
from typing import Any

from rich.console import Console

from resnext.errors import WorkError
from resnext.run_directory import RunDirectory
from resnext.screen import screen
from resnext.train.checkpoint import Position, write_checkpoint
from resnext.train.distributed import SKEW, World, joined
from resnext.train.interrupts import heeded
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
    call again goes on. Returns where the run ended. Raises RequestError for settings that cannot work with the data,
    WorkError when the work fails on the way (a loss that is not finite, a bad image, a full disk, a lost process, a
    signal): the last good checkpoint is then intact.
    """
    console = console or screen()
    with joined(recipe.train.device, recipe.train.peer_timeout) as world, heeded() as interrupts:
        warn_of_skew(world, console)
        recipe, goes_on = settled(recipe, run, world) if resume is None else (agreed(recipe, world), resume)
        session = task.prepare(recipe, run, world, goes_on, console)
        recipe, position, loader = session.recipe, session.position, session.loader
        total, per_epoch = session.total_steps, loader.steps_per_epoch
        if world.leads and not goes_on:
            save("last", session, task)
            task.begin(session)
        log_from = position if goes_on else None
        with Logbook(run, log_from, world.leads, task.columns) as logbook, Reporter(console, session) as reporter:
            reporter.begin(session, task.about(session))
            while position.epoch < session.epochs:
                reporter.begin_epoch()
                first_step = position.step - position.epoch * per_epoch
                batches = islice(loader.batches(position.epoch, first_step), total - position.step)
                for batch in reporter.watch(batches):
                    lr = rate_of(session, position.step)
                    loss = task.step(session, batch, lr)
                    reporter.step(position.epoch + 1, len(batch.images) * world.size, loss)
                    reporter.skipped(batch.bad)
                    logbook.step(position.step, position.epoch + 1, loss, lr)
                    if world.any(interrupts.requested is not None):
                        stop(session, task, logbook, interrupts.requested)
                    every = recipe.train.checkpoint_steps
                    if every and position.step % every == 0 and position.step % per_epoch and position.step < total:
                        save_last(session, task, logbook)
                finish_epoch(session, task, logbook, reporter)
        task.finish(session, console)
        return position


def finish_epoch(session: BaseSession, task: Task, logbook: Logbook, reporter: Reporter) -> None:
    """Evaluate, note the epoch, keep the best and the last checkpoint."""
    position, train = session.position, session.recipe.train
    speed = {
        "epoch": position.epoch + 1,
        "images_per_second": round(reporter.rate, 2),
        "data_wait_share": round(reporter.wait_share, 4),
        "seconds": round(reporter.seconds, 2),
        "peak_memory_mb": peak_memory_mb(),
    }
    due = (position.epoch + 1) % train.evaluate_every == 0 or position.epoch + 1 == session.epochs
    judged = task.judge(session) if due else {}
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
    if session.world.leads:
        write_checkpoint(
            session.run, which, session.position, session.model, session.ema, session.optimizer, task.encode
        )


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
