"""Ctrl-C and SIGTERM as a wish the loop looks at between two steps."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """``requested`` names the first signal that asked for a stop."""

    requested: str | None = None

    def ask(self, number: int, _: FrameType | None) -> None:
        if self.requested is not None:  # asked twice: at once, then
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name


@contextmanager
def heeded() -> Iterator[Interrupts]:
    """Within, SIGINT and SIGTERM only set ``requested``; a second one interrupts at once."""
    interrupts = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts  # only the main thread may set handlers
        return
    before = {number: signal.signal(number, interrupts.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
