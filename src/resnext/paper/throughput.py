"""Images a second of a network on this machine: measured once, kept in a file, told by what it was measured with."""

import hashlib
import json
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnext.data.download import data_folder
from resnext.environment import available_cores, cpu_features, cpu_name
from resnext.errors import WorkError
from resnext.files import written_whole
from resnext.model.architecture import Architecture

BATCH = 8
ROUNDS, BUDGET = 3, 2.0  # timed passes of each network, in turn with the others'; fewer where they take such seconds
LARGEST_FILE = 4 << 20  # bytes
KINDS = ("inference", "training")


@dataclass(frozen=True)
class Wanted:
    """One network to be timed."""

    architecture: Architecture
    image_size: int
    kind: str = "inference"  # or training: forward, backward and a step of SGD

    def key(self, machine: Mapping[str, Any]) -> str:
        """The name this measurement is kept under: another machine, thread count or torch has another."""
        values = [self.architecture.to_dict(), self.image_size, self.kind, BATCH, "fp32", dict(machine)]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


def machine() -> dict[str, Any]:
    """What a throughput depends on, beside the network."""
    import torch

    return {
        "cpu": cpu_name(),
        "isa": cpu_features(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def cache_file() -> Path:
    """Where measurements are kept."""
    return data_folder() / "throughput.json"


def known(path: Path | None = None) -> dict[str, float]:
    """Kept measurements, images a second by key; what is not a number is left out, a damaged file is as none."""
    path = path or cache_file()
    try:
        if path.stat().st_size > LARGEST_FILE:
            return {}
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    entries = values.get("entries") if isinstance(values, dict) else None
    if not isinstance(entries, dict):
        return {}
    speeds = {key: entry.get("images_per_second") for key, entry in entries.items() if isinstance(entry, dict)}
    return {key: float(v) for key, v in speeds.items() if isinstance(v, int | float) and 0 < v < math.inf}


def measure(
    wanted: Iterable[Wanted],
    path: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    again: bool = False,
) -> dict[str, float]:
    """Kept and new measurements by key, images a second: the median of up to ROUNDS passes over BATCH images.

    The networks take turns, so that a busy moment of the machine falls on all of them. New ones are kept; a disk that
    refuses costs only the keeping. ``again`` measures all of ``wanted`` anew.
    """
    here, path = machine(), path or cache_file()
    speeds = {} if again else known(path)
    missing = {w.key(here): w for w in wanted if w.key(here) not in speeds}
    passes = {key: _pass(w) for key, w in missing.items()}
    seconds: dict[str, list[float]] = {key: [] for key in missing}
    for turn in range(ROUNDS):
        for number, (key, once) in enumerate(passes.items()):
            if sum(seconds[key]) < BUDGET:
                start = time.perf_counter()
                once()
                seconds[key].append(time.perf_counter() - start)
            if progress is not None:
                progress(turn * len(missing) + number + 1, len(missing) * ROUNDS)
    fresh = {key: BATCH / statistics.median(times) for key, times in seconds.items()}
    if fresh:
        _keep(path, {key: _entry(missing[key], rate) for key, rate in fresh.items()}, here)
    return speeds | fresh


def _pass(wanted: Wanted) -> Callable[[], None]:
    """What is timed, warm: BATCH images through the network, and in training back again with a step."""
    import torch

    from resnext.model.network import Network

    model = Network(wanted.architecture)
    images = torch.rand(BATCH, wanted.architecture.in_channels, wanted.image_size, wanted.image_size)

    def infer(count: int = BATCH) -> None:
        with torch.inference_mode():
            model(images[:count])

    if wanted.kind == "inference":
        model.eval()
        infer(1)
        return infer
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    labels = torch.zeros(BATCH, dtype=torch.int64)

    def train(count: int = BATCH) -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images[:count]), labels[:count]).backward()
        optimizer.step()

    train(2)
    return train


def _entry(wanted: Wanted, rate: float) -> dict[str, Any]:
    return {
        "network": wanted.architecture.name,
        "classes": wanted.architecture.num_classes,
        "image_size": wanted.image_size,
        "kind": wanted.kind,
        "batch": BATCH,
        "precision": "fp32",
        "images_per_second": round(rate, 3),
    }


def _keep(path: Path, entries: dict[str, dict[str, Any]], here: dict[str, Any]) -> None:
    before: dict[str, Any] = {}
    with suppress(OSError, ValueError, RecursionError):
        if path.stat().st_size <= LARGEST_FILE:
            raw = json.loads(path.read_text(encoding="utf-8"))
            before = raw.get("entries", {}) if isinstance(raw, dict) else {}
    before = before if isinstance(before, dict) else {}
    stamped = {key: entry | {"machine": here} for key, entry in entries.items()}
    with suppress(WorkError, OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path, "w") as file:
            json.dump({"format": "resnext-throughput", "entries": before | stamped}, file, indent=1)
