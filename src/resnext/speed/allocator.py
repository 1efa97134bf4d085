"""Memory that is kept between steps: without it, the C library gives large buffers back and faults them in anew."""

import ctypes
import platform

from resnext.speed.kernels import switched_on

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of malloc.h
AHEAD = 64 << 20  # bytes asked of the system at a time


def keep_memory() -> bool:
    """Have glibc keep freed memory for this process's next buffers; whether it does (elsewhere nothing is changed).

    A step of training frees and asks for the same buffers again and again. By default the larger ones come from the
    system every time, and each of their pages costs a fault: 5 to 15 % of a step (docs/speed.md). The peak
    stays the same; memory that was used once goes back to the system only when the process ends.
    """
    if platform.libc_ver()[0] != "glibc" or not switched_on():
        return False
    libc = ctypes.CDLL(None)
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, AHEAD))
    return all(libc.mallopt(name, value) == 1 for name, value in settings)
