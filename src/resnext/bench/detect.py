"""``resnext bench detect``: a detector's training step and prediction, ours beside torchvision's own Faster R-CNN.

Both stand on the same network with the same weights, BN frozen and the stages frozen that are named; the same images
and boxes, and the same samples. What they compute is compared before anything is timed.
"""

import argparse
from typing import TYPE_CHECKING

from resnext.bench.report import (
    add_out,
    bench_bar,
    csv_path,
    out_folder,
    print_timings,
    protocol,
    read_rows,
    timing_rows,
    write_rows,
)
from resnext.errors import RequestError
from resnext.settings import FREEZES

if TYPE_CHECKING:
    from rich.console import Console

    from resnext.bench.detect_step import Detecting, Distance, Task
    from resnext.bench.step import Way

SMALLEST = 64  # pixels: the coarsest map of the pyramid has a pixel then


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``resnext bench detect``."""
    parser.add_argument("model", nargs="?", default="resnext50_32x4d", metavar="MODEL", help="(default: %(default)s)")
    parser.add_argument("--size", type=int, default=480, metavar="PIXELS", help="shorter side of the images [480]")
    parser.add_argument("--batch", type=int, default=2, metavar="N", help="images a step [2]")
    parser.add_argument("--boxes", type=int, default=8, metavar="N", help="boxes an image [8]")
    parser.add_argument("--freeze", default="conv2", choices=(*FREEZES[:-1], "none"), help="last frozen stage [conv2]")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="timed steps of each arm [7]")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="of ours and of theirs at best")
    add_out(parser)


def run(args: argparse.Namespace) -> int:
    """Exit status 0. Raises RequestError, and WorkError where an arm computes something else."""
    from resnext.model.table import published

    for option, least in (("size", SMALLEST), ("batch", 1), ("boxes", 1), ("rounds", 1)):
        if getattr(args, option) < least:
            raise RequestError(f"--{option} {getattr(args, option)} must be at least {least}")
    architecture = published(args.model)
    path = csv_path(out_folder(args), "detect")
    read_rows(path)

    from resnext.bench.detect_step import Task, ways_of
    from resnext.screen import screen

    console = screen()
    freeze = None if args.freeze == "none" else args.freeze
    task = Task(architecture, args.size, args.batch, args.boxes, freeze=freeze)
    write_rows(path, measured(task, ways_of(args.precision), args.rounds, console), protocol(args.command))
    console.print(f"{path}", highlight=False, markup=False, soft_wrap=True)
    return 0


def measured(task: "Task", ways: "list[Way]", rounds: int, console: "Console") -> list[dict[str, object]]:
    """Build, compare, time both kinds of work and print them; gives the lines of the CSV."""
    from resnext.bench.detect_step import arms_named
    from resnext.bench.measure import Arm, interleaved

    with console.status("comparing what the arms compute"):
        arms = arms_named(task, ways)
        distances = compared(arms, console)
    rows: list[dict[str, object]] = []
    for work in ("train", "predict"):
        call = {name: arm.train_step if work == "train" else arm.predict for name, arm in arms.items()}
        with bench_bar(work) as progress:
            timings = interleaved([Arm(n, call[n], task.batch) for n in arms], rounds, warmup=0, progress=progress)
        title = f"{'A training step' if work == 'train' else 'Prediction'} of Faster R-CNN on {task.architecture.name}"
        print_timings(console, f"{title}, batch {task.batch} at {task.size}x{task.width}", timings, timings[0].name)
        columns = {name: _columns(task, arm.way, distances[name]) for name, arm in arms.items()}
        rows += [{"work": work, **row} for row in timing_rows(timings, timings[0].name, columns)]
    return rows


def compared(arms: "dict[str, Detecting]", console: "Console") -> "dict[str, Distance]":
    """How far each arm is from torchvision's in fp32, on this very batch. Raises WorkError where ours is too far."""
    from resnext.bench.detect_step import check, distance, outcome

    outcomes = {name: outcome(arm) for name, arm in arms.items()}
    reference = next(n for n, a in arms.items() if not a.ours and a.way.precision == "fp32" and not a.way.channels_last)
    found = {name: distance(one, outcomes[reference]) for name, one in outcomes.items()}
    for name, arm in arms.items():
        if arm.ours:  # how far theirs goes in bf16, with anchors in bf16 too, is only reported
            check(name, arm.way.precision, found[name])
    for name, far in found.items():
        if name != reference:
            console.print(
                f"{name}: losses of the RPN within {far.rpn:.1e} of {reference}'s, of the head within {far.head:.1e}, "
                f"scores within {far.scores:.1e}",
                highlight=False, soft_wrap=True,
            )  # fmt: skip
    return found


def _columns(task: "Task", way: "Way", found: "Distance") -> dict[str, object]:
    return {
        "network": task.architecture.name,
        "library": way.library,
        "precision": way.precision,
        "layout": "NHWC" if way.channels_last else "NCHW",
        "batch": task.batch,
        "image_size": f"{task.size}x{task.width}",
        "boxes": task.boxes,
        "frozen": task.freeze or "none",
        "rpn_losses_distance": f"{found.rpn:.1e}",
        "head_losses_distance": f"{found.head:.1e}",
        "scores_distance": f"{found.scores:.1e}",
    }
