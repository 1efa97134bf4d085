"""Arms measured in turn in one process, so that a busy moment falls on all of them; memory in fresh processes."""

import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from resnext.errors import RequestError, WorkError

Work = Callable[[], object]
Progress = Callable[[int, int, str], None]  # repetitions done, of how many, and the arm that runs next ("" at the end)
MIB = 1 << 20
CHILD = "from resnext.bench.measure import _measure_here; _measure_here()"


@dataclass(frozen=True)
class Arm:
    """One competitor."""

    name: str
    work: Work  # one repetition
    images: int  # that a repetition handles


@dataclass(frozen=True)
class Timing:
    """What was measured of one arm: the seconds of each round."""

    name: str
    images: int
    seconds: tuple[float, ...]

    @property
    def best(self) -> float:
        """Images a second of the fastest round."""
        return self.images / min(self.seconds)

    @property
    def median(self) -> float:
        """Images a second of the median round."""
        return self.images / statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Interquartile range of the seconds as a share of their median; 0 of a single round."""
        low, high = _quartiles(self.seconds)
        return (high - low) / statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Images a second between which the middle half of the rounds lie: low, high."""
        low, high = _quartiles(self.seconds)
        return self.images / high, self.images / low


def interleaved(arms: Sequence[Arm], rounds: int, warmup: int = 1, progress: Progress | None = None) -> list[Timing]:
    """The timings of ``arms``, in their order: every round runs each of them once, and starts with the next one.

    ``warmup`` rounds before are not counted. Raises RequestError for less than one round, or arms of the same name.
    """
    if rounds < 1:
        raise RequestError(f"--rounds {rounds} must be at least 1")
    if len({arm.name for arm in arms}) < len(arms):
        raise RequestError(f"two arms have the same name: {', '.join(arm.name for arm in arms)}")
    seconds: dict[str, list[float]] = {arm.name: [] for arm in arms}
    done, total = 0, len(arms) * (rounds + warmup)
    for number in range(-warmup, rounds):
        first = number % len(arms) if arms else 0
        for arm in (*arms[first:], *arms[:first]):
            if progress is not None:
                progress(done, total, arm.name)
            start = time.perf_counter()
            arm.work()
            taken = time.perf_counter() - start
            if number >= 0:
                seconds[arm.name].append(taken)
            done += 1
    if progress is not None:
        progress(done, total, "")
    return [Timing(arm.name, arm.images, tuple(seconds[arm.name])) for arm in arms]


def ratio(of: Timing, to: Timing) -> tuple[float, float, float]:
    """How many times as fast ``of`` is as ``to``: the median over rounds of the ratio within a round, and quartiles."""
    ratios = [(of.images / mine) / (to.images / theirs) for mine, theirs in zip(of.seconds, to.seconds, strict=True)]
    return statistics.median(ratios), *_quartiles(ratios)


def peak_memory(
    prepare: str, *arguments: object, times: int = 2, environment: Mapping[str, str] | None = None
) -> float:
    """MiB by which some work raises the resident memory of a fresh process at its peak, above that before it.

    ``prepare``: ``package.module:function``, which makes the work, a callable, of ``arguments`` (plain values); what
    it allocates itself is not counted. The work is done ``times`` times. ``environment`` is added to this process's.
    Raises WorkError when the process fails.
    """
    variables = os.environ | dict(environment or {}) | {"PYTHONPATH": os.pathsep.join(p or "." for p in sys.path)}
    command = [sys.executable, "-c", CHILD, json.dumps([prepare, list(arguments), times])]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", env=variables, check=False)
    try:
        return float(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise WorkError(f"the memory of {prepare} could not be measured: {said}") from None


def _measure_here() -> None:
    """What the fresh process of ``peak_memory`` runs: prints MiB."""
    prepare, arguments, times = json.loads(sys.argv[1])
    module, _, function = prepare.partition(":")
    work = getattr(import_module(module), function)(*arguments)
    before = _forget_peak()
    for _ in range(times):
        work()
    print((_peak() - before) / MIB)


def _forget_peak() -> int:
    """Resident bytes now, from where the peak counts; where the system cannot start anew, the peak so far."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc: what the preparation freed is given back, and not used by the work
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux: resets VmHWM
        return _status("VmRSS")
    except OSError:
        return _peak()


def _peak() -> int:
    try:
        return _status("VmHWM")
    except OSError:
        import resource  # other Unixes

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _status(name: str) -> int:
    """A line of /proc/self/status in bytes. Raises OSError where there is none."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {name} in /proc/self/status")


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high
