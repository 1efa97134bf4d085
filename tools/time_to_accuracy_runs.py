"""The runs of tools/measure_time_to_accuracy.py: their times, read from what they printed, and how they compare."""

import csv
import json
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from resnext.run_directory import RunDirectory

TARGETS = {"90": 10.0, "92": 8.0}  # percent of accuracy: largest test error
STAMP = re.compile(r"(\d+\.\d+)\t(.*)")
OUR_START = re.compile(r".* steps on \w+ into .*")
OUR_EPOCH = re.compile(r"epoch +(\d+)  .*held-out loss.*")
PEER_EPOCH = re.compile(
    r"epoch (\d+): error (\d+\.\d+) %, training (\d+\.\d+) s, evaluation (\d+\.\d+) s, (\d+) images"
)
PEER_START = re.compile("training begins")


class Evaluation(NamedTuple):
    """An evaluation of a run."""

    seconds: float  # since the start of the process
    epoch: int  # from 1
    error: float  # percent of the test images
    evaluating: float  # seconds of all evaluations so far; of this package with writing the checkpoints between them


@dataclass(frozen=True)
class Timing:
    """What the output of a run says about its time. All times in seconds; what they leave of ``total`` is the rest."""

    evaluations: tuple[Evaluation, ...]
    total: float  # of the whole process
    startup: float  # until the first step
    training: float  # of the epochs, with waiting for data
    data_wait: float | None  # part of ``training``; None where it is not measured
    images: int  # trained with, in all epochs

    @property
    def images_per_second(self) -> float:
        """Training images per second, without evaluations."""
        return self.images / self.training

    @property
    def evaluating(self) -> float:
        """Seconds of all evaluations."""
        return self.evaluations[-1].evaluating

    def find_time_to(self, error: float, *, with_evaluations: bool = True) -> float | None:
        """Return the seconds to the first evaluation at or below ``error``; None if there is none."""
        found = next((e for e in self.evaluations if e.error <= error), None)
        return None if found is None else found.seconds - (0.0 if with_evaluations else found.evaluating)


@dataclass
class Run:
    """A finished run."""

    arm: str
    round: int
    command: str
    timing: Timing
    environment: dict[str, Any] = field(default_factory=dict)


def read_stamped(path: Path) -> list[tuple[float, str]]:
    """Read the lines of a run's output with the seconds at which they came."""
    found = (STAMP.fullmatch(line) for line in path.read_text(encoding="utf-8").splitlines())
    return [(float(match[1]), match[2]) for match in found if match]


def parse_ours(folder: Path, total: float) -> Timing:
    """Read the timing of a run of this package: when its lines came, metrics.csv and speed.csv."""
    lines = read_stamped(folder / "output.txt")
    run = RunDirectory(folder / "run")
    metrics, speed = (list(csv.DictReader(path.open(encoding="utf-8"))) for path in (run.metrics, run.speed))
    stamps = {int(match[1]): at for at, text in lines if (match := OUR_EPOCH.fullmatch(text))}
    startup = next(at for at, text in lines if OUR_START.fullmatch(text))
    seconds = [float(row["seconds"]) for row in speed]
    evaluations = []
    for row, trained in zip(metrics, accumulate(seconds), strict=True):
        if not row["top1_error"]:
            continue  # train.evaluate_every
        at, epoch = stamps[int(row["epoch"])], int(row["epoch"])
        evaluations.append(Evaluation(at, epoch, float(row["top1_error"]), at - startup - trained))
    waits = [float(row["data_wait_share"]) * s for row, s in zip(speed, seconds, strict=True)]
    images = sum(round(float(row["images_per_second"]) * s) for row, s in zip(speed, seconds, strict=True))
    return Timing(tuple(evaluations), total, startup, sum(seconds), sum(waits), images)


def parse_peer(folder: Path, total: float) -> Timing:
    """Read the timing of a run of train_peer.py from its lines."""
    lines = read_stamped(folder / "output.txt")
    epochs = [(at, match) for at, text in lines if (match := PEER_EPOCH.fullmatch(text))]
    startup = next(at for at, text in lines if PEER_START.fullmatch(text))
    evaluating = accumulate(float(match[4]) for _, match in epochs)
    evaluations = tuple(
        Evaluation(at, int(match[1]), float(match[2]), so_far)
        for (at, match), so_far in zip(epochs, evaluating, strict=True)
    )
    training, images = (sum(float(match[group]) for _, match in epochs) for group in (3, 5))
    return Timing(evaluations, total, startup, training, None, int(images))


def read_runs(work: Path) -> list[Run]:
    """Read the finished runs below ``work``, by round and arm, this package's first."""
    runs = []
    for path in work.glob("*/result.json"):
        values = json.loads(path.read_text(encoding="utf-8"))
        timing = values["timing"]
        timing["evaluations"] = tuple(Evaluation(*row) for row in timing["evaluations"])
        runs.append(Run(**(values | {"timing": Timing(**timing)})))
    return sorted(runs, key=lambda run: (run.round, run.arm != "resnext", run.arm))


def compare(runs: Iterable[Run], run: Run, error: float) -> float | None:
    """Return how many times as long as this package's run of the same round ``run`` took to ``error``."""
    ours = next((r.timing.find_time_to(error) for r in runs if r.arm == "resnext" and r.round == run.round), None)
    theirs = run.timing.find_time_to(error)
    return None if ours is None or theirs is None else theirs / ours


def summarize(runs: Sequence[Run]) -> list[str]:
    """Summarize each arm in a line: medians over rounds, and lowest to highest of the ratios."""
    lines = []
    for arm in dict.fromkeys(run.arm for run in runs):
        of_arm = [run for run in runs if run.arm == arm]
        parts = [f"{arm}: {statistics.median(r.timing.images_per_second for r in of_arm):.0f} images/s"]
        for name, error in TARGETS.items():
            times = [t for run in of_arm if (t := run.timing.find_time_to(error)) is not None]
            if not times:
                parts.append(f"{name} % not reached")
                continue
            part = f"{name} % in {statistics.median(times) / 60:.1f} min"
            part += f" (in {len(times)} of {len(of_arm)} runs)" if len(times) < len(of_arm) else ""
            ratios = [ratio for run in of_arm if (ratio := compare(runs, run, error)) is not None]
            if arm != "resnext" and ratios:
                part += f", {statistics.median(ratios):.2f} times ours ({min(ratios):.2f} to {max(ratios):.2f})"
            parts.append(part)
        lines.append("; ".join(parts))
    return lines
