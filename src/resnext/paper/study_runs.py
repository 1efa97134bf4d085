"""Train the runs of the study, several side by side, each by ``resnext train --continue`` in a process of its own."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import yaml

from resnext.errors import RequestError, WorkError
from resnext.files import report_write_errors
from resnext.paper.study import StudyRun
from resnext.run import Run, open_run
from resnext.run_directory import has_no_run, is_run

POLL_SECONDS = 0.5
STOP_SECONDS = 60.0  # a run that is told to stop saves a checkpoint after its step


@dataclass(frozen=True)
class RunState:
    """How far a run of the study is."""

    run: StudyRun
    epochs: int  # that are done
    total: int  # epochs of the whole run; 0 before its start
    opened: Run | None = None  # its directory; None before its start
    is_stopped: bool = False  # whether it ended earlier, by train.patience or train.max_time

    @property
    def is_finished(self) -> bool:
        """Whether all its epochs are done, and the run has written its report."""
        return self.is_stopped or 0 < self.total <= self.epochs


def make_command(run: StudyRun, runs: Path, given: Mapping[str, Any]) -> list[str]:
    """Make the ``resnext train`` command that starts or continues a run."""
    settings = run.make_overrides(given)
    words = [word for key, value in settings.items() for word in (f"--{key}", _format_value(value))]
    return ["resnext", "train", run.recipe, "--continue", str(runs / run.name), *words]


def format_command(run: StudyRun, runs: Path, given: Mapping[str, Any]) -> str:
    """Format that command as one types it."""
    return shlex.join(make_command(run, runs, given))


def _format_value(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")


def read_state(run: StudyRun, runs: Path) -> RunState:
    """Read how far a run is. Raises RequestError if its directory is damaged or holds something else."""
    opened = open_study_run(run, runs)
    if opened is None:
        return RunState(run, 0, 0)
    done = int(opened.metrics["epoch"][-1]) if len(opened.metrics.get("epoch", ())) else 0
    total = opened.recipe.train.epochs or 0
    if done >= total and opened.evaluation is None:
        done = total - 1  # it was killed while it evaluated
    is_stopped = opened.stopped is not None and opened.evaluation is not None
    return RunState(run, done, total, opened, is_stopped)


def open_finished(run: StudyRun, runs: Path) -> Run | None:
    """Open the directory of a run if all its epochs are done, else return None. Raises as ``read_state``."""
    state = read_state(run, runs)
    return state.opened if state.is_finished else None


def open_study_run(run: StudyRun, runs: Path) -> Run | None:
    """Open the directory of a run; None if it has not begun. Raises RequestError if it is no run."""
    path = runs / run.name
    return open_run(path) if is_run(path) and not has_no_run(path) and (path / "recipe.yaml").is_file() else None


@dataclass
class _Job:
    """A run that is being trained in a child process."""

    run: StudyRun
    process: subprocess.Popen[bytes]
    log: Path
    start: float = field(default_factory=time.monotonic)


class StudyReporter(Protocol):
    """What is told of the runs while they train."""

    def report(self, run: StudyRun, what: Literal["start", "end", "failed"]) -> None:
        """Report the start, the end or the failure of a run."""

    def watch(self, working: Sequence[StudyRun]) -> None:
        """Show how far the runs are that train; called every POLL_SECONDS."""


def train_runs(
    pending: Sequence[StudyRun], runs: Path, given: Mapping[str, Any], jobs: int, reporter: StudyReporter
) -> list[StudyRun]:
    """Train runs, ``jobs`` at a time, in order; return those that failed. A signal stops all, with checkpoints.

    What a run prints is in ``RUNS/NAME.log``.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; every run has stopped, and the same command goes on.
        WorkError: The folder of runs cannot be written.
    """
    with report_write_errors(runs):
        runs.mkdir(parents=True, exist_ok=True)
    waiting, working, failed = list(pending), list[_Job](), list[StudyRun]()
    with _sigterm_as_interrupt():
        try:
            while waiting or working:
                while waiting and len(working) < jobs:
                    working.append(_start(waiting.pop(0), runs, given))
                    reporter.report(working[-1].run, "start")
                time.sleep(POLL_SECONDS)
                reporter.watch([job.run for job in working])
                for job in [job for job in working if job.process.poll() is not None]:
                    working.remove(job)
                    is_failed = job.process.returncode != 0
                    failed += [job.run] * is_failed
                    reporter.report(job.run, "failed" if is_failed else "end")
        finally:
            _stop(working)
    return failed


def _start(run: StudyRun, runs: Path, given: Mapping[str, Any]) -> _Job:
    command = [sys.executable, "-m", *make_command(run, runs, given)]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    log = runs / f"{run.name}.log"
    with report_write_errors(log), open(log, "ab") as out:
        # a session of its own: a Ctrl-C in the terminal reaches this process only, which then stops each run once
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=variables, start_new_session=True
        )
    return _Job(run, process, log)


def _stop(working: Sequence[_Job]) -> None:
    """Stop the runs that still train. They save a checkpoint after their step."""
    for job in working:
        job.process.send_signal(signal.SIGTERM)
    end = time.monotonic() + STOP_SECONDS
    for job in working:
        try:
            job.process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            job.process.kill()
            job.process.wait()


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt, so that the runs are stopped too."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def read_last_words(run: StudyRun, runs: Path) -> str:
    """Read the last line that a run has printed."""
    try:
        lines = (runs / f"{run.name}.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return "it printed nothing"
    return lines[-1] if lines else "it printed nothing"


def describe_failures(failed: Sequence[StudyRun], runs: Path) -> WorkError:
    """Make the error that names the runs that failed, and why the first did."""
    words = read_last_words(failed[0], runs).removeprefix("resnext: ")
    names = ", ".join(run.name for run in failed)
    return WorkError(f"{len(failed)} of the runs failed ({names}); {failed[0].name}: {words}")


def check_jobs(jobs: int) -> None:
    """Raise RequestError for a number of runs side by side that makes no sense."""
    if not 1 <= jobs <= 256:
        raise RequestError(f"--jobs {jobs} must be from 1 to 256")
