"""Preserve the alternate stack of signal handlers around calls into libraries that replace it."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class SignalStack(ctypes.Structure):
    """The C struct ``stack_t``: where handlers of signals run."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))
    address: int | None

    @classmethod
    def read(cls) -> "SignalStack":
        """Return this thread's alternate signal stack; without an address where there is none, or not on Linux."""
        stack = cls()
        if sys.platform == "linux":
            ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
        return stack


@contextmanager
def preserve_signal_stack() -> Iterator[None]:
    """Restore this thread's alternate signal stack at the end of the context (Linux only).

    OpenVINO sets an alternate stack whose memory is unmapped later. The next signal with a handler (for example when a
    data loader process ends) would then kill Python, whose handlers run on that stack.
    """
    before = SignalStack.read()
    try:
        yield
    finally:
        if sys.platform == "linux":
            ctypes.CDLL(None).sigaltstack(ctypes.byref(before), None)
