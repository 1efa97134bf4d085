"""Describe this processor as a Machine: peaks are measured, the utilisation is that of the processor in the fit."""

import time
from collections.abc import Callable
from functools import partial

from resnext.paper.cost import Machine

SIDE = 1536  # of the matrices, about the size of a layer's products
ELEMENTS = 1 << 26  # of the copied tensor: 256 MiB, larger than any cache
ROUNDS = 3


def measure() -> Machine:
    """Measure peak arithmetic (matrix products in fp32 and bf16) and memory bandwidth with PyTorch's threads."""
    import torch

    peak = {}
    for precision, dtype in (("fp32", torch.float32), ("half", torch.bfloat16)):
        matrix = torch.randn(SIDE, SIDE).to(dtype)
        peak[precision] = 2 * SIDE**3 / _fastest(partial(torch.matmul, matrix, matrix)) / 1e12
    source, target = torch.zeros(ELEMENTS), torch.empty(ELEMENTS)
    bandwidth = 2 * 4 * ELEMENTS / _fastest(lambda: target.copy_(source)) / 1e9
    threads = torch.get_num_threads()
    return Machine("this", peak, bandwidth, f"measured here, {threads} threads", like="Xeon-2core", extrapolated=True)


def _fastest(action: Callable[[], object]) -> float:
    """Time a few calls after one warm-up call; return the seconds of the fastest."""
    seconds = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
