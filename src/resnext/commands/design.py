"""``resnext design``: find d for a cardinality, or C for a width, under a budget, as in the paper's Table 2.

With ``--latency``, find depth, C and d by measuring networks on this machine.
"""

import argparse
import re
from typing import TYPE_CHECKING, Any

from resnext.choices import LATENCY_PRECISIONS
from resnext.commands.info import add_set_option, parse_changes
from resnext.errors import RequestError
from resnext.model.architecture import Architecture

if TYPE_CHECKING:
    from rich.table import Table

SUMMARY = "Find the width d for a cardinality C (or C for d) under a budget, as the paper's Table 2 does."
AMOUNT_PATTERN = re.compile(r"(?P<number>\d+(?:[_,]\d{3})*(?:\.\d*)?(?:e\d{1,2})?)\s*(?P<unit>[kMG]?)", re.IGNORECASE)
NOTE = """
block: weights of a first-stage block with equal input and output channels (Equation 4)
parameters: of the network, including BN; MACs: 1 MAC = 2 FLOPs, and the paper's FLOPs are MACs"""
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``resnext design``."""
    parser.add_argument(
        "--depth", type=int, help="layers: 50, 101, ...; CIFAR networks 9n+2 (default: 50, or 29 with --set stem=cifar)"
    )
    parser.add_argument("--cardinality", type=int, metavar="C", help="number of paths; finds d")
    parser.add_argument("--width", type=int, metavar="d", help="channels of a path in the first stage; finds C")
    parser.add_argument("--macs", metavar="N", help="budget of multiply-adds for one image, such as 4.1G")
    parser.add_argument("--parameters", metavar="N", help="budget of parameters (with BN), such as 25M")
    parser.add_argument(
        "--image-size", type=int, metavar="N", help="side of the input in pixels (default: the paper's)"
    )
    parser.add_argument("--table", action="store_true", help="print one row for each cardinality of Table 2")
    add_set_option(parser)
    group = parser.add_argument_group("latency", "the network with the most MACs that is fast enough on this machine")
    group.add_argument(
        "--latency", type=float, metavar="MS",
        help="budget of milliseconds for one image; finds d, and C and depth unless given",
    )  # fmt: skip
    group.add_argument(
        "--engine", metavar="NAME", help="pytorch, onnxruntime, openvino or auto: the fastest for each network [auto]"
    )
    group.add_argument("--precision", choices=LATENCY_PRECISIONS, help="precision of the engine [fp32]")
    group.add_argument("--multiple", type=int, metavar="N", help="d is a multiple of N; 4 and 8 are fast [1]")
    group.add_argument("--measurements", type=int, metavar="N", help="measure at most so many networks [24]")


def parse_amount(text: str) -> float:
    """Parse ``4.1G``, ``25M``, ``70k`` or a plain number."""
    match = AMOUNT_PATTERN.fullmatch(text.strip())
    value = float(re.sub("[_,]", "", match["number"])) * UNITS[match["unit"].lower()] if match else 0.0
    if not value:
        raise RequestError(f"{text!r} is not an amount: write a number above 0 such as 4.1G, 25M or 70k")
    return value


def run(args: argparse.Namespace) -> int:
    """Print the network found and its neighbours, or the rows of Table 2."""
    from resnext.model.design import TABLE_2_CARDINALITIES, design, design_table_2, list_neighbours
    from resnext.model.stage_table import parse_paper_architecture
    from resnext.screen import make_screen

    check_options(args)
    changes = parse_changes(args.changes)
    for field in ("depth", "cardinality", "width"):
        if field in changes:
            raise RequestError(f"use --{field} instead of --set {field}")
    stem = changes.get("stem") or parse_paper_architecture(f"resnet{args.depth or 50}", **changes).stem
    changes.setdefault("num_classes", 10 if stem == "cifar" else 1000)
    request: dict[str, Any] = changes | {
        "macs": None if args.macs is None else parse_amount(args.macs),
        "parameters": None if args.parameters is None else parse_amount(args.parameters),
        "image_size": args.image_size,
    }
    console = make_screen()
    if args.latency is not None:
        console.print(build_latency_table(args, changes))
        return 0
    if args.table or (args.cardinality is None and args.width is None):
        cardinalities = set(TABLE_2_CARDINALITIES)
        if args.cardinality is not None:
            cardinalities.add(args.cardinality)
        solved = list(design_table_2(args.depth, tuple(sorted(cardinalities)), **request))
        console.print(_build_table(solved, args.image_size))
    else:
        found = design(args.depth, args.cardinality, width=args.width, **request)
        around = list_neighbours(found, "width" if args.width is None else "cardinality", args.image_size)
        console.print(found.name, style="bold")
        console.print(_build_table([a for a, _ in around], args.image_size, chosen=found))
    console.print(NOTE)
    return 0


def check_options(args: argparse.Namespace) -> None:
    """Raise RequestError for options that cannot be combined with ``--latency``, or need it."""
    for name in ("engine", "precision", "multiple", "measurements"):
        if args.latency is None and getattr(args, name) is not None:
            raise RequestError(f"--{name} belongs to --latency MS")
    for name in ("width", "macs", "parameters"):
        if args.latency is not None and getattr(args, name) is not None:
            raise RequestError(f"--latency is a budget that d is solved for; leave out --{name}")
    if args.table and args.width is not None:
        raise RequestError("--table has one row for each cardinality, so it takes no --width")
    if args.latency is not None and args.table:
        raise RequestError("--latency prints a table of the networks it measured; leave out --table")


def build_latency_table(args: argparse.Namespace, changes: dict[str, Any]) -> "Table":
    """Search for the network with the most MACs within ``--latency``; return the networks measured, chosen first."""
    from rich.table import Table

    from resnext.bench.design_latency import MEASUREMENTS, MeasuredNetwork, design_for_latency
    from resnext.bench.latency import LatencyRequest
    from resnext.model.complexity import complexity
    from resnext.model.stage_table import format_count
    from resnext.screen import make_screen

    most = MEASUREMENTS if args.measurements is None else args.measurements
    progress = make_screen(stderr=True)

    def report(one: MeasuredNetwork, number: int) -> None:
        where = f"{one.latency.milliseconds:.3g} ms on {one.latency.engine}"
        progress.print(f"{number} of at most {most}: {one.architecture.name} takes {where}", style="dim")

    found = design_for_latency(
        args.latency,
        LatencyRequest(args.engine or "auto", args.precision or "fp32", args.image_size),
        depth=args.depth,
        cardinality=args.cardinality,
        multiple=1 if args.multiple is None else args.multiple,
        measurements=most,
        report=report,
        **changes,
    )
    table = Table("", "network", "engine", box=None, header_style="bold")
    for heading in ("C", "d", "parameters", "MACs", "latency"):
        table.add_column(heading, justify="right")
    for number, one in enumerate(found):
        cost, a = complexity(one.architecture, args.image_size), one.architecture
        table.add_row(
            "" if number else ">", a.name, one.latency.engine, str(a.cardinality), str(a.width),
            format_count(cost.parameters), format_count(cost.macs),
            f"{one.latency.milliseconds:.3g} ms{'' if one.holds else ', too slow'}",
        )  # fmt: skip
    return table


def _build_table(
    architectures: list[Architecture], image_size: int | None, chosen: Architecture | None = None
) -> "Table":
    from rich.table import Table

    from resnext.model.complexity import complexity
    from resnext.model.design import count_template_parameters
    from resnext.model.stage_table import format_count

    table = Table("", "network", box=None, header_style="bold")
    for heading in ("C", "d", "C*d", "block", "parameters", "MACs"):
        table.add_column(heading, justify="right")
    for a in architectures:
        cost = complexity(a, image_size)
        numbers = (a.cardinality, a.width, a.cardinality * a.stages[0].width)
        table.add_row(
            ">" if a == chosen else "", a.name, *map(str, numbers),
            format_count(count_template_parameters(a)), format_count(cost.parameters), format_count(cost.macs),
        )  # fmt: skip
    return table
