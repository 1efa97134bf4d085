"""``resnext paper status``: print every number that a run can measure, beside the paper's."""

from pathlib import Path
from typing import TYPE_CHECKING

from resnext.paper.entries import NONE, Entry, collect_entries
from resnext.paper.measurements import Measurement
from resnext.paper.numbers import Column, Table, load_tables

if TYPE_CHECKING:
    from rich.console import Console

STYLES = {"finished": "green", "running": "yellow", "stopped": "red", "missing": "dim"}


def print_status(console: "Console", runs: Path, results: Path | None) -> None:
    """Print one line per row of every table with recipes, then remarks on the runs found."""
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid("", "row", "recipe", box=None, header_style="bold", padding=(0, 1))
    for heading in ("paper", "measured", "difference"):
        grid.add_column(heading, justify="right", no_wrap=True)
    grid.add_column("state", no_wrap=True)
    found: dict[str, Measurement] = {}
    for table in load_tables().values():
        entries = [entry for entry in collect_entries(table, runs, results) if entry.measurement is not None]
        for number, entry in enumerate(entries):
            assert entry.measurement is not None
            found[entry.measurement.recipe] = entry.measurement
            state = Text(entry.format_state(), style=STYLES[entry.measurement.state])
            name = Text(table.name if number == 0 else "", style="bold")
            grid.add_row(name, entry.row.key, str(entry.row.recipe), *_make_cells(table, entry), state)
    console.print(grid)
    console.print()
    for line in [*_list_remarks(list(found.values())), *_summarize(list(found.values()), runs)]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _make_cells(table: Table, entry: Entry) -> tuple[str, str, str]:
    """Format the printed and measured values and their difference, for the columns that a run measures."""
    columns = [c for c in table.columns if c.measured and c.key in entry.row.published]
    if not columns:
        return NONE, NONE, NONE
    cells = [(entry.format_published(c).partition(" ")[0], *_format_measured(entry, c)) for c in columns]
    paper, ours, difference = (" / ".join(cell) for cell in zip(*cells, strict=True))
    nothing = all(cell[1] == NONE for cell in cells)
    return paper, NONE if nothing else ours, NONE if nothing else difference


def _format_measured(entry: Entry, column: Column) -> tuple[str, str]:
    value = entry.measurement.value(column) if entry.measurement else None
    if value is None:
        return NONE, NONE
    return value.text(column.decimals), f"{value.mean - entry.row.published[column.key]:+.{column.decimals}f}"


def _list_remarks(measurements: list[Measurement]) -> list[str]:
    """Describe damaged runs, unfinished runs, and runs that differ from their recipe."""
    lines = []
    for measurement in measurements:
        lines += list(measurement.damaged)
        for run in measurement.runs:
            if run.state != "finished":
                since = f"last sign of life {_format_duration(run.silent_seconds)} ago"
                lines.append(f"{run.path}: {run.state}, {run.progress}; {since}")
            if run.differences:
                lines.append(f"{run.path} ≠ its recipe (recipe -> run): {'; '.join(run.differences)}")
    return lines


def _summarize(measurements: list[Measurement], runs: Path) -> list[str]:
    states = [measurement.state for measurement in measurements]
    counts = ", ".join(f"{states.count(state)} {state}" for state in STYLES)
    return [
        f"{len(states)} recipes below {runs}: {counts}",
        'fill a row with: resnext paper run table3 --row "32x4d/50" --data.path IMAGENET',
    ]


def _format_duration(seconds: float) -> str:
    for size, word in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {word}"
    return f"{seconds:.0f} seconds"
