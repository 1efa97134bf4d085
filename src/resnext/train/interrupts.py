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


class Stopped(KeyboardInterrupt):
    """A signal asked to stop."""


class Interrupts:
    """Record stop signals; ``signal_name`` is the name of the first one, or None."""

    def __init__(self, alone: bool = True) -> None:
        self.requested: str | None = None
        self.process = os.getpid()
        self.alone = alone  # with several processes, none may leave a collective operation
        self.at_once = False

    def ask(self, number: int, _: FrameType | None) -> None:
        """Handle a signal. A second Ctrl-C raises KeyboardInterrupt; other repeated signals are ignored."""
        if os.getpid() != self.process:
            return  # a forked child that still has this handler
        if self.requested is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.requested = signal.Signals(number).name
        if self.at_once:
            raise Stopped

    @contextmanager
    def end_at_once(self) -> Iterator[None]:
        """Return a context in which a signal, earlier or new, raises StopRequested at once (with one process only)."""
        self.at_once = self.alone
        try:
            if self.at_once and self.requested is not None:
                raise Stopped
            yield
        finally:
            self.at_once = False

    @contextmanager
    def end_with(self, remark: str) -> Iterator[None]:
        """Like ``stop_immediately``, but raise a WorkError that names the signal, followed by ``remark``."""
        try:
            with self.end_at_once():
                yield
        except Stopped:
            raise WorkError(f"stopped by {self.requested} {remark}") from None

    def watch(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the ``batches``; a signal while waiting for one raises StopRequested."""
        iterator = iter(batches)
        while True:
            self.at_once = self.alone
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self.at_once = False
            yield batch


@contextmanager
def heeded(alone: bool = True) -> Iterator[Interrupts]:
    """Send stop signals to an ``Interrupts`` within the context; ``single_process``: the run has only this one."""
    interrupts = Interrupts(alone)
    if threading.current_thread() is not threading.main_thread():
        yield interrupts  # Python lets only the main thread set handlers
        return
    before = {number: signal.signal(number, interrupts.ask) for number in _signals_to_take()}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _signals_to_take() -> Iterator[signal.Signals]:
    """List the signals to handle that exist on this system."""
    for name in (*INTERRUPTS, *NOTICES):
        number = getattr(signal, name, None)
        if number is not None and (name in INTERRUPTS or signal.getsignal(number) == signal.SIG_DFL):
            yield number
