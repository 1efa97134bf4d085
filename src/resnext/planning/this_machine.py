"""Measure peak arithmetic and memory bandwidth of the processor here."""

import time
from collections.abc import Callable
from functools import partial

MATRIX_SIDE = 1536  # of the matrices, about the size of a layer's products
COPY_ELEMENTS = 1 << 26  # of the copied tensor: 256 MiB, larger than any cache
ROUNDS = 3


def measure_peaks() -> tuple[dict[str, float], float, int]:
    """Measure with PyTorch's threads; return TFLOPS of matrix products by precision, GB/s of a copy, and threads."""
    import torch

    peak = {}
    for precision, dtype in (("fp32", torch.float32), ("half", torch.bfloat16)):
        matrix = torch.randn(MATRIX_SIDE, MATRIX_SIDE).to(dtype)
        peak[precision] = 2 * MATRIX_SIDE**3 / _time_fastest(partial(torch.matmul, matrix, matrix)) / 1e12
    source, target = torch.zeros(COPY_ELEMENTS), torch.empty(COPY_ELEMENTS)
    bandwidth = 2 * 4 * COPY_ELEMENTS / _time_fastest(lambda: target.copy_(source)) / 1e9
    return peak, bandwidth, torch.get_num_threads()


def _time_fastest(action: Callable[[], object]) -> float:
    """Time a few calls after one warm-up call; return the seconds of the fastest."""
    seconds = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
