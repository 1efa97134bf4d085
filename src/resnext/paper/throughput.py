"""Images per second of networks on this machine: measured once, then cached with what the measurement depends on."""

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

from resnext.data.files.download import data_folder
from resnext.environment import count_available_cores, read_cpu_features, read_cpu_name
from resnext.errors import WorkError
from resnext.files import atomic_write
from resnext.model.architecture import Architecture

BATCH = 8
ROUNDS, BUDGET_SECONDS = 3, 2.0  # timed passes per network; fewer once they took this many seconds
MAX_FILE_BYTES = 4 << 20  # bytes
KINDS = ("inference", "training")


@dataclass(frozen=True)
class TimingRequest:
    """A network to be timed."""

    architecture: Architecture
    image_size: int
    kind: str = "inference"  # or training: forward, backward and an SGD step

    def make_key(self, machine: Mapping[str, Any]) -> str:
        """Make the cache key; it differs between machines, thread counts and torch versions."""
        values = [self.architecture.to_dict(), self.image_size, self.kind, BATCH, "fp32", dict(machine)]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]


def describe_machine() -> dict[str, Any]:
    """Describe what a throughput depends on besides the network."""
    import torch

    return {
        "cpu": read_cpu_name(),
        "isa": read_cpu_features(),
        "cores": count_available_cores(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def read_throughputs(path: Path | None = None) -> dict[str, float]:
    """Read cached images per second by key; invalid values are left out, a damaged file counts as empty."""
    entries = _read_entries(path or data_folder() / "throughput.json")
    speeds = {key: entry.get("images_per_second") for key, entry in entries.items() if isinstance(entry, dict)}
    return {key: float(v) for key, v in speeds.items() if isinstance(v, int | float) and 0 < v < math.inf}


def measure_throughputs(
    wanted: Iterable[TimingRequest],
    path: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    force: bool = False,
) -> dict[str, float]:
    """Return images per second by key, cached or measured: the median of up to ROUNDS passes over BATCH images.

    The networks take turns, so that disturbances affect all of them. New results are cached; write errors are ignored.
    ``force`` measures everything in ``wanted`` again.
    """
    here, path = describe_machine(), path or data_folder() / "throughput.json"
    speeds = {} if force else read_throughputs(path)
    missing = {w.make_key(here): w for w in wanted if w.make_key(here) not in speeds}
    passes = {key: _prepare_pass(w) for key, w in missing.items()}
    seconds: dict[str, list[float]] = {key: [] for key in missing}
    for turn in range(ROUNDS):
        for number, (key, once) in enumerate(passes.items()):
            if sum(seconds[key]) < BUDGET_SECONDS:
                start = time.perf_counter()
                once()
                seconds[key].append(time.perf_counter() - start)
            if progress is not None:
                progress(turn * len(missing) + number + 1, len(missing) * ROUNDS)
    fresh = {key: BATCH / statistics.median(times) for key, times in seconds.items()}
    if fresh:
        _write_entries(path, {key: _make_entry(missing[key], rate) for key, rate in fresh.items()}, here)
    return speeds | fresh


def _prepare_pass(wanted: TimingRequest) -> Callable[[], None]:
    """Prepare and warm up one pass of BATCH images: inference, or a training step."""
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


def _make_entry(wanted: TimingRequest, rate: float) -> dict[str, Any]:
    return {
        "network": wanted.architecture.name,
        "classes": wanted.architecture.num_classes,
        "image_size": wanted.image_size,
        "kind": wanted.kind,
        "batch": BATCH,
        "precision": "fp32",
        "images_per_second": round(rate, 3),
    }


def _read_entries(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError):
        values = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size <= MAX_FILE_BYTES else None
        if isinstance(values, dict) and isinstance(values.get("entries"), dict):
            return dict(values["entries"])
    return {}


def _write_entries(path: Path, entries: dict[str, dict[str, Any]], here: dict[str, Any]) -> None:
    before = _read_entries(path)
    stamped = {key: entry | {"machine": here} for key, entry in entries.items()}
    with suppress(WorkError, OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, "w") as file:
            json.dump({"format": "resnext-throughput", "entries": before | stamped}, file, indent=1)
