"""Only one process trains in a run directory: flock on one machine, a heartbeat file between hosts."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console

from resnext.errors import RequestError, WorkError
from resnext.run_directory import OWNER_FILE, RunDirectory, check_new_run
from resnext.training import lock
from resnext.training.distributed import World
from resnext.training.lock import RunLock, is_alive, lock_run, read_heartbeat, read_owner, read_start_time

HOLD = """
import sys, time
from pathlib import Path
from resnext.run_directory import RunDirectory
from resnext.training.lock import RunLock
RunLock(RunDirectory(Path(sys.argv[1]))).acquire(print)
print("held", flush=True)
time.sleep(300)
"""


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "runs" / "run")


@pytest.fixture
def holder(run: RunDirectory) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the run."""
    command = [sys.executable, "-c", HOLD, str(run.path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def acquire(run: RunDirectory, say: Callable[[str], None] = print) -> RunLock:
    held = RunLock(run)
    held.acquire(say)
    return held


def acquire_and_release(run: RunDirectory, say: Callable[[str], None] = print) -> None:
    acquire(run, say).release()


def test_a_second_process_is_refused_and_told_who_has_the_run(run: RunDirectory, holder: subprocess.Popen[str]) -> None:
    owner = (run.path / OWNER_FILE).read_bytes()
    with pytest.raises(RequestError, match=rf"process {holder.pid} on .*, since .*, is training in {run.path}: wait"):
        acquire_and_release(run)
    assert (run.path / OWNER_FILE).read_bytes() == owner


def test_a_killed_process_frees_the_run_at_once(run: RunDirectory, holder: subprocess.Popen[str]) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (run.path / OWNER_FILE).exists(), "nobody could tidy up"
    said: list[str] = []
    acquire_and_release(run, said.append)
    assert said == [], "there was nothing to wait for"


def test_a_child_that_outlives_its_killed_parent_holds_nothing(run: RunDirectory) -> None:
    """A loader worker is forked from the training process and inherits its open files."""
    forks = HOLD.replace('print("held"', 'import os\nif os.fork(): time.sleep(300)\nprint("held"')  # the child says it
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", forks, str(run.path)], stdout=subprocess.PIPE, start_new_session=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"held\n"
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        try:
            acquire_and_release(run)
        finally:
            os.killpg(parent.pid, signal.SIGKILL)  # the child


def test_without_locks_of_the_kernel_the_process_is_looked_for(
    run: RunDirectory, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(9, "Bad file descriptor")  # NFS, of a directory

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with pytest.raises(RequestError, match=f"process {holder.pid} on"):
        acquire_and_release(run)
    os.kill(holder.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60  # a zombie, which nobody has waited for yet, is no process that trains
    while read_start_time(holder.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    said: list[str] = []
    acquire_and_release(run, said.append)
    assert said == []


def test_another_process_with_the_same_number_is_not_the_owner() -> None:
    assert is_alive({"pid": os.getpid(), "started": read_start_time(os.getpid())})
    assert not is_alive({"pid": os.getpid(), "started": "1"})
    assert not is_alive({"pid": "1", "started": ""})


@pytest.fixture
def elsewhere(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the owner file of a process on another host; the heartbeat timeout is half a second."""
    monkeypatch.setattr(lock, "HEARTBEAT_TIMEOUT", 0.5)
    run.path.mkdir(parents=True)
    owner = {"token": "x", "host": "node7", "pid": 12, "machine": "another", "processes": "p", "since": "yesterday"}
    (run.path / OWNER_FILE).write_text(json.dumps(owner))
    return run.path / OWNER_FILE


def test_a_host_whose_heartbeat_has_stopped_is_followed_after_a_while(run: RunDirectory, elsewhere: Path) -> None:
    os.utime(elsewhere, (2e9, 2e9))  # a clock that is years ahead: it is not looked at
    said: list[str] = []
    held = acquire(run, said.append)
    assert said == [
        f"waiting up to 0.5 s to see whether process 12 on node7, since yesterday, is still training in {run.path}"
    ]
    assert read_owner(elsewhere) == held.owner
    held.release()
    assert not elsewhere.exists()


def test_a_host_whose_heartbeat_goes_on_keeps_the_run(
    run: RunDirectory, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock.time, "sleep", lambda _: os.utime(elsewhere, ns=(0, next(beats))))
    beats = iter(range(1, 1000))
    with pytest.raises(RequestError, match="process 12 on node7, since yesterday, is training in"):
        acquire_and_release(run)
    assert read_owner(elsewhere)["host"] == "node7"  # type: ignore[index]


def test_a_host_that_gives_the_run_back_meanwhile_is_followed_at_once(
    run: RunDirectory, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_TIMEOUT", 600.0)
    monkeypatch.setattr(lock.time, "sleep", lambda _: elsewhere.unlink())
    acquire_and_release(run)


def test_the_heartbeat_goes_on_whatever_the_process_does(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_INTERVAL", 0.01)
    held = acquire(run)
    first, deadline = read_heartbeat(held.path), time.monotonic() + 60
    while read_heartbeat(held.path) == first:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    held.check_owner()
    held.release()


def test_a_process_that_was_taken_for_dead_writes_nothing_more(run: RunDirectory) -> None:
    held = acquire(run)
    other = held.owner | {"token": "y", "host": "node8"}
    held.path.write_text(json.dumps(other))
    with pytest.raises(WorkError, match=r"on node8, .* has taken over .*run, as this process sent no heartbeats"):
        held.check_owner()
    held.release()
    assert read_owner(held.path) == other, "what is another's stays"


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "\xff", "null", '{"pid": 1e400}', '{"token": null, "host": "\\u001b[31m"}']
)
def test_an_owner_that_says_nothing_true_holds_nobody_up_for_long(
    text: str, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_TIMEOUT", 0.0)
    run.path.mkdir(parents=True)
    (run.path / OWNER_FILE).write_text(text, encoding="latin-1")
    acquire_and_release(run)


def test_folders_made_for_nothing_go_and_others_stay(run: RunDirectory, tmp_path: Path) -> None:
    acquire_and_release(run)
    assert list(tmp_path.iterdir()) == []
    run.path.mkdir(parents=True)
    acquire_and_release(run)
    assert run.path.is_dir()
    held = acquire(RunDirectory(run.path / "inner"))
    assert check_new_run(run.path / "inner")
    (run.path / "inner" / "log.jsonl").write_text("")
    held.release()
    assert [path.name for path in (run.path / "inner").iterdir()] == ["log.jsonl"]


class Follower(World):
    """Rank 1, which receives the error that rank 0 met."""

    def broadcast_bytes(self, data: bytes) -> bytes:
        assert data == b""
        return b"process 12 on node7 is training in run"


def test_all_processes_of_a_run_are_refused_together(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(RunLock, "acquire")  # only the leading process takes the run
    world = Follower(torch.device("cpu"), rank=1, size=2)
    with pytest.raises(RequestError, match="node7 is training in"), lock_run(run, world, Console(quiet=True)):
        raise AssertionError("unreachable")
    assert not run.path.exists()
