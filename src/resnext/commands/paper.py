"""``resnext paper``: the paper's tables and figures beside measured results, and the runs that measure them."""

import argparse
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from resnext.commands.train import add_setting_options, collect_settings
from resnext.paper.numbers import get_table, load_tables

if TYPE_CHECKING:
    from rich.console import Console

SUMMARY = "Show the paper's tables and figures beside measured results, and run what is missing."
RUNS, RESULTS, OUT = "runs/paper", "results", "paper-out"
ACTION_MODULES = {  # further actions: add_arguments(parser) and run(args) of the module
    "cost": ("resnext.commands.paper_cost", "estimate time and cost of a table's runs on a machine"),
    "study": ("resnext.commands.paper_study", "train and compare networks of equal complexity and other cardinality"),
    "feed": ("resnext.commands.paper_feed", "estimate what keeps a number of GPUs busy: cores, storage, shards"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one action per table or figure; run and status; and those of ACTION_MODULES."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, entry in load_tables().items():
        about = f"{entry.title}. {entry.source}."
        _add_table_options(actions.add_parser(name, help=entry.title, description=about, allow_abbrev=False))
    run_parser = actions.add_parser(
        "run", help="start or resume the run of a row", allow_abbrev=False,
        description="Trains a row's recipe into RUNS/RECIPE. The same command resumes it.",
    )  # fmt: skip
    _add_run_options(run_parser)
    status = actions.add_parser(
        "status", help="show which results are measured, running and missing", allow_abbrev=False
    )
    _add_directory_options(status)
    for name, (module, sentence) in ACTION_MODULES.items():
        import_module(module).add_arguments(actions.add_parser(name, help=sentence, allow_abbrev=False))


def run(args: argparse.Namespace) -> int:
    """Run the action and return exit status 0."""
    if args.action in ACTION_MODULES:
        return int(import_module(ACTION_MODULES[args.action][0]).run(args))
    from resnext.screen import make_screen

    actions = {"run": _run_row, "status": _print_status}
    actions.get(args.action, _print_table)(args, make_screen())
    return 0


def _add_directory_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", default=RUNS, metavar="DIR", help="folder of runs, named by recipe [%(default)s]")
    parser.add_argument(
        "--results", default=RESULTS, metavar="DIR", help="folder of CSV files with recorded results [%(default)s]"
    )


def _add_table_options(parser: argparse.ArgumentParser) -> None:
    _add_directory_options(parser)
    parser.add_argument(
        "--out", default=OUT, metavar="DIR", help="output folder for NAME.png, NAME.svg, NAME.csv [%(default)s]"
    )
    timing = parser.add_mutually_exclusive_group()
    timing.add_argument(
        "--measure", dest="measure", action="store_const", const="again", default="missing",
        help="time every network here again [only those not yet timed; seconds each]",
    )  # fmt: skip
    timing.add_argument(
        "--no-measure", dest="measure", action="store_const", const="none",
        help="time nothing; leave missing times empty",
    )  # fmt: skip


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = f"{parser.prog} TABLE --row ROW [--seed N] [--toy] [--runs DIR] [--SECTION.FIELD VALUE ...]"
    parser.add_argument("table", metavar="TABLE", help=f"one of {', '.join(load_tables())}")
    parser.add_argument("--row", required=True, metavar="ROW", help="row, as in the table's first column: 32x4d/50")
    parser.add_argument("--seed", type=int, metavar="N", help="another run of the same row with this seed")
    parser.add_argument("--runs", default=RUNS, metavar="DIR", help="folder of runs [%(default)s]")
    parser.add_argument(
        "--schedule", choices=("printed", "released"), default="printed",
        help="CIFAR learning rate: drops after epochs 150 and 225, or at the start of 148 and 223 as in the released "
        "code [%(default)s]",
    )  # fmt: skip
    parser.add_argument(
        "--toy", action="store_true", help="run the recipe in seconds: 4 steps, small images, random data"
    )
    add_setting_options(parser)


def _print_table(args: argparse.Namespace, console: "Console") -> None:
    """Print a table or figure and write its files."""
    from resnext.paper.tables import show_table

    show_table(
        console, get_table(args.action), Path(args.runs), Path(args.results), Path(args.out), measure=args.measure
    )


def _run_row(args: argparse.Namespace, console: "Console") -> None:
    """Start or resume a row's run."""
    from resnext.paper.run import announce_run, plan_run

    chosen = get_table(args.table)
    row, given = chosen.row(args.row), collect_settings(args)
    planned = plan_run(chosen, row, Path(args.runs), given, seed=args.seed, schedule=args.schedule, toy=args.toy)
    announce_run(console, chosen, row, planned)

    from resnext.training.classification import Classification
    from resnext.training.loop import run_training

    run_training(Classification, planned.recipe, planned.run, resume=None)


def _print_status(args: argparse.Namespace, console: "Console") -> None:
    """Print which results are measured, running and missing."""
    from resnext.paper.status import print_status

    print_status(console, Path(args.runs), Path(args.results))
