"""Measure the time to 90 and to 92 % test accuracy on CIFAR-10, beside timm's train.py and a plain PyTorch loop.

    python tools/measure_time_to_accuracy.py --data cifar --work DIR --timm-train train.py --rounds 3 --parts
    python tools/measure_time_to_accuracy.py --data cifar --work DIR --arms resnext --set train.epochs=12 --out x.csv

cifar is a folder with train/CLASS/*.jpg and test/CLASS/*.jpg. The arms run one after the other, in another order each
round; a round has one seed. Time runs from the start of the process to the end of the first evaluation at or below an
error: start-up, data loading and all evaluations count. Finished runs in DIR are not run again. After each run
results/time-to-accuracy.csv, its picture and, with --parts, results/time-to-accuracy-parts.csv are written anew.
What is measured and compiled once for a machine (fast paths, kernels) is taken from the user's cache if it is there;
warm it by one short run of each arm. "tuned malloc" gives a peer by environment variables what this package sets for
itself: glibc keeps freed memory.
"""

import argparse
import csv
import json
import os
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

from time_to_accuracy_runs import TARGETS, Run, Timing, compare, parse_ours, parse_peer, read_runs, summarize

from resnext.environment import describe_environment
from resnext.files import atomic_write
from resnext.plotting import BLUE, MUTED, PALE_RED, RED, add_title, create_figure, draw_grid, plot_style, save_figure
from resnext.recipe import dump_recipe, parse_command_line_value, read_recipe

TOOLS = Path(__file__).parent
RESULTS = TOOLS.parent / "results"


@dataclass(frozen=True)
class Arm:
    """A way to train."""

    color: str
    parse: Callable[[Path, float], Timing]  # of the run's folder and total seconds
    options: tuple[str, ...] = ()  # of train_peer.py
    peer: str = ""  # its first argument; empty: this package
    variables: dict[str, str] = field(default_factory=dict)  # of the environment


ONE, TWO = ("--workers", "1"), ("--workers", "2")
TUNED_MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1), "MALLOC_TOP_PAD_": str(64 << 20)}
ARMS = {
    "resnext": Arm(BLUE, parse_ours),
    "timm": Arm(RED, parse_peer, ONE, "timm"),
    "timm, 2 workers": Arm(RED, parse_peer, TWO, "timm"),
    "timm, tuned malloc": Arm(PALE_RED, parse_peer, ONE, "timm", TUNED_MALLOC),
    "plain": Arm(MUTED, parse_peer, ONE, "plain"),
    "plain, 2 workers": Arm(MUTED, parse_peer, TWO, "plain"),
    "plain, tuned malloc": Arm("#9ca3af", parse_peer, ONE, "plain", TUNED_MALLOC),
    "plain, NCHW": Arm("#b08a2e", parse_peer, (*ONE, "--layout", "NCHW"), "plain"),
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
    shown = " ".join([*(f"{k}={v}" for k, v in ARMS[arm].variables.items()), shorten_command(command)])
    print(f"round {number}, {arm}: {shown}", flush=True)
    total = run_stamped(command, folder / "output.txt", ARMS[arm].variables)
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


def run_stamped(command: Sequence[str], output: Path, variables: dict[str, str]) -> float:
    """Run a command, write its output with the seconds of each line; return its seconds. Exits if it fails."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"} | variables
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


def write_runs(runs: Iterable[Run], path: Path) -> None:
    """Write a line for each run."""
    runs = list(runs)
    rows = []
    for run in runs:
        t = run.timing
        times = {f"seconds_to_{name}": round_or_none(t.find_time_to(error)) for name, error in TARGETS.items()}
        alone = {
            f"seconds_to_{name}_without_evaluations": round_or_none(t.find_time_to(error, with_evaluations=False))
            for name, error in TARGETS.items()
        }
        ratios = {f"times_ours_to_{name}": round_or_none(compare(runs, run, e), 3) for name, e in TARGETS.items()}
        rows.append(
            {"arm": run.arm, "round": run.round, **times, **ratios, **alone, "epochs": len(t.evaluations)}
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
