"""``resnext paper study``: does cardinality beat depth and width? The paper's comparison at a size that fits a CPU."""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnext.commands.train import add_setting_options, collect_settings
from resnext.errors import RequestError
from resnext.paper.study import DATA, SIZES, STUDIES, VARIED_SETTINGS, StudyRun, StudySize, list_runs

if TYPE_CHECKING:
    from rich.console import Console

    from resnext.child_runs import ProgressReporter

RUNS, RESULTS = "runs/study", "results"
HEADINGS = ("network", "MACs", "parameters", "test error %", "training error %", "seeds", "minutes", "images/s")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``resnext paper study``."""
    parser.usage = f"{parser.prog} cardinality [--on DATA] [--study STUDY] [--jobs N] [--SECTION.FIELD VALUE ...]"
    parser.add_argument("what", choices=["cardinality"], metavar="cardinality", help="the study; docs/study.md")
    parser.add_argument(
        "--on", action="append", choices=[*DATA], metavar="DATA",
        help=f"data set, {', '.join(DATA)}; can be repeated [cifar10 and fashion-mnist]",
    )  # fmt: skip
    parser.add_argument(
        "--study", action="append", choices=[*STUDIES], metavar="STUDY",
        help=f"{', '.join(STUDIES)}; can be repeated [all]",
    )  # fmt: skip
    parser.add_argument(
        "--size", choices=[*SIZES], default="small",
        help="small: ResNet-11, minutes on a core; full: ResNet-29 for 300 epochs, as in the paper [%(default)s]",
    )  # fmt: skip
    parser.add_argument("--runs", default=RUNS, metavar="DIR", help="folder of runs [%(default)s]")
    parser.add_argument("--results", default=RESULTS, metavar="DIR", help="folder of the CSV and plots [%(default)s]")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs side by side [one for each core]")
    parser.add_argument("--dry-run", action="store_true", help="print the commands of the runs that are not finished")
    parser.add_argument("--report", action="store_true", help="train nothing; write CSV, plots and tables as they are")
    add_setting_options(parser)


@dataclass(frozen=True)
class _Plan:
    """What is asked for: runs, where they are, and where the results go."""

    size: StudySize
    runs: list[StudyRun]
    folder: Path  # of the runs
    given: Mapping[str, Any]  # settings of the command line
    table: Path  # the CSV, results/study-cardinality.csv

    def write_rows(self, failed: Sequence[StudyRun] = ()) -> None:
        """Write the CSV of the runs that are finished, and of those that failed."""
        from resnext.paper.study_results import collect_rows, make_failure_row, write_rows

        rows = collect_rows(self.runs, self.folder, self.given)
        rows += [make_failure_row(one, self.folder, self.given) for one in failed]
        write_rows(self.table, rows, self.size)


def run(args: argparse.Namespace) -> int:
    """Train what is not finished, then write and print the results; exit status 0."""
    from resnext.child_runs import check_jobs, describe_failures, train_runs
    from resnext.environment import count_available_cores
    from resnext.files import check_folder
    from resnext.paper.study_results import read_rows
    from resnext.paper.study_runs import make_command, open_finished
    from resnext.screen import make_screen

    jobs, console = args.jobs if args.jobs is not None else count_available_cores(), make_screen()
    check_jobs(jobs)
    plan = _make_plan(args)
    pending = [one for one in plan.runs if open_finished(one, plan.folder, plan.given) is None]
    if args.dry_run:
        for one in pending:
            console.print(shlex.join(make_command(one, plan.folder, plan.given)), soft_wrap=True)
        return 0
    failed: list[StudyRun] = []
    check_folder(plan.table.parent, "--results")
    plan.table.parent.mkdir(parents=True, exist_ok=True)
    read_rows(plan.table, plan.size)  # a damaged file is refused before the work
    if not args.report:
        reporter = _make_reporter(console, plan, pending)
        try:
            failed = train_runs(
                pending, plan.folder, lambda one: make_command(one, plan.folder, plan.given), jobs, reporter
            )
        finally:
            reporter.stop()
    write_results(plan, console, failed)
    if failed:
        raise describe_failures(failed, plan.folder)
    return 0


def _make_plan(args: argparse.Namespace) -> _Plan:
    is_small, given = args.size == "small", collect_settings(args)
    for key in given:
        if key in VARIED_SETTINGS:
            raise RequestError(f"--{key} is what the study varies: leave it out")
    name = "study-cardinality.csv" if is_small else f"study-cardinality-{args.size}.csv"
    folder = Path(args.runs) if is_small or args.runs != RUNS else Path(f"{RUNS}-{args.size}")
    runs = list_runs(args.size, args.on or SIZES[args.size].data, args.study or STUDIES)
    return _Plan(SIZES[args.size], runs, folder, given, Path(args.results) / name)


def _make_reporter(console: "Console", plan: _Plan, pending: Sequence[StudyRun]) -> "ProgressReporter[StudyRun]":
    """Make what prints the progress of the runs, and writes the CSV when one ends."""
    from resnext.child_runs import ProgressReporter
    from resnext.recipe import read_recipe

    return ProgressReporter(
        console,
        pending,
        epochs=read_recipe(pending[0].recipe, plan.given).train.epochs or 0 if pending else 0,
        find_directory=lambda one: plan.folder / one.name,
        shorten=lambda one: one.network.label,
        on_end=lambda _: plan.write_rows(),
    )


def write_results(plan: _Plan, console: "Console", failed: Sequence[StudyRun]) -> None:
    """Write the CSV with the runs that failed, and the plots of the finished runs; print the tables."""
    from resnext.paper.study_plots import plot_curves, plot_errors
    from resnext.paper.study_results import read_rows
    from resnext.paper.study_runs import open_finished
    from resnext.plotting import save_figure

    plan.write_rows(failed)
    for data in DATA:
        rows = [row for row in read_rows(plan.table, plan.size) if row["data"] == data and row["test_error"] != ""]
        if not rows:
            continue
        print_tables(console, rows, data, plan.size)
        save_figure(plot_errors(rows, data, plan.size), plan.table.with_name(f"{plan.table.stem}-{data}.png"))
        opened: dict[str, list[Any]] = {}
        for one in plan.runs:
            is_shown = one.data == data and one.network.label in (plan.size.baseline, plan.size.most_paths)
            if is_shown and (run := open_finished(one, plan.folder, plan.given)) is not None:
                opened.setdefault(one.network.label, []).append(run)
        if opened:
            path = plan.table.with_name(f"{plan.table.stem}-{data}-curves.png")
            save_figure(plot_curves(opened, data, plan.size), path)
    console.print(str(plan.table))


def print_tables(console: "Console", rows: Sequence[Mapping[str, Any]], data: str, size: StudySize) -> None:
    """Print the means of each study on a data set, and the paired differences."""
    from rich.table import Table

    from resnext.paper.study_results import compare, describe_network

    for study, title in STUDIES.items():
        table = Table(box=None, header_style="bold", title=f"{data}: {title}", title_justify="left", title_style="bold")
        for heading in HEADINGS:
            table.add_column(heading, justify="left" if heading == "network" else "right")
        for network in size.networks:
            words = describe_network(rows, network) if network.study == study else None
            if words is not None:
                table.add_row(*words)
        if table.row_count:
            console.print(table)
    table = Table(box=None, header_style="bold", title="Differences of test error, in points, on the same seeds",
                  title_justify="left", title_style="bold")  # fmt: skip
    for heading in ("network", "minus", "difference [95 % interval]", "seeds"):
        table.add_column(heading)
    for one in compare(rows, size):
        table.add_row(one.first, one.second, one.words, str(len(one.differences)))
    if table.row_count:
        console.print(table)
