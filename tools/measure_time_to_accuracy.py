"""Measure the time to 90 and to 92 % test accuracy on CIFAR-10, beside timm's train.py and a plain PyTorch loop.

    python tools/measure_time_to_accuracy.py --data cifar --work DIR --timm-train train.py --rounds 3 --parts
    python tools/measure_time_to_accuracy.py --data cifar --work DIR --arms resnext --set train.epochs=12 --out x.csv

cifar is a folder with train/CLASS/*.jpg and test/CLASS/*.jpg. The arms run one after the other, in another order each
round; a round has one seed. Time runs from the start of the process to the end of the first evaluation at or below an
error: start-up, data loading and all evaluations count. Finished runs in DIR are not run again. After each run
results/time-to-accuracy.csv, its picture and, with --parts, results/time-to-accuracy-parts.csv are written anew.
What is measured and compiled once for a machine (fast paths, kernels) is taken from the user's cache if it is there;
warm it by one short run of each arm.
"""

import argparse
import csv
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from resnext.environment import describe_environment
from resnext.files import atomic_write
from resnext.plotting import BLUE, MUTED, RED, add_title, create_figure, draw_grid, plot_style, save_figure
from resnext.recipe import dump_recipe, parse_command_line_value, read_recipe
from resnext.run_directory import RunDirectory

TOOLS = Path(__file__).parent
RESULTS = TOOLS.parent / "results"
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


@dataclass(frozen=True)
class Timing:
    """What the output of a run says about its time. All times in seconds; what they leave of ``total`` is the rest."""

    evaluations: tuple[Evaluation, ...]
    total: float  # of the whole process
    startup: float  # until the first step
    training: float  # of the epochs, with waiting for data
    evaluating: float  # of the evaluations; of this package with writing the checkpoints
    data_wait: float | None  # part of ``training``; None where it is not measured
    images: int  # trained with, in all epochs

    @property
    def images_per_second(self) -> float:
        """Training images per second, without evaluations."""
        return self.images / self.training

    def find_time_to(self, error: float) -> float | None:
        """Return the seconds to the first evaluation at or below ``error``; None if there is none."""
        return next((e.seconds for e in self.evaluations if e.error <= error), None)


@dataclass(frozen=True)
class Arm:
    """A way to train."""

    color: str
    parse: Callable[[Path, float], Timing]  # of the run's folder and total seconds
    options: tuple[str, ...] = ()  # of train_peer.py
    peer: str = ""  # its first argument; empty: this package


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
    evaluations = [Evaluation(stamps[int(r["epoch"])], int(r["epoch"]), float(r["top1_error"])) for r in metrics]
    seconds = [float(row["seconds"]) for row in speed]
    waits = [float(row["data_wait_share"]) * s for row, s in zip(speed, seconds, strict=True)]
    images = sum(round(float(row["images_per_second"]) * s) for row, s in zip(speed, seconds, strict=True))
    training, end = sum(seconds), evaluations[-1].seconds
    return Timing(tuple(evaluations), total, startup, training, end - startup - training, sum(waits), images)


def parse_peer(folder: Path, total: float) -> Timing:
    """Read the timing of a run of train_peer.py from its lines."""
    lines = read_stamped(folder / "output.txt")
    epochs = [(at, match) for at, text in lines if (match := PEER_EPOCH.fullmatch(text))]
    startup = next(at for at, text in lines if PEER_START.fullmatch(text))
    evaluations = tuple(Evaluation(at, int(match[1]), float(match[2])) for at, match in epochs)
    training, evaluating = (sum(float(match[group]) for _, match in epochs) for group in (3, 4))
    return Timing(evaluations, total, startup, training, evaluating, None, sum(int(match[5]) for _, match in epochs))


ARMS = {
    "resnext": Arm(BLUE, parse_ours),
    "timm": Arm(RED, parse_peer, ("--workers", "1"), "timm"),
    "timm, 2 workers": Arm(RED, parse_peer, ("--workers", "2"), "timm"),
    "plain": Arm(MUTED, parse_peer, ("--workers", "1"), "plain"),
    "plain, 2 workers": Arm(MUTED, parse_peer, ("--workers", "2"), "plain"),
    "plain NCHW": Arm("#b08a2e", parse_peer, ("--workers", "1", "--layout", "NCHW"), "plain"),
}


def main() -> None:
    """Run what is missing, and write the results after each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="where runs are kept")
    parser.add_argument("--recipe", default="small/cifar10-fast")
    parser.add_argument("--set", nargs="+", default=[], metavar="SECTION.FIELD=VALUE", help="changes of the recipe")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--arms", nargs="+", default=["resnext", "timm", "plain"], choices=ARMS, metavar="ARM")
    parser.add_argument("--timm-train", type=Path, metavar="PATH", help="timm's train.py")
    parser.add_argument("--parts", action="store_true", help="also time the parts of our steps")
    parser.add_argument("--out", type=Path, default=RESULTS / "time-to-accuracy.csv", metavar="CSV")
    args = parser.parse_args()
    if args.timm_train is None and any(ARMS[arm].peer == "timm" for arm in args.arms):
        parser.error("the arm timm needs --timm-train, train.py of timm's repository")
    changes = dict(change.split("=", 1) for change in args.set)
    changes |= {"data.source": "folder", "data.path": str(args.data.resolve())}
    for number in range(args.rounds):
        for place in range(len(args.arms)):
            arm = args.arms[(number + place) % len(args.arms)]
            folder = args.work / f"{number}-{arm.replace(', ', '-').replace(' ', '-')}"
            run_once(arm, number, folder, args.recipe, changes | {"train.seed": str(number)}, args.timm_train)
            runs = read_runs(args.work)
            write_runs(runs, args.out)
            draw_runs(runs, args.out.with_suffix(".png"))
    print("\n".join(summarize(read_runs(args.work))))
    if args.parts:
        write_parts(read_runs(args.work), args.recipe, changes, args.out.with_name(f"{args.out.stem}-parts.csv"))


def run_once(arm: str, number: int, folder: Path, recipe: str, changes: dict[str, str], script: Path | None) -> None:
    """Train once in ``folder``, unless that is done, and write result.json. Exits if the training fails."""
    text = dump_recipe(read_recipe(recipe, {key: parse_command_line_value(key, v) for key, v in changes.items()}))
    if (folder / "result.json").exists():
        if (folder / "recipe.yaml").read_text(encoding="utf-8") != text:
            raise SystemExit(f"{folder} has a run of another recipe: give another --work")
        return
    if folder.exists():
        shutil.rmtree(folder)  # an earlier try that did not finish
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    command = make_command(arm, recipe, changes, folder, script)
    shown = shorten_command(command)
    print(f"round {number}, {arm}: {shown}", flush=True)
    total = run_stamped(command, folder / "output.txt")
    facts = describe_environment() | {"timm": version("timm") if ARMS[arm].peer == "timm" else None}
    run = Run(arm, number, shown, ARMS[arm].parse(folder, total), facts)
    with atomic_write(folder / "result.json", "w") as file:
        json.dump(asdict(run), file, indent=1)


def make_command(arm: str, recipe: str, changes: dict[str, str], folder: Path, script: Path | None) -> list[str]:
    """Make the command of a run. The peers read the recipe with its changes from a file in ``folder``."""
    chosen = ARMS[arm]
    if not chosen.peer:
        options = [word for key, value in changes.items() for word in (f"--{key}", value)]
        return [sys.executable, "-m", "resnext", "train", recipe, "--run", str(folder / "run"), *options]
    options = [*chosen.options, *(["--script", str(script)] if chosen.peer == "timm" else [])]
    places = [str(folder / "recipe.yaml"), "--data", changes["data.path"], "--out", str(folder / "run")]
    return [sys.executable, str(TOOLS / "train_peer.py"), chosen.peer, *places, *options]


def shorten_command(command: Sequence[str]) -> str:
    """Return a command as a user would type it in the repository."""
    text = shlex.join(command).replace(f"{sys.executable} -m resnext", "resnext")
    return text.replace(sys.executable, "python").replace(str(TOOLS), "tools")


def run_stamped(command: Sequence[str], output: Path) -> float:
    """Run a command, write its output with the seconds of each line; return its seconds. Exits if it fails."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    start = time.perf_counter()
    with output.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
        )
        assert process.stdout is not None
        for line in process.stdout:
            file.write(f"{time.perf_counter() - start:.3f}\t{line}")
            file.flush()
    if process.wait():
        raise SystemExit(f"exit status {process.returncode}, see {output}: {shlex.join(command)}")
    return time.perf_counter() - start


def read_runs(work: Path) -> list[Run]:
    """Read the finished runs below ``work``, by round and arm."""
    runs = []
    for path in work.glob("*/result.json"):
        values = json.loads(path.read_text(encoding="utf-8"))
        timing = values["timing"]
        timing["evaluations"] = tuple(Evaluation(*row) for row in timing["evaluations"])
        runs.append(Run(**(values | {"timing": Timing(**timing)})))
    return sorted(runs, key=lambda run: (run.round, list(ARMS).index(run.arm)))


def write_runs(runs: Iterable[Run], path: Path) -> None:
    """Write a line for each run."""
    runs = list(runs)
    rows = []
    for run in runs:
        t = run.timing
        times = {f"seconds_to_{name}": round_or_none(t.find_time_to(error)) for name, error in TARGETS.items()}
        ratios = {f"times_ours_to_{name}": round_or_none(compare(runs, run, e), 3) for name, e in TARGETS.items()}
        rows.append(
            {"arm": run.arm, "round": run.round, **times, **ratios, "epochs": len(t.evaluations)}
            | {"last_error": t.evaluations[-1].error, "images_per_second": round(t.images_per_second, 1)}
            | {"total_seconds": round(t.total, 1), "startup_seconds": round(t.startup, 1)}
            | {"training_seconds": round(t.training, 1), "evaluation_seconds": round(t.evaluating, 1)}
            | {
                "data_wait_seconds": round_or_none(t.data_wait),
                "errors": " ".join(f"{e.error:g}" for e in t.evaluations),
            }
            | {key: run.environment.get(key) for key in ("date", "resnext", "torch", "timm", "cpu", "cores", "threads")}
            | {"command": run.command}
        )
    with atomic_write(path, "w") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def round_or_none(value: float | None, digits: int = 1) -> float | None:
    """Round a number that may not be there."""
    return None if value is None else round(value, digits)


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


def draw_runs(runs: Sequence[Run], path: Path) -> None:
    """Draw test error against minutes, a line for each run."""
    with plot_style():
        figure = create_figure(7.2, 4.2)
        axes = figure.add_axes((0.09, 0.13, 0.88, 0.7))
        draw_grid(axes)
        labelled: set[str] = set()
        for run in runs:
            minutes = [evaluation.seconds / 60 for evaluation in run.timing.evaluations]
            label = None if run.arm in labelled else run.arm
            labelled.add(run.arm)
            errors = [evaluation.error for evaluation in run.timing.evaluations]
            axes.plot(minutes, errors, ".-", color=ARMS[run.arm].color, linewidth=1, markersize=4, label=label)
        for name, error in TARGETS.items():
            axes.axhline(error, color=MUTED, linewidth=0.8, linestyle="--")
            axes.text(1, error, f"{name} %", transform=axes.get_yaxis_transform(), ha="right", va="bottom", fontsize=8)
        axes.set_yscale("log")
        ticks = [5, 6, 8, 10, 15, 20, 30, 50, 80]
        axes.set_yticks(ticks, map(str, ticks))
        axes.minorticks_off()
        axes.set_xlim(left=0)
        axes.set_xlabel("minutes since the start of the process")
        axes.set_ylabel("test error, %")
        axes.legend(loc="upper right")
        add_title(figure, "Time to accuracy on CIFAR-10", "each line a run; a point is the end of an evaluation")
    save_figure(figure, path)


def write_parts(runs: Sequence[Run], recipe: str, changes: dict[str, str], path: Path) -> None:
    """Write where our time goes: medians over runs, and the steps divided as time_training_parts.py measures them."""
    timings = [run.timing for run in runs if run.arm == "resnext"]
    if not timings:
        raise SystemExit("--parts needs finished runs of the arm resnext")
    options = [word for key, value in changes.items() for word in (f"--{key}", value)]
    command = [sys.executable, str(TOOLS / "time_training_parts.py"), recipe, *options]
    shares: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    waits = statistics.median(t.data_wait or 0.0 for t in timings)
    steps = statistics.median(t.training - (t.data_wait or 0.0) for t in timings)
    seconds = {"start-up": statistics.median(t.startup for t in timings), "waiting for data": waits}
    seconds |= {part: share * steps for part, share in shares.items()}
    seconds["evaluations and checkpoints"] = statistics.median(t.evaluating for t in timings)
    total = statistics.median(t.total for t in timings)
    seconds["final evaluation and report"] = total - sum(seconds.values())
    with atomic_write(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("part", "seconds", "share", "command"))
        rows = ((part, f"{s:.1f}", f"{s / total:.4f}", shorten_command(command)) for part, s in seconds.items())
        writer.writerows(rows)


if __name__ == "__main__":
    main()
