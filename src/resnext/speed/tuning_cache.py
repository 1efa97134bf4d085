"""Autotuning: time the candidates for a computation once and cache the times per machine."""

import json
import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard, TypeVar

import torch
from filelock import FileLock

from resnext.environment import count_available_cores, read_cpu_features, read_cpu_name
from resnext.errors import WorkError
from resnext.files import atomic_write
from resnext.speed.cache_folder import get_cache_folder, warn_once
from resnext.speed.untimed import run_untimed

MIN_MAX_ROUNDS = (5, 40)  # minimum and maximum number of timed rounds
ENOUGH_SECONDS = 0.3  # no further round starts after so many seconds; short candidates get more rounds, against noise
MAX_TIME_RATIO = 0.95  # a candidate replaces the plain one only below this ratio of times; smaller gains may be noise
ISA_CAP_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "RESNEXT_ISA")  # environment variables that limit the instruction set
GIVE_UP_RATIO = 1.5  # a candidate slower than the best by this ratio is not timed again
MAX_FILE_BYTES = 1 << 24  # bytes of the cache file
LOCK_TIMEOUT = 30  # seconds to wait for the file lock

Name = TypeVar("Name", bound=str)
CacheContents = dict[str, dict[str, dict[str, float]]]  # machine -> key of the computation -> candidate -> seconds


def get_machine_fingerprint(device: torch.device) -> str:
    """Describe what times depend on: processor, instruction sets, threads and torch release. It is the cache's key."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else read_cpu_name()
    isa = "+".join(read_cpu_features())
    caps = (f"{name}={os.environ[name]}" for name in ISA_CAP_VARIABLES if name in os.environ)
    capped = " ".join([torch.backends.cpu.get_cpu_capability(), *caps])
    threads = f"{count_available_cores()} cores, {torch.get_num_threads()} threads"
    return f"{name} | {isa} ({capped}) | {threads} | torch {torch.__version__}"


def time_candidates(
    candidates: Mapping[Name, Callable[[], object]], device: torch.device, settle: float = 0.0
) -> dict[Name, float]:
    """Time candidates in interleaved rounds, much slower ones in two only; return the best seconds of each.

    Each turn of a candidate begins with ``settle`` seconds of untimed runs.
    """
    best = dict.fromkeys(candidates, float("inf"))
    begin = time.perf_counter()
    for number in range(MIN_MAX_ROUNDS[1] + 1):
        if number > MIN_MAX_ROUNDS[0] and time.perf_counter() - begin > ENOUGH_SECONDS:
            break
        leader = min(best.values())
        for name, work in candidates.items():
            if number > 1 and best[name] > GIVE_UP_RATIO * leader:
                continue
            run_untimed(work, settle)
            start = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number:  # the first round warms up
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def select_fastest(seconds: Mapping[str, float], plain: str) -> str:
    """Return the fastest candidate, but prefer the plain one (if there is one) unless another is clearly faster."""
    fastest = min(seconds, key=lambda name: seconds[name])
    return fastest if plain not in seconds or seconds[fastest] < MAX_TIME_RATIO * seconds[plain] else plain


@dataclass
class TuningCache:
    """Measured seconds of each candidate of each computation on one machine, stored in a file for several machines.

    A file that is unreadable or malformed counts as empty, and one that cannot be written is left as it is; both give a
    warning.
    """

    machine: str
    path: Path = field(default_factory=lambda: get_cache_folder() / "choices.json")
    timings: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def load(cls, device: torch.device) -> "TuningCache":
        """Load the times of this machine from the cache file."""
        choices = cls(get_machine_fingerprint(device))
        choices.timings = _read_file(choices.path).get(choices.machine, {})
        return choices

    def measure_or_load(
        self,
        key: str,
        make_candidates: Callable[[], Mapping[str, Callable[[], object]]],
        device: torch.device,
        names: Collection[str] | None = None,
        settle: float = 0.0,
    ) -> dict[str, float]:
        """Return the seconds of each candidate of the computation ``key``; measure them if they are not cached.

        Cached times are measured again if their candidates differ from ``names`` (for example from another release).
        ``settle`` is that of ``time_candidates``.
        """
        known = self.timings.get(key)
        if known is None or (names is not None and known.keys() != set(names)):
            self.timings[key] = time_candidates(make_candidates(), device, settle)
        return self.timings[key]

    def save(self) -> None:
        """Add the times to the file."""
        self._update_file(lambda known: known | {self.machine: known.get(self.machine, {}) | self.timings})

    def clear(self) -> None:
        """Remove this machine's times from the file."""
        self.timings = {}
        self._update_file(lambda known: {name: timings for name, timings in known.items() if name != self.machine})

    def _update_file(self, change: Callable[[CacheContents], CacheContents]) -> None:
        """Rewrite the file under a lock, so that no thread or process loses what another has written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with FileLock(self.path.with_suffix(".lock"), timeout=LOCK_TIMEOUT):
                machines = change(_read_file(self.path))
                with atomic_write(self.path, "w") as file:
                    json.dump(machines, file, indent=1)
        except (OSError, WorkError) as error:
            warn_once(f"measured times could not be saved for next time: {error}")


def _read_file(path: Path) -> CacheContents:
    """Read the file; a missing, unreadable or malformed file counts as empty."""
    try:
        with path.open("rb") as file:
            machines = json.loads(file.read(MAX_FILE_BYTES))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        warn_once(f"{path} cannot be read, so times are measured again: {error}")
        return {}
    if not _is_well_formed(machines):
        warn_once(f"{path} does not contain measured times, so they are measured again")
        return {}
    return machines


def _is_well_formed(machines: object) -> TypeGuard[CacheContents]:
    return isinstance(machines, dict) and all(
        isinstance(computations, dict)
        and all(
            isinstance(seconds, dict) and seconds and all(isinstance(s, float) and s > 0 for s in seconds.values())
            for seconds in computations.values()
        )
        for computations in machines.values()
    )
