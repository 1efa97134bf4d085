"""Stop signals are recorded; the loop decides when to stop."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from resnext.errors import WorkError
from resnext.training.interrupts import StopRequested, deferred_interrupts

ASKING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")


@pytest.fixture(autouse=True)
def handlers_kept() -> Iterator[None]:
    """Check that signal handlers are restored. Under nohup some are ignored, so they are set before."""
    outside = {name: signal.signal(getattr(signal, name), usual_handler(name)) for name in ASKING}
    yield
    after = {name: signal.getsignal(getattr(signal, name)) for name in ASKING}
    for name, handler in outside.items():
        signal.signal(getattr(signal, name), handler)
    assert after == {name: usual_handler(name) for name in ASKING}


def usual_handler(name: str) -> Any:
    return signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL


def send(name: str) -> None:
    os.kill(os.getpid(), getattr(signal, name))


@pytest.mark.parametrize("name", ASKING)
def test_each_signal_asks_for_a_stop(name: str) -> None:
    with deferred_interrupts() as interrupts:
        assert interrupts.signal_name is None
        send(name)
        assert interrupts.signal_name == name


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"])
def test_what_nohup_ignores_stays_ignored_and_anothers_handler_stays(name: str) -> None:
    seen: list[int] = []
    before = signal.signal(getattr(signal, name), signal.SIG_IGN)
    try:
        with deferred_interrupts() as interrupts:
            send(name)
            assert interrupts.signal_name is None
        signal.signal(getattr(signal, name), lambda number, _: seen.append(number))
        with deferred_interrupts() as interrupts:
            send(name)
            assert interrupts.signal_name is None
        assert seen == [getattr(signal, name)]
    finally:
        signal.signal(getattr(signal, name), before)


def test_a_terminal_that_hangs_up_may_be_followed_by_sigterm_and_a_second_ctrl_c_leaves() -> None:
    """A supervisor sends SIGTERM to what has had SIGHUP or SIGINT already: the checkpoint is still to be written."""
    with deferred_interrupts() as interrupts:
        for name in ("SIGHUP", "SIGTERM", "SIGTERM"):
            send(name)
        assert interrupts.signal_name == "SIGHUP"
        with pytest.raises(KeyboardInterrupt):
            send("SIGINT")


def test_work_that_can_be_repeated_ends_at_once_where_one_process_runs_alone() -> None:
    said = pytest.raises(WorkError, match="stopped by SIGTERM before the first step")
    with deferred_interrupts() as interrupts, said, interrupts.stop_with_error("before the first step"):
        send("SIGTERM")
        raise AssertionError("unreachable")
    with deferred_interrupts() as interrupts:
        send("SIGTERM")  # just before
        with pytest.raises(StopRequested), interrupts.stop_immediately():
            raise AssertionError("unreachable")
    with deferred_interrupts(single_process=False) as interrupts, interrupts.stop_immediately():
        send("SIGTERM")  # the other processes would wait for this one
    assert interrupts.signal_name == "SIGTERM"


def test_waiting_for_a_batch_ends_at_once_and_a_step_does_not() -> None:
    def batches() -> Iterator[int]:
        yield 1
        send("SIGTERM")
        raise AssertionError("unreachable")

    with deferred_interrupts() as interrupts:
        watched = interrupts.guard_batches(batches())
        assert next(watched) == 1
        with pytest.raises(StopRequested):
            next(watched)
    with deferred_interrupts() as interrupts:
        send("SIGTERM")
        assert list(interrupts.guard_batches([1, 2])) == [1, 2], "the loop looks at it after each step"
