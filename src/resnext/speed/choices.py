"""Which way is faster here: measured once, kept in a file for this machine, and shown on request."""

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

ROUNDS = (5, 40)  # least and most
PATIENCE = 0.3  # seconds of rounds after which there are enough: short works get more of them, against noise
GAIN = 0.95  # share of the plain way's time below which another way is taken: less is noise
CAPS = ("ONEDNN_MAX_CPU_ISA", "RESNEXT_ISA")  # what makes a processor pretend to be less
HOPELESS = 1.5  # times the best so far after which a way is not tried again
LARGEST = 1 << 24  # bytes of a file of choices
TURN = 30  # seconds to wait for others that write the file

Machines = dict[str, dict[str, dict[str, float]]]  # machine -> work -> way -> seconds


def fingerprint(device: torch.device) -> str:
    """What a measurement depends on beside the work itself; a change of any part makes old choices foreign."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    isa = "+".join(cpu_features())
    caps = (f"{name}={os.environ[name]}" for name in CAPS if name in os.environ)
    capped = " ".join([torch.backends.cpu.get_cpu_capability(), *caps])
    threads = f"{available_cores()} cores, {torch.get_num_threads()} threads"
    return f"{name} | {isa} ({capped}) | {threads} | torch {torch.__version__}"


def seconds_of(ways: Mapping[str, Callable[[], object]], device: torch.device) -> dict[str, float]:
    """Best seconds of each way over interleaved rounds; those that are far behind are tried once or twice only."""
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
    """The way to take: the plain one, where there is one, unless another is clearly faster."""
    way = min(seconds, key=lambda name: seconds[name])
    return way if plain not in seconds or seconds[way] < GAIN * seconds[plain] else plain


@dataclass
class Choices:
    """Measured seconds of each way of each piece of work, for one machine, over a file that holds many machines.

    A file that cannot be read, or holds something else, counts as empty; one that cannot be written is left: both are
    said once.
    """

    machine: str
    path: Path = field(default_factory=lambda: cache_folder() / "choices.json")
    measured: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def here(cls, device: torch.device) -> "Choices":
        """Those of this machine, as the cache has them."""
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
        """Seconds of each way of the work ``key``, measured now where they are not known.

        Where the ways have ``names``, what is known of other ways (another release's, say) is measured again.
        """
        known = self.measured.get(key)
        if known is None or (names is not None and known.keys() != set(names)):
            self.measured[key] = seconds_of(ways(), device)
        return self.measured[key]

    def save(self) -> None:
        """Add what was measured to the file."""
        self._change(lambda known: known | {self.machine: known.get(self.machine, {}) | self.measured})

    def forget(self) -> None:
        """Take this machine out of the file."""
        self.measured = {}
        self._change(lambda known: {machine: works for machine, works in known.items() if machine != self.machine})

    def _change(self, change: Callable[[Machines], Machines]) -> None:
        """Write the file anew; threads and processes take turns, so that none undoes what another wrote."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with FileLock(self.path.with_suffix(".lock"), timeout=TURN):
                machines = change(_machines(self.path))
                with written_whole(self.path, "w") as file:
                    json.dump(machines, file, indent=1)
        except (OSError, WorkError) as error:
            say_once(f"what was measured could not be kept for next time: {error}")


def _machines(path: Path) -> Machines:
    """The file's contents; empty where there is none or it is not one of ours."""
    try:
        with path.open("rb") as file:
            machines = json.loads(file.read(LARGEST))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        say_once(f"{path} cannot be read, so speeds are measured again: {error}")
        return {}
    if not _well_formed(machines):
        say_once(f"{path} does not hold measured speeds, so they are measured again")
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
