"""Stop a run on a signal: the loop saves a checkpoint after the current step; repeatable work stops immediately.

SIGINT and SIGTERM always stop. SIGHUP (the terminal is gone) and the signals that schedulers send before a time limit
stop only if their handler is the default one: what ``nohup`` ignores stays ignored, other handlers stay installed.
"""

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from resnext.errors import WorkError
from resnext.signals import INTERRUPTS, NOTICES

T = TypeVar("T")


class StopRequested(KeyboardInterrupt):
    """A signal asked to stop."""


class Interrupts:
    """Record stop signals; ``signal_name`` is the name of the first one, or None."""

    def __init__(self, single_process: bool = True) -> None:
        self.signal_name: str | None = None
        self.pid = os.getpid()
        self.single_process = single_process  # with several processes, none may leave a collective operation
        self.raise_immediately = False

    def handle_signal(self, number: int, _: FrameType | None) -> None:
        """Handle a signal. A second Ctrl-C raises KeyboardInterrupt; other repeated signals are ignored."""
        if os.getpid() != self.pid:
            return  # a forked child that still has this handler
        if self.signal_name is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.signal_name = signal.Signals(number).name
        if self.raise_immediately:
            raise StopRequested

    @contextmanager
    def stop_immediately(self) -> Iterator[None]:
        """Return a context in which a signal, earlier or new, raises StopRequested at once (with one process only)."""
        self.raise_immediately = self.single_process
        try:
            if self.raise_immediately and self.signal_name is not None:
                raise StopRequested
            yield
        finally:
            self.raise_immediately = False

    @contextmanager
    def stop_with_error(self, remark: str) -> Iterator[None]:
        """Like ``stop_immediately``, but raise a WorkError that names the signal, followed by ``remark``."""
        try:
            with self.stop_immediately():
                yield
        except StopRequested:
            raise WorkError(f"stopped by {self.signal_name} {remark}") from None

    def guard_batches(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the ``batches``; a signal while waiting for one raises StopRequested."""
        iterator = iter(batches)
        while True:
            self.raise_immediately = self.single_process
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self.raise_immediately = False
            yield batch


@contextmanager
def deferred_interrupts(single_process: bool = True) -> Iterator[Interrupts]:
    """Send stop signals to an ``Interrupts`` within the context; ``single_process``: the run has only this one."""
    interrupts = Interrupts(single_process)
    if threading.current_thread() is not threading.main_thread():
        yield interrupts  # Python lets only the main thread set handlers
        return
    before = {}
    for name in (*INTERRUPTS, *NOTICES):
        number = signal.Signals[name]
        if name in INTERRUPTS or signal.getsignal(number) == signal.SIG_DFL:
            before[number] = signal.signal(number, interrupts.handle_signal)
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
