"""The stack that signal handlers run on, kept from libraries that put theirs in its place."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Within, a library may set this thread's alternate signal stack; afterwards it is the one it was before.

    Running OpenVINO leaves one set whose memory is unmapped later. The next signal with a handler (a loading process
    that ends, say) then kills Python, whose handlers use that stack. Elsewhere than on Linux nothing is done.
    """
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), _Stack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)
