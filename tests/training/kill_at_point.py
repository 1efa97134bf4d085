"""Run ``resnext`` so that it kills itself with SIGKILL at a named point: ``killed.py POINT N ARGUMENTS...``.

Points: ``step`` after optimizer step N of this process; ``write`` half-way through the N-th file that is
written atomically; ``rename`` directly after that file is renamed.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import resnext.files as files
from resnext.cli import main
from resnext.detection.training.task import Detection
from resnext.training.classification import Classification
from resnext.training.step import StepResult

point, count = sys.argv[1], int(sys.argv[2])
seen = {"step": 0, "write": 0, "rename": 0}


def die_at(name: str) -> None:
    seen[name] += 1
    if name == point and seen[name] == count:
        os.kill(os.getpid(), signal.SIGKILL)


def count_steps(step: Callable[..., StepResult]) -> Callable[..., StepResult]:
    def counted_step(*arguments: object) -> StepResult:
        result = step(*arguments)
        die_at("step")
        return result

    return counted_step


def truncate_then_fsync(descriptor: int) -> None:
    """Replace fsync of the temporary file: truncate it to half before the kill."""
    path = Path(f"/proc/self/fd/{descriptor}").resolve()
    if path.suffix == ".part":
        if point == "write" and seen["write"] + 1 == count:
            os.truncate(path, path.stat().st_size // 2)
        die_at("write")
    fsync(descriptor)


def replace_then_die(source: str, target: str) -> None:
    replace(source, target)
    die_at("rename")


fsync, replace = os.fsync, os.replace
for task in (Classification, Detection):
    task.step = count_steps(task.step)
files.os.fsync = truncate_then_fsync
files.os.replace = replace_then_die
sys.exit(main(sys.argv[3:]))
