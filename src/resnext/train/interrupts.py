"""Signals that ask a run to stop: the loop saves and leaves after a step; work that can be repeated ends at once.

SIGINT and SIGTERM always ask. SIGHUP (the terminal is gone) and those that schedulers send before a limit ask where
they would end the process: what ``nohup`` ignores stays ignored, another handler stays in place.
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
    """Work that can be repeated ends here, because a signal asked for it."""


class Interrupts:
    """``requested`` names the first signal that asked for a stop."""

    def __init__(self, alone: bool = True) -> None:
        self.requested: str | None = None
        self.process = os.getpid()
        self.alone = alone  # one of several processes may not leave work that all do together
        self.at_once = False

    def ask(self, number: int, _: FrameType | None) -> None:
        """The handler. A second Ctrl-C interrupts whatever is done; another signal may well come along with a first."""
        if os.getpid() != self.process:
            return  # a child that was forked a moment ago
        if self.requested is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.requested = signal.Signals(number).name
        if self.at_once:
            raise Stopped

    @contextmanager
    def end_at_once(self) -> Iterator[None]:
        """Within, a signal (also one that came before) raises Stopped, where this process runs alone."""
        self.at_once = self.alone
        try:
            if self.at_once and self.requested is not None:
                raise Stopped
            yield
        finally:
            self.at_once = False

    @contextmanager
    def end_with(self, remark: str) -> Iterator[None]:
        """``end_at_once``, as a WorkError that names the signal and says ``remark``."""
        try:
            with self.end_at_once():
                yield
        except Stopped:
            raise WorkError(f"stopped by {self.requested} {remark}") from None

    def watch(self, batches: Iterable[T]) -> Iterator[T]:
        """The ``batches``; a signal that comes while one is waited for raises Stopped."""
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
    """Within, signals that ask for a stop go to the ``Interrupts``; ``alone``: this is the run's only process."""
    interrupts = Interrupts(alone)
    if threading.current_thread() is not threading.main_thread():
        yield interrupts  # only the main thread may set handlers
        return
    before = {number: signal.signal(number, interrupts.ask) for number in _signals_to_take()}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _signals_to_take() -> Iterator[signal.Signals]:
    """The signals to take, of those this system has."""
    for name in (*INTERRUPTS, *NOTICES):
        number = getattr(signal, name, None)
        if number is not None and (name in INTERRUPTS or signal.getsignal(number) == signal.SIG_DFL):
            yield number
