"""Test that freed memory is reused by the next step without page faults."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from resnext.speed.allocator import tune_malloc
print(tune_malloc())
def step():
    kept = [torch.ones(3 << 22) for _ in range(4)]  # 48 MiB each: glibc alone maps and unmaps all above 32
    del kept
for _ in range(3): step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3): step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(switch: str) -> tuple[bool, int]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, env={"RESNEXT_FAST": switch}, timeout=120
    )
    assert done.returncode == 0, done.stderr
    kept, count = done.stdout.split()
    return kept == "True", int(count)


def test_buffers_are_faulted_in_once_and_the_switch_leaves_them_alone() -> None:
    kept, few = faults("1")
    if not kept:
        pytest.skip("the C library here is not glibc")
    left, many = faults("0")
    assert not left
    assert few < 1000 < many
