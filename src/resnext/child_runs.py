"""Train several runs, each by ``resnext train --continue`` in a process of its own, some side by side."""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

import yaml
from rich.console import Console

from resnext.errors import RequestError, WorkError
from resnext.files import report_write_errors
from resnext.run import Run, open_run
from resnext.run_directory import has_no_run, is_run
from resnext.signals import INTERRUPTS, NOTICES

POLL_SECONDS = 0.2
WATCH_SECONDS = 3.0  # between looks at the runs that train
START_MARK = "$ "  # in a log, before the command whose output follows
STOP_SECONDS = 60.0  # a run that is told to stop saves a checkpoint after its step


class NamedRun(Protocol):
    """A run to train."""

    @property
    def name(self) -> str:
        """The name of its run directory, and of its log."""


RunT = TypeVar("RunT", bound=NamedRun)


@dataclass(frozen=True)
class RunState:
    """How far a run is."""

    epochs: int  # that are done
    total: int  # epochs of the whole run; 0 before its start
    opened: Run | None = None  # None before its start
    is_stopped: bool = False  # whether it ended earlier, by train.patience or train.max_time

    @property
    def is_finished(self) -> bool:
        """Whether all its epochs are done, and the run has written its report."""
        return self.is_stopped or 0 < self.total <= self.epochs


def read_state(path: Path) -> RunState:
    """Read how far the run in a directory is. Raises RequestError if it is damaged or holds something else."""
    opened = open_begun_run(path)
    if opened is None:
        return RunState(0, 0)
    epochs, train = opened.metrics.get("epoch"), opened.recipe.train
    if epochs is None or not len(epochs):
        return RunState(0, train.epochs or 0, opened)
    done, steps_per_epoch = int(epochs[-1]), int(opened.metrics["step"][0])
    total = train.total_epochs(steps_per_epoch)
    if done >= total and opened.evaluation is None:
        done = total - 1  # it was killed while it evaluated
    is_stopped = done < total and opened.evaluation is not None and opened.stopped is not None
    return RunState(done, total, opened, is_stopped)


def open_begun_run(path: Path) -> Run | None:
    """Open the directory of a run; None if it has not begun. Raises RequestError if it is no run."""
    return open_run(path) if is_run(path) and not has_no_run(path) and (path / "recipe.yaml").is_file() else None


def make_train_command(recipe: Path | str, run: Path, settings: Mapping[str, Any]) -> list[str]:
    """Make the ``resnext train`` command that starts or continues a run with these settings."""
    words = [word for key, value in settings.items() for word in (f"--{key}", _format_value(value))]
    return ["resnext", "train", str(recipe), "--continue", str(run), *words]


def _format_value(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")


@dataclass
class _Job(Generic[RunT]):
    """A run that is being trained in a child process."""

    run: RunT
    process: subprocess.Popen[bytes]
    start: float = field(default_factory=time.monotonic)


def train_runs(
    pending: Sequence[RunT],
    folder: Path,
    make_command: Callable[[RunT], Sequence[str]],
    jobs: int,
    reporter: "ProgressReporter[RunT]",
) -> list[RunT]:
    """Train runs, ``jobs`` at a time, in order; return those that failed. A signal stops all, with checkpoints.

    What a run prints is in ``FOLDER/NAME.log``.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; every run has stopped, and the same command goes on.
        WorkError: The folder of runs cannot be written.
    """
    with report_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    waiting, working, failed = list(pending), list[_Job[RunT]](), list[RunT]()
    with signals_as_interrupts():
        try:
            while waiting or working:
                while waiting and len(working) < jobs:
                    with _hold_interrupts():  # or a child that has just started would train on alone
                        working.append(_start(waiting[0], folder, make_command(waiting[0])))
                    reporter.report(waiting.pop(0), "start")
                time.sleep(POLL_SECONDS)
                reporter.watch([job.run for job in working])
                for job in [job for job in working if job.process.poll() is not None]:
                    working.remove(job)
                    is_failed = job.process.returncode != 0
                    failed += [job.run] * is_failed
                    reporter.report(job.run, "failed" if is_failed else "end")
                if failed and reporter.stops_at_failure:
                    break
        finally:
            _stop(working, reporter)
    return [run for run in pending if run in failed]


def _start(run: RunT, folder: Path, command: Sequence[str]) -> _Job[RunT]:
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    log = folder / f"{run.name}.log"
    with report_write_errors(log), open(log, "ab") as out:
        out.write(f"{START_MARK}{shlex.join(command)}\n".encode("utf-8", "surrogateescape"))
        out.flush()
        # a session of its own: a Ctrl-C in the terminal reaches this process only, which then stops each run once
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=variables, start_new_session=True,
        )  # fmt: skip
    return _Job(run, process)


def _stop(working: Sequence[_Job[RunT]], reporter: "ProgressReporter[RunT]") -> None:
    """Stop the runs that still train. They save a checkpoint after their step; another signal kills them at once."""
    with _hold_interrupts():
        for job in working:
            job.process.send_signal(signal.SIGTERM)
        if working:
            reporter.report_stop([job.run for job in working])
    end = time.monotonic() + STOP_SECONDS
    for job in working:
        try:
            job.process.wait(max(0.0, end - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            end = 0.0
            job.process.kill()
            job.process.wait()


@contextmanager
def _hold_interrupts() -> Iterator[None]:
    """Hold the signals that stop back: a KeyboardInterrupt is raised after the last line, not between two."""
    came: list[int] = []
    numbers = list_stop_signals(signal.default_int_handler)
    if threading.current_thread() is not threading.main_thread():  # signals go to the main thread alone
        yield
        return
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, before[number])
    if came:
        raise KeyboardInterrupt


@contextmanager
def signals_as_interrupts() -> Iterator[None]:
    """Let SIGTERM, a closed terminal and notices of schedulers raise KeyboardInterrupt, so that the runs stop too."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread can set handlers
        yield
        return
    numbers = [number for number in list_stop_signals(signal.SIG_DFL) if number != signal.SIGINT]
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def list_stop_signals(handler: object) -> list[signal.Signals]:
    """List Ctrl-C, SIGTERM, and those NOTICES of this system that have ``handler``."""
    notices = [signal.Signals[name] for name in NOTICES if name in signal.Signals.__members__]
    stop = [signal.Signals[name] for name in INTERRUPTS]
    return [*stop, *(number for number in notices if signal.getsignal(number) == handler)]


class ProgressReporter(Generic[RunT]):
    """Prints a line when a run starts or ends, with the time that is left.

    On a terminal, a line shows the epochs of the runs that train.

    Args:
        console: Where to print.
        pending: The runs that are not finished.
        epochs: Epochs of each run.
        find_directory: Returns the directory of a run.
        shorten: Returns a short name of a run, for that line.
        on_end: Called when a run has ended well.
        stops_at_failure: Whether a run that fails stops the others.
    """

    def __init__(
        self,
        console: Console,
        pending: Sequence[RunT],
        epochs: int,
        find_directory: Callable[[RunT], Path],
        *,
        shorten: Callable[[RunT], str] = lambda run: run.name,
        on_end: Callable[[RunT], None] = lambda _: None,
        stops_at_failure: bool = False,
    ) -> None:
        self.console, self.epochs, self.find_directory = console, epochs, find_directory
        self.shorten, self.on_end, self.stops_at_failure = shorten, on_end, stops_at_failure
        self.left = len(pending)
        self.start = self.last_look = time.monotonic()
        self.epochs_before = {run.name: read_state(find_directory(run)).epochs for run in pending}
        self.epochs_done = dict(self.epochs_before)
        self.status = console.status("") if console.is_terminal else None

    def report(self, run: RunT, what: Literal["start", "end", "failed"]) -> None:
        """Report the start, the end or the failure of a run."""
        if what == "start":
            done = self.epochs_done[run.name]
            self.console.print(f"training {run.name}" + (f", from epoch {done + 1} on" if done else ""))
            return
        self.left, self.epochs_done[run.name] = self.left - 1, self.epochs
        self.console.print(f"{'finished' if what == 'end' else 'FAILED'} {run.name}; {self.describe_rest()}")
        if what == "end":
            self.on_end(run)

    def watch(self, working: Sequence[RunT]) -> None:
        """Show on a terminal the epoch of each run that trains, every few seconds."""
        if self.status is None or time.monotonic() < self.last_look + WATCH_SECONDS:
            return
        self.last_look = time.monotonic()
        for run in working:
            self.epochs_done[run.name] = max(
                self.epochs_done[run.name], read_state(self.find_directory(run)).epochs
            )  # fmt: skip
        epochs = {run.name: min(self.epochs_done[run.name] + 1, self.epochs) for run in working}
        runs = ", ".join(f"{self.shorten(run)} {epochs[run.name]}/{self.epochs}" for run in working)
        self.status.start()
        self.status.update(f"{runs}; {self.describe_rest()}")

    def report_stop(self, working: Sequence[RunT]) -> None:
        """Say that the runs save their checkpoints."""
        self.stop()
        names, verb = ", ".join(run.name for run in working), "saves" if len(working) == 1 else "save"
        self.console.print(f"stopping: {names} {verb} a checkpoint after this step ...")

    def stop(self) -> None:
        """End the line on the terminal."""
        if self.status is not None:
            self.status.stop()

    def describe_rest(self) -> str:
        """Describe what is left, with the time that it takes at the speed so far."""
        trained = sum(self.epochs_done.values()) - sum(self.epochs_before.values())
        rest = sum(self.epochs - done for done in self.epochs_done.values())
        if not trained or not rest:
            return f"{self.left} left"
        seconds = (time.monotonic() - self.start) / trained * rest
        return f"{self.left} left, about {f'{seconds / 60:.0f} min' if seconds >= 90 else f'{seconds:.0f} s'}"


def read_last_words(name: str, folder: Path) -> str:
    """Read why a run failed: the last error that it has printed since its last start, or else its last line."""
    try:
        lines = (folder / f"{name}.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return "it printed nothing"
    start = max((number for number, line in enumerate(lines) if line.startswith(START_MARK)), default=-1)
    said = lines[start + 1 :]
    return next((line for line in reversed(said) if line.startswith("resnext: ")), (said or ["it printed nothing"])[-1])


def describe_failures(failed: Sequence[NamedRun], folder: Path) -> WorkError:
    """Make the error that names the runs that failed, and why the first did."""
    words = read_last_words(failed[0].name, folder).removeprefix("resnext: ")
    names = ", ".join(run.name for run in failed)
    return WorkError(f"{len(failed)} of the runs failed ({names}); {failed[0].name}: {words}")


def check_jobs(jobs: int) -> None:
    """Raise RequestError for a number of runs side by side that makes no sense."""
    if not 1 <= jobs <= 256:
        raise RequestError(f"--jobs {jobs} must be from 1 to 256")
