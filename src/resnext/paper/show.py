"""``resnext paper table3``: print the table, and write it as CSV and picture."""

from pathlib import Path
from typing import TYPE_CHECKING

from resnext.paper.curve_plots import collect_curve_rows
from resnext.paper.entries import collect_timed_entries, measure_timings
from resnext.paper.numbers import Table
from resnext.paper.output import check_out_files, write_files
from resnext.paper.plots import plot_table
from resnext.paper.sheet import curves_csv, print_table, table_csv
from resnext.plotting import encode_figure

if TYPE_CHECKING:
    from rich.console import Console


def show_table(
    console: "Console", table: Table, runs: Path, results: Path, out: Path, *, measure: str = "missing"
) -> None:
    """Print ``table`` filled in and write NAME.csv, NAME.png, NAME.svg (and NAME-curves.csv) into ``out``.

    ``measure`` says which networks are timed on this machine: those ``missing``, all ``again``, or ``none``. Raises
    RequestError, before anything is timed, where ``out`` cannot be written or holds files of these names that are not
    ours.
    """
    with_curves = any(row.curve for row in table.rows)
    check_out_files(
        out, [table.name + end for end in (".csv", ".png", ".svg", "-curves.csv")[: 4 if with_curves else 3]]
    )
    entries = collect_timed_entries(
        table, runs, results, None if measure == "none" else _timings(table, measure == "again")
    )
    picture = plot_table(table, entries)
    files = {
        f"{table.name}.csv": table_csv(table, entries),
        f"{table.name}.png": encode_figure(picture),
        f"{table.name}.svg": encode_figure(picture, "svg"),
    }
    if with_curves:
        at = "epoch" if table.name == "figure5" else "minibatches"
        files[f"{table.name}-curves.csv"] = curves_csv(collect_curve_rows(table, entries), at)
    write_files(out, files)
    print_table(console, table, entries)
    if any(entry.speed is None for entry in entries if entry.architecture):
        console.print("images/s that were never timed here are empty: leave --no-measure out", style="dim")
    console.print(f"written: {', '.join(str(out / name) for name in files)}", highlight=False, soft_wrap=True)


def _timings(table: Table, again: bool) -> dict[str, float]:
    """Timings with a bar on the terminal while they are taken."""
    from rich.progress import BarColumn, Progress, TextColumn

    from resnext.screen import make_screen

    terminal = make_screen(stderr=True)
    columns = (TextColumn("timing networks on this machine, once"), BarColumn())
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as bar:
        task = bar.add_task("timing", total=None)
        return measure_timings(table, lambda done, total: bar.update(task, completed=done, total=total), again)
