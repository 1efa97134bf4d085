"""``resnext paper study``: does cardinality beat depth and width? The paper's comparison at a size that fits a CPU."""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnext.commands.train import add_setting_options, collect_settings
from resnext.paper.study import DATA, NETWORKS, STUDIES, StudyRun, list_runs

if TYPE_CHECKING:
    from rich.console import Console

RUNS, RESULTS = "runs/study", "results"
HEADINGS = ("network", "MACs", "parameters", "test error %", "training error %", "seeds", "minutes", "images/s")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``resnext paper study``."""
    parser.usage = f"{parser.prog} cardinality [--on DATA] [--study STUDY] [--jobs N] [--SECTION.FIELD VALUE ...]"
    parser.add_argument("what", choices=["cardinality"], metavar="cardinality", help="the study; docs/study.md")
    parser.add_argument(
        "--on", action="append", choices=[*DATA], metavar="DATA",
        help=f"data set, {' or '.join(DATA)}; can be repeated [both]",
    )  # fmt: skip
    parser.add_argument(
        "--study", action="append", choices=[*STUDIES], metavar="STUDY",
        help=f"{', '.join(STUDIES)}; can be repeated [all]",
    )  # fmt: skip
    parser.add_argument("--runs", default=RUNS, metavar="DIR", help="folder of runs [%(default)s]")
    parser.add_argument("--results", default=RESULTS, metavar="DIR", help="folder of the CSV and plots [%(default)s]")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs side by side [one for each core]")
    parser.add_argument("--dry-run", action="store_true", help="print the commands of the runs that are not finished")
    parser.add_argument("--report", action="store_true", help="train nothing; write CSV, plots and tables as they are")
    add_setting_options(parser)


def run(args: argparse.Namespace) -> int:
    """Train what is not finished, then write and print the results; exit status 0."""
    from resnext.environment import count_available_cores
    from resnext.files import check_folder
    from resnext.paper.study_runs import check_jobs, describe_failures, format_command, read_state, train_runs
    from resnext.screen import make_screen

    jobs, given = args.jobs if args.jobs is not None else count_available_cores(), collect_settings(args)
    check_jobs(jobs)
    runs, console = Path(args.runs), make_screen()
    planned = list_runs(args.on or DATA, args.study or STUDIES)
    states = {one: read_state(one, runs) for one in planned}
    pending = [one for one, state in states.items() if not state.is_finished]
    if args.dry_run:
        for one in pending:
            console.print(format_command(one, runs, given))
        return 0
    failed: list[StudyRun] = []
    check_folder(Path(args.results), "--results")
    Path(args.results).mkdir(parents=True, exist_ok=True)
    if not args.report:
        reporter = _Reporter(console, planned, pending, runs, Path(args.results), given, jobs)
        failed = train_runs(pending, runs, given, jobs, reporter)
    write_results(planned, runs, Path(args.results), given, console)
    if failed:
        raise describe_failures(failed, runs)
    return 0


class _Reporter:
    """Prints a line when a run starts or ends, with the time that is left, and writes the CSV when one ends."""

    def __init__(
        self, console: "Console", planned: Sequence[StudyRun], pending: Sequence[StudyRun], runs: Path, results: Path,
        given: Mapping[str, Any], jobs: int,
    ) -> None:  # fmt: skip
        self.console, self.planned, self.runs, self.results = console, planned, runs, results
        self.given, self.jobs, self.left = given, jobs, len(pending)
        self.start = time.monotonic()
        self.done = 0

    def __call__(self, one: StudyRun, what: str) -> None:
        """Report the start, the end or the failure of a run."""
        if what == "start":
            self.console.print(f"training {one.name}")
            return
        self.left, self.done = self.left - 1, self.done + 1
        minutes = (time.monotonic() - self.start) / self.done * self.left / 60
        said = "finished" if what == "end" else "FAILED"
        self.console.print(f"{said} {one.name}; {self.left} left, about {minutes:.0f} min")
        if what == "end":
            from resnext.paper.study_results import collect_rows, write_rows

            write_rows(self.results / "study-cardinality.csv", collect_rows(self.planned, self.runs, self.given))


def write_results(
    planned: Sequence[StudyRun], runs: Path, results: Path, given: Mapping[str, Any], console: "Console"
) -> None:
    """Write the CSV and the plots of the finished runs, and print the tables."""
    from resnext.paper.study_plots import plot_curves, plot_errors
    from resnext.paper.study_results import collect_rows, read_rows, write_rows
    from resnext.paper.study_runs import open_study_run, read_state
    from resnext.plotting import save_figure

    path = results / "study-cardinality.csv"
    write_rows(path, collect_rows(planned, runs, given))
    for data in DATA:
        rows = [row for row in read_rows(path) if row["data"] == data]
        if not rows:
            continue
        print_tables(console, rows, data)
        save_figure(plot_errors(rows, data), results / f"study-cardinality-{data}.png")
        opened: dict[str, list[Any]] = {}
        for one in planned:
            if one.data == data and read_state(one, runs).is_finished:
                opened.setdefault(one.network.label, []).append(open_study_run(one, runs))
        if opened:
            save_figure(plot_curves(opened, data), results / f"study-cardinality-{data}-curves.png")
    console.print(str(path))


def print_tables(console: "Console", rows: Sequence[Mapping[str, Any]], data: str) -> None:
    """Print the means of each study on a data set, and the paired differences."""
    from rich.table import Table

    from resnext.paper.study_results import compare, describe_network

    for study, title in STUDIES.items():
        table = Table(box=None, header_style="bold", title=f"{data}: {title}", title_justify="left", title_style="bold")
        for heading in HEADINGS:
            table.add_column(heading, justify="left" if heading == "network" else "right")
        for network in NETWORKS:
            words = describe_network(rows, network) if network.study == study else None
            if words is not None:
                table.add_row(*words)
        if table.row_count:
            console.print(table)
    table = Table(box=None, header_style="bold", title="Differences of test error, in points, on the same seeds",
                  title_justify="left", title_style="bold")  # fmt: skip
    for heading in ("network", "minus", "difference [95 % interval]", "seeds"):
        table.add_column(heading)
    for one in compare(rows):
        table.add_row(one.first, one.second, one.words, str(len(one.differences)))
    if table.row_count:
        console.print(table)
