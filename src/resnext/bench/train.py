"""``resnext bench train``: a training step, ours beside torchvision's and timm's, in turn in one process.

Ours is what ``create_model`` and ``tune`` give. A step is forward (autocast where bf16), cross-entropy, backward and
SGD with momentum, on one fixed batch of noise. Before the first round all arms start from the same weights, and what
they compute is compared.
"""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from resnext.bench.measure import Arm, interleaved, peak_memory
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

if TYPE_CHECKING:
    from rich.console import Console

    from resnext.bench.agree import Distance, Outcome
    from resnext.bench.measure import Timing
    from resnext.bench.step import Step, Way
    from resnext.model.architecture import Architecture
    from resnext.model.plan import Plan

LEVELS = ("activations", "expansions", "blocks")
ISAS = {  # what makes PyTorch, oneDNN, MKL and our kernels take no wider instructions
    "avx2": {
        "RESNEXT_ISA": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "portable": {
        "RESNEXT_ISA": "portable",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    },
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``resnext bench train``."""
    parser.add_argument("model", nargs="?", default="resnext50_32x4d", metavar="MODEL", help="(default: %(default)s)")
    add_batch(parser, 32, 224)
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="timed steps of each arm [%(default)s]")
    add_peers(parser)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="of ours and of the peers' best")
    parser.add_argument("--without-resnet", action="store_true", help="leave out the ResNet of the same depth")
    parser.add_argument("--without-memory", action="store_true", help="leave out the peaks, each in a fresh process")
    parser.add_argument(
        "--recompute", nargs="*", choices=LEVELS, default=[], help="ours also with these", metavar="LEVEL"
    )
    parser.add_argument("--isa", choices=tuple(ISAS), help="as on a machine without wider instructions")
    add_out(parser)


def add_batch(parser: argparse.ArgumentParser, batch: int, size: int) -> None:
    """``--batch`` and ``--size``, the same for every bench of training."""
    parser.add_argument("--batch", type=int, default=batch, metavar="N", help="images a step [%(default)s]")
    parser.add_argument("--size", type=int, default=size, metavar="PIXELS", help="side of the images [%(default)s]")


def add_peers(parser: argparse.ArgumentParser) -> None:
    """``--peers``, the same for every bench of training."""
    parser.add_argument(
        "--peers", nargs="+", metavar="NAME",
        help="torchvision, timm, plain (our network, no fast path) or none (default: the first two where they can)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Exit status 0. Raises RequestError, and WorkError where an arm computes something else."""
    from resnext.bench.peers import chosen_peers
    from resnext.model.table import published

    architecture = published(args.model)
    check_numbers(args)
    architecture.check_image_size(args.size, args.size)
    peers = chosen_peers(args.peers, architecture)
    path = csv_path(out_folder(args), "train")
    read_rows(path)
    if args.isa and not _capped(args.isa):
        return _in_a_capped_process(args)

    from resnext.screen import screen

    console = screen()
    entries = arms_of(architecture, peers, args)
    measured = Measured.of(entries, args, console)
    more = {entry.name: measured.columns(entry) for entry in entries}
    title = f"A training step of {architecture.name}, batch {args.batch} at {args.size}x{args.size}"
    shown = {name: {"peak MiB": values.get("peak_mib")} for name, values in more.items()}
    print_timings(console, title, measured.timings, entries[0].name, {} if args.without_memory else shown)
    write_rows(path, timing_rows(measured.timings, entries[0].name, more), protocol(args.command))
    console.print(f"{path}", highlight=False, markup=False, soft_wrap=True)
    return 0


def check_numbers(args: argparse.Namespace) -> None:
    """Raises RequestError for numbers that no step can be made of."""
    if args.batch < 2:
        raise RequestError(f"--batch {args.batch} must be at least 2: batch norm takes its statistics over the batch")
    for option in ("rounds", "size"):
        if getattr(args, option) < 1:
            raise RequestError(f"--{option} {getattr(args, option)} must be at least 1")


@dataclass(frozen=True)
class Entry:
    """An arm before it is built."""

    name: str
    architecture: "Architecture"
    way: "Way"


def arms_of(architecture: "Architecture", peers: Sequence[str], args: argparse.Namespace) -> list[Entry]:
    """Ours first, then ours with recomputing, the peers at their defaults and at their best, and the ResNet's."""
    from resnext.bench.step import Way

    ours = Way("resnext", args.precision)
    ways = [ours, *(replace(ours, recompute=level) for level in args.recompute)]
    for peer in peers:
        ways += [Way(peer, "fp32", channels_last=False), Way(peer, args.precision)]
    entries = [Entry(str(way), architecture, way) for way in ways]
    if architecture.cardinality > 1 and architecture.stem == "imagenet" and not args.without_resnet:
        resnet = architecture.change(cardinality=1, width=64)
        best = [ours, *(Way(peer, args.precision) for peer in peers)]
        entries += [Entry(f"{resnet.name}: {way}", resnet, way) for way in best]
    return entries


def plans_of(entries: Sequence[Entry], args: argparse.Namespace, console: "Console") -> dict[str, "Plan"]:
    """The plans of our arms by name; what was not measured before on this machine is measured now."""
    from resnext.bench.step import fused_throughout, settled

    plans: dict[str, Plan] = {}
    found: dict[Architecture, Plan] = {}
    for entry in entries:
        if entry.way.library != "resnext":
            continue
        a = entry.architecture
        if a not in found:
            with console.status(f"{a.name}: measuring the ways of its layers") as status:
                found[a] = settled(a, args.batch, args.size, args.precision, status.update)
        everywhere = entry.way.recompute in ("activations", "expansions")
        plans[entry.name] = fused_throughout(a, found[a]) if everywhere else found[a]
    return plans


@dataclass(frozen=True)
class Measured:
    """Everything about the arms."""

    timings: list["Timing"]
    distances: Mapping[str, "Distance"]
    peaks: Mapping[str, float]  # MiB
    args: argparse.Namespace

    @classmethod
    def of(cls, entries: Sequence[Entry], args: argparse.Namespace, console: "Console") -> "Measured":
        """Settle, build, compare, time, and take the peaks. Raises WorkError where an arm computes something else."""
        from resnext.bench.step import Step

        plans = plans_of(entries, args, console)
        steps = {e.name: Step(e.architecture, e.way, args.batch, args.size, plans.get(e.name)) for e in entries}
        distances = compared(entries, steps, args, console)
        with bench_bar("steps") as progress:
            arms = [Arm(name, step, args.batch) for name, step in steps.items()]
            timings = interleaved(arms, args.rounds, warmup=0, progress=progress)
        steps.clear()
        arms.clear()
        peaks = {} if args.without_memory else peaks_of(entries, plans, args, console)
        return cls(timings, distances, peaks, args)

    def columns(self, entry: Entry) -> dict[str, object]:
        """Of the CSV, for an arm."""
        way, found = entry.way, self.distances[entry.name]
        return {
            "network": entry.architecture.name,
            "library": way.library,
            "precision": way.precision,
            "layout": "NHWC" if way.channels_last else "NCHW",
            "recompute": way.recompute,
            "batch": self.args.batch,
            "image_size": self.args.size,
            "peak_mib": round(self.peaks[entry.name]) if entry.name in self.peaks else None,
            "logits_distance": f"{max(found.evaluated, found.logits):.1e}",
            "gradients_distance": f"{found.gradients:.1e}",
        }


def compared(
    entries: Sequence[Entry], steps: Mapping[str, "Step"], args: argparse.Namespace, console: "Console"
) -> dict[str, "Distance"]:
    """How far each arm is from PyTorch in fp32, on this very batch; this is also the warm-up.

    The reference is the first peer's fp32 arm, or our plain network. Raises WorkError where it is more than rounding.
    """
    from resnext.bench.agree import TOLERANCES, check, distance, outcome
    from resnext.bench.step import Step, Way

    references: dict[Architecture, Outcome] = {}
    outcomes, found = {}, {}
    with console.status("comparing what the arms compute") as status:
        for entry in entries:
            status.update(f"comparing what the arms compute: {entry.name}")
            outcomes[entry.name] = outcome(steps[entry.name])
            if entry.way.precision == "fp32" and not entry.way.channels_last:
                references.setdefault(entry.architecture, outcomes[entry.name])
        for entry in entries:
            a = entry.architecture
            if a not in references:
                references[a] = outcome(Step(a, Way("plain", "fp32", channels_last=False), args.batch, args.size))
            found[entry.name] = distance(outcomes[entry.name], references[a])
            check(entry.name, entry.way.precision, found[entry.name])
    for precision in dict.fromkeys(e.way.precision for e in entries):
        some = [found[e.name] for e in entries if e.way.precision == precision]
        logits, gradients = max(max(d.logits, d.evaluated) for d in some), max(d.gradients for d in some)
        console.print(
            f"equal in {precision}: logits within {logits:.1e} (at most {TOLERANCES[precision][0]:g}), "
            f"gradients within {gradients:.1e} (at most {TOLERANCES[precision][1]:g}) of the fp32 reference",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    return found


def peaks_of(
    entries: Sequence[Entry], plans: Mapping[str, "Plan"], args: argparse.Namespace, console: "Console"
) -> dict[str, float]:
    """MiB of each arm's peak over two steps, above what was there before the first, in a fresh process each."""
    from resnext.bench.step import memory_arguments

    peaks = {}
    with console.status("memory") as status:
        for e in entries:
            status.update(f"memory: {e.name}")
            told = memory_arguments(e.architecture, e.way, args.batch, args.size, plans.get(e.name))
            peaks[e.name] = peak_memory("resnext.bench.step:step_again", *told)
    return peaks


def _capped(isa: str) -> bool:
    return all(os.environ.get(name) == value for name, value in ISAS[isa].items())


def _in_a_capped_process(args: argparse.Namespace) -> int:
    """The same command where the libraries have not been loaded yet: they read the caps only then."""
    words = shlex.split(args.command)[1:]
    out = ["--out", args.out] if args.out else []
    paths = os.pathsep.join(path or "." for path in sys.path)
    variables = os.environ | ISAS[args.isa] | {"PYTHONPATH": paths}
    return subprocess.run([sys.executable, "-m", "resnext", *words, *out], env=variables, check=False).returncode
