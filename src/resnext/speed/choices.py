"""Autotuning: time the candidates for a computation once and cache the times per machine."""

import json
import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from resnext.environment import available_cores, cpu_features, cpu_name
from resnext.errors import WorkError
from resnext.files import written_whole
from resnext.speed.cache import cache_folder, say_once

ROUNDS = (5, 40)  # minimum and maximum number of timed rounds
PATIENCE = 0.3  # no further round starts after so many seconds; short candidates get more rounds, against noise
GAIN = 0.95  # a candidate replaces the plain one only below this ratio of times; smaller gains may be noise
CAPS = ("ONEDNN_MAX_CPU_ISA", "RESNEXT_ISA")  # environment variables that limit the instruction set
HOPELESS = 1.5  # a candidate slower than the best by this ratio is not timed again
LARGEST = 1 << 24  # bytes of the cache file
TURN = 30  # seconds to wait for the file lock

Machines = dict[str, dict[str, dict[str, float]]]  # machine -> key of the computation -> candidate -> seconds


def fingerprint(device: torch.device) -> str:
    """Describe what times depend on: processor, instruction sets, threads and torch release. It is the cache's key."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    isa = "+".join(cpu_features())
    caps = (f"{name}={os.environ[name]}" for name in CAPS if name in os.environ)
    capped = " ".join([torch.backends.cpu.get_cpu_capability(), *caps])
    threads = f"{available_cores()} cores, {torch.get_num_threads()} threads"
    return f"{name} | {isa} ({capped}) | {threads} | torch {torch.__version__}"


def seconds_of(ways: Mapping[str, Callable[[], object]], device: torch.device) -> dict[str, float]:
    """Time each candidate over interleaved rounds and return its best time in seconds.

    Candidates that are much slower than the best run in the first two rounds only.
    """
    best = dict.fromkeys(ways, float("inf"))
    begin = time.perf_counter()
    for number in range(ROUNDS[1] + 1):
        if number > ROUNDS[0] and time.perf_counter() - begin > PATIENCE:
            break
        leader = min(best.values())
        for name, work in ways.items():
            if number > 1 and best[name] > HOPELESS * leader:
                continue
            start = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number:  # the first round warms up
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def fastest(seconds: Mapping[str, float], plain: str) -> str:
    """Return the fastest candidate, but prefer the plain one (if there is one) unless another is clearly faster."""
    way = min(seconds, key=lambda name: seconds[name])
    return way if plain not in seconds or seconds[way] < GAIN * seconds[plain] else plain


@dataclass
class Choices:
    """Measured seconds of each candidate of each computation on one machine, stored in a file for several machines.

    A file that is unreadable or malformed counts as empty, and one that cannot be written is left as it is; both give a
    warning.
    """

    machine: str
    path: Path = field(default_factory=lambda: cache_folder() / "choices.json")
    measured: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def here(cls, device: torch.device) -> "Choices":
        """Load the times of this machine from the cache file."""
        choices = cls(fingerprint(device))
        choices.measured = _machines(choices.path).get(choices.machine, {})
        return choices

    def take(
        self,
        key: str,
        ways: Callable[[], Mapping[str, Callable[[], object]]],
        device: torch.device,
        names: Collection[str] | None = None,
    ) -> dict[str, float]:
        """Return the seconds of each candidate of the computation ``key``; measure them if they are not cached.

        Cached times are measured again if their candidates differ from ``names`` (for example from another release).
        """
        known = self.measured.get(key)
        if known is None or (names is not None and known.keys() != set(names)):
            self.measured[key] = seconds_of(ways(), device)
        return self.measured[key]

    def save(self) -> None:
        """Add the times to the file."""
        self._change(lambda known: known | {self.machine: known.get(self.machine, {}) | self.measured})

    def forget(self) -> None:
        """Remove this machine's times from the file."""
        self.measured = {}
        self._change(lambda known: {machine: works for machine, works in known.items() if machine != self.machine})

    def _change(self, change: Callable[[Machines], Machines]) -> None:
        """Rewrite the file under a lock, so that no thread or process loses what another has written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with FileLock(self.path.with_suffix(".lock"), timeout=TURN):
                machines = change(_machines(self.path))
                with written_whole(self.path, "w") as file:
                    json.dump(machines, file, indent=1)
        except (OSError, WorkError) as error:
            say_once(f"measured times could not be saved for next time: {error}")


def _machines(path: Path) -> Machines:
    """Read the file; a missing, unreadable or malformed file counts as empty."""
    try:
        with path.open("rb") as file:
            machines = json.loads(file.read(LARGEST))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        say_once(f"{path} cannot be read, so times are measured again: {error}")
        return {}
    if not _well_formed(machines):
        say_once(f"{path} does not contain measured times, so they are measured again")
        return {}
    return machines


def _well_formed(machines: Any) -> bool:
    return isinstance(machines, dict) and all(
        isinstance(works, dict)
        and all(
            isinstance(ways, dict) and ways and all(isinstance(value, float) and value > 0 for value in ways.values())
            for ways in works.values()
        )
        for works in machines.values()
    )
