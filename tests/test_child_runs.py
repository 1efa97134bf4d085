"""A signal stops every run that was started, also one that has just begun."""

import io
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from resnext import child_runs
from resnext.child_runs import ProgressReporter, describe_failures, train_runs


@dataclass(frozen=True)
class Sleeper:
    """A run that does nothing for a minute."""

    name: str


@pytest.fixture
def sleepers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "sleep_a_minute.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def train_sleepers(folder: Path) -> str:
    """Train two runs side by side until a signal comes; return what was printed."""
    out, runs = io.StringIO(), [Sleeper("one"), Sleeper("two")]
    reporter = ProgressReporter[Sleeper](Console(file=out, width=200), runs, 1, lambda run: folder / run.name)
    with pytest.raises(KeyboardInterrupt):
        train_runs(runs, folder / "logs", lambda _: ["sleep_a_minute"], 2, reporter)
    return out.getvalue()


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1], ids=lambda number: number.name
)
def test_a_signal_while_a_run_starts_stops_it_too(number: int, sleepers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            started.append(self)
            if len(started) == 2:
                os.kill(os.getpid(), number)

    monkeypatch.setattr(child_runs.subprocess, "Popen", Interrupted)
    try:
        assert "stopping: one, two save a checkpoint" in train_sleepers(sleepers)
        assert [process.returncode for process in started] == [-signal.SIGTERM] * 2
    finally:
        for process in started:
            process.kill()


def test_a_signal_that_is_ignored_stays_ignored(sleepers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    looks: list[object] = []

    def send_signals(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        looks.append(signal.getsignal(signal.SIGHUP))
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ProgressReporter, "watch", send_signals)
    try:
        train_sleepers(sleepers)
        assert looks == [signal.SIG_IGN]
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_reason_of_a_failure_is_the_error_since_the_last_start(tmp_path: Path) -> None:
    log = tmp_path / "one.log"
    log.write_text("$ resnext train\nresnext: an old error\n$ resnext train\nresnext: is in use\nepoch 13  loss 0.59\n")
    assert "one: is in use" in str(describe_failures([Sleeper("one")], tmp_path))
    log.write_text("$ resnext train\nresnext: an old error\n$ resnext train\nSegmentation fault\n")
    assert "one: Segmentation fault" in str(describe_failures([Sleeper("one")], tmp_path))
    log.write_text("$ resnext train\nresnext: an old error\n$ resnext train\n")
    assert "one: it printed nothing" in str(describe_failures([Sleeper("one")], tmp_path))


def test_a_second_signal_at_once_leaves_no_run_behind(sleepers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = child_runs._start

    def start_and_note(*args: Any) -> Any:
        job = start(*args)
        started.append(job.process)
        return job

    def send_signal(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(child_runs, "_start", start_and_note)
    monkeypatch.setattr(ProgressReporter, "watch", send_signal)
    monkeypatch.setattr(ProgressReporter, "report_stop", send_signal)
    try:
        train_sleepers(sleepers)
        assert [process.wait(30) for process in started] == [-signal.SIGTERM] * 2
    finally:
        for process in started:
            process.kill()
