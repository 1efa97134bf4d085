"""Workers end with the epoch that started them, whatever ends it."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from resnext.errors import WorkError
from tests.data.test_loader import DieAt, FailAt, _no_process_is_left, loader, toy  # noqa: F401 - an autouse fixture

posix = pytest.mark.skipif(not hasattr(os, "killpg"), reason="process groups are POSIX")


@pytest.mark.parametrize("end", ["close", "drop", "raise"])
def test_an_abandoned_epoch_ends_its_workers(end: str) -> None:
    batches = loader(toy(240), workers=2).batches(0)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    if end == "close":
        batches.close()  # type: ignore[attr-defined]
    elif end == "raise":
        with pytest.raises(KeyboardInterrupt):
            batches.throw(KeyboardInterrupt)  # type: ignore[attr-defined]
    else:
        del batches
        gc.collect()
    assert multiprocessing.active_children() == []


def test_a_killed_worker_is_one_clear_sentence() -> None:
    with pytest.raises(WorkError, match=r"a loading process died.*data\.workers"):
        list(loader(transform=DieAt(7), workers=2).batches(0))


@pytest.mark.parametrize("killed", [True, False])
def test_a_batch_lost_with_its_worker_is_the_same_sentence(killed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch is a file descriptor that the worker hands over: the connection may break before the death is known."""

    def lose_batch(self: Any) -> None:
        if killed:
            self._workers[0].kill()
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr("torch.utils.data.dataloader._MultiProcessingDataLoaderIter._next_data", lose_batch)
    expected = (WorkError, r"a loading process died.*data\.workers") if killed else (ConnectionResetError, "reset")
    with pytest.raises(expected[0], match=expected[1]):
        next(loader(workers=2).batches(0))


def test_the_death_of_a_worker_is_an_error_of_the_next_batch_and_of_no_other_line() -> None:
    batches = loader(toy(2400), workers=2).batches(0)
    next(batches)
    for process in multiprocessing.active_children():
        process.kill()
    for _ in range(20):
        time.sleep(0.01)
    with pytest.raises(WorkError, match="a loading process died"):
        list(batches)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mistake_in_a_transform_keeps_its_own_type(workers: int) -> None:
    with pytest.raises(IndexError, match="a mistake of the programmer"):
        list(loader(transform=FailAt(7), workers=workers).batches(0))


SCRIPT = """
import signal, sys, time
sys.path.insert(0, {here!r})
import test_loader as t

def main():
    stop = []
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell begins without one
    if sys.argv[1] == "SIGTERM":
        signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    train = t.loader(t.toy(24000), workers=2)
    if sys.argv[1] == "OPEN":
        global left  # nobody closes it
        left = train.batches(0)
        next(left)
        print("left open", flush=True)
        return
    try:
        for step, batch in enumerate(train.batches(0)):
            assert len(batch.labels) == 6
            print(step, flush=True)
            time.sleep(0.01)
            if stop:
                break
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    else:
        print("stopped at", step, "and next is", len(next(train.batches(0, step + 1)).labels), flush=True)

if __name__ == "__main__":
    main()
"""


def start(arguments: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@contextmanager
def group_that_ends(process: "subprocess.Popen[str]") -> Iterator[None]:
    """Nothing of the process's group is alive afterwards, or the test fails."""
    try:
        yield
        deadline = time.monotonic() + 30
        while _group_lives(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _group_lives(process.pid), "a worker outlived its run"
    finally:
        if _group_lives(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for_step(process: "subprocess.Popen[str]", step: int) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == str(step):
            return
    pytest.fail("the run ended early")


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "run.py"
    path.write_text(textwrap.dedent(SCRIPT.format(here=str(Path(__file__).parent))))
    return str(path)


@posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_to_the_whole_group_is_the_main_process_s_to_answer(name: str, script: str) -> None:
    process = start([script, name])
    with group_that_ends(process):
        wait_for_step(process, 5)
        os.killpg(process.pid, getattr(signal, name))
        out, errors = process.communicate(timeout=60)
        assert errors == ""
        assert process.returncode == 0
        last = out.strip().splitlines()[-1]
        assert last == "interrupted" if name == "SIGINT" else last.endswith("and next is 6")


@posix
def test_a_program_that_ends_with_an_open_epoch_does_not_hang(script: str) -> None:
    process = start([script, "OPEN"])
    with group_that_ends(process):
        out, errors = process.communicate(timeout=60)
        assert (out, errors, process.returncode) == ("left open\n", "", 0)


@posix
@pytest.mark.slow
def test_workers_of_a_killed_run_end_by_themselves(script: str) -> None:
    process = start([script, "SIGKILL"])
    with group_that_ends(process):
        wait_for_step(process, 5)
        process.kill()
        process.wait()


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
