"""Time candidates in turn in one process, so that disturbances affect all alike; measure memory in fresh ones."""

import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from resnext.errors import RequestError, WorkError
from resnext.speed.untimed import run_untimed

Work = Callable[[], object]
Progress = Callable[[int, int, str], None]  # repetitions done, total, next candidate ("" at the end)
MIB = 1 << 20
CHILD_CODE = "from resnext.bench.measure import measure_in_child; measure_in_child()"


@dataclass(frozen=True)
class Candidate:
    """One piece of work to be timed against others."""

    name: str
    work: Work  # one repetition
    images: int  # that one repetition processes


@dataclass(frozen=True)
class Timing:
    """The measured seconds of each round of one candidate."""

    name: str
    images: int
    seconds: tuple[float, ...]

    @property
    def best(self) -> float:
        """Images per second of the fastest round."""
        return self.images / min(self.seconds)

    @property
    def median(self) -> float:
        """Images per second of the median round."""
        return self.images / statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Interquartile range of the seconds over their median; 0 for a single round."""
        low, high = _compute_quartiles(self.seconds)
        return (high - low) / statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Lower and upper quartile of the images per second."""
        low, high = _compute_quartiles(self.seconds)
        return self.images / high, self.images / low


def time_interleaved(
    candidates: Sequence[Candidate],
    rounds: int,
    warmup: int = 1,
    progress: Progress | None = None,
    *,
    settle: float = 0.0,
) -> list[Timing]:
    """Time candidates in interleaved rounds; return their timings in the given order.

    A round runs each candidate once; the next round starts with the next candidate. The first ``warmup`` rounds are not
    counted. With ``settle``, as engines need it, each turn of a candidate begins with so many seconds of untimed runs
    (``run_untimed``), unless it takes 30 times as long. Raises RequestError for less than one round, or for two
    candidates of the same name.
    """
    if rounds < 1:
        raise RequestError(f"--rounds {rounds} must be at least 1")
    seconds: dict[str, list[float]] = {candidate.name: [] for candidate in candidates}
    if len(seconds) < len(candidates):
        raise RequestError(f"two candidates have the same name: {', '.join(c.name for c in candidates)}")
    done, total = 0, len(candidates) * (rounds + warmup)
    for number in range(-warmup, rounds):
        first = number % len(candidates) if candidates else 0
        for candidate in (*candidates[first:], *candidates[:first]):
            if progress is not None:
                progress(done, total, candidate.name)
            if not seconds[candidate.name] or seconds[candidate.name][-1] <= 30 * settle:
                run_untimed(candidate.work, settle)
            start = time.perf_counter()
            candidate.work()
            taken = time.perf_counter() - start
            if number >= 0:
                seconds[candidate.name].append(taken)
            done += 1
    if progress is not None:
        progress(done, total, "")
    return [Timing(candidate.name, candidate.images, tuple(seconds[candidate.name])) for candidate in candidates]


def compute_speed_ratio(of: Timing, to: Timing) -> tuple[float, float, float]:
    """Compute the speed of ``of`` relative to ``to``: median and quartiles of the ratios within each round."""
    ratios = [(of.images / mine) / (to.images / theirs) for mine, theirs in zip(of.seconds, to.seconds, strict=True)]
    return statistics.median(ratios), *_compute_quartiles(ratios)


def measure_peak_memory(prepare: Callable[..., Work], *arguments: object) -> float:
    """Measure by how many MiB some work raises the peak resident memory of a fresh process.

    ``prepare``, a function of a module, gets ``arguments`` (plain values) and returns the work, which runs twice. What
    ``prepare`` itself allocates is not counted. Raises WorkError if the process fails.
    """
    command = [sys.executable, "-c", CHILD_CODE, json.dumps([prepare.__module__, prepare.__name__, arguments])]
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", env=make_child_variables(), check=False
    )
    try:
        return float(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise WorkError(f"the memory of {prepare.__name__} could not be measured: {said}") from None


def make_child_variables() -> dict[str, str]:
    """Return the environment variables with which a child process imports what this process imports."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}


def measure_in_child() -> None:
    """Measure the peak memory in the fresh process of ``measure_peak_memory``, and print it in MiB."""
    module, function, arguments = json.loads(sys.argv[1])
    work = getattr(import_module(module), function)(*arguments)
    before = _reset_peak()
    for _ in range(2):
        work()
    print((_read_peak() - before) / MIB)


def _reset_peak() -> int:
    """Reset the peak; return the resident bytes now, or the peak so far if the system cannot reset it."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc: return freed memory to the system, so that the work does not reuse it
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux: resets VmHWM
        return _read_status("VmRSS")
    except OSError:
        return _read_peak()


def _read_peak() -> int:
    try:
        return _read_status("VmHWM")
    except OSError:
        import resource  # other Unixes

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _read_status(name: str) -> int:
    """Read a value of /proc/self/status in bytes. Raises OSError if there is none."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {name} in /proc/self/status")


def _compute_quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high
