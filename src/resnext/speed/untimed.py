"""Untimed runs before a timed one."""

import time
from collections.abc import Callable

SETTLE_SECONDS = 0.01  # of untimed runs before an engine is timed


def run_untimed(work: Callable[[], object], seconds: float) -> None:
    """Run ``work`` for some seconds.

    After a batch, the threads of ONNX Runtime wait actively for the next one, for about 3 ms. Until then they take the
    cores from another engine whose turn it is, and small networks seem to need up to 1.7 times as long.
    """
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        work()
