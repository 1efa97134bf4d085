"""Tune glibc's malloc for training: keep freed memory in the process instead of returning it to the system."""

import ctypes
import platform

from resnext.speed.kernels import is_fast_enabled

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # constants of malloc.h
TOP_PAD_BYTES = 64 << 20  # bytes requested from the system at a time


def tune_malloc() -> bool:
    """Make glibc reuse freed memory for later buffers; return whether this worked (without glibc nothing changes).

    Every training step frees and allocates the same buffers. By default the large ones come from the system each time,
    and page faults cost 5 to 15 % of a step (docs/speed.md). Peak memory stays the same, but memory returns to the
    system only when the process ends.
    """
    if platform.libc_ver()[0] != "glibc" or not is_fast_enabled():
        return False
    libc = ctypes.CDLL(None)
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, TOP_PAD_BYTES))
    return all(libc.mallopt(name, value) == 1 for name, value in settings)
