"""``resnext paper status``: every number that a run can measure, beside the paper's."""

from pathlib import Path
from typing import TYPE_CHECKING

from resnext.paper.entries import Entry, collect_entries
from resnext.paper.measurements import Measurement
from resnext.paper.numbers import Column, Table, load_tables
from resnext.paper.sheet import NONE, published_text, state_text

if TYPE_CHECKING:
    from rich.console import Console

STYLES = {"finished": "green", "running": "yellow", "stopped": "red", "missing": "dim"}


def print_status(console: "Console", runs: Path, results: Path | None) -> None:
    """A line a row of every table with recipes; then what is to be said of the runs that are there."""
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
            state = Text(state_text(entry), style=STYLES[entry.measurement.state])
            name = Text(table.name if number == 0 else "", style="bold")
            grid.add_row(name, entry.row.key, str(entry.row.recipe), *_cells(table, entry), state)
    console.print(grid)
    console.print()
    for line in [*_remarks(list(found.values())), *_summary(list(found.values()), runs)]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _cells(table: Table, entry: Entry) -> tuple[str, str, str]:
    """Paper, measured, difference: of the columns that a run measures."""
    columns = [c for c in table.columns if c.measured and c.key in entry.row.published]
    if not columns:
        return NONE, NONE, NONE
    cells = [(published_text(entry, c).partition(" ")[0], *_ours(entry, c)) for c in columns]
    paper, ours, difference = (" / ".join(cell) for cell in zip(*cells, strict=True))
    nothing = all(cell[1] == NONE for cell in cells)
    return paper, NONE if nothing else ours, NONE if nothing else difference


def _ours(entry: Entry, column: Column) -> tuple[str, str]:
    value = entry.measurement.value(column) if entry.measurement else None
    if value is None:
        return NONE, NONE
    return value.text(column.decimals), f"{value.mean - entry.row.published[column.key]:+.{column.decimals}f}"


def _remarks(measurements: list[Measurement]) -> list[str]:
    """Damaged runs, runs that stopped, runs that are not the recipe's."""
    lines = []
    for measurement in measurements:
        lines += list(measurement.damaged)
        for run in measurement.runs:
            if run.state != "finished":
                since = f"last sign of life {_ago(run.silent_seconds)} ago"
                lines.append(f"{run.path}: {run.state}, {run.progress}; {since}")
            if run.differences:
                lines.append(f"{run.path} ≠ its recipe (recipe -> run): {'; '.join(run.differences)}")
    return lines


def _summary(measurements: list[Measurement], runs: Path) -> list[str]:
    states = [measurement.state for measurement in measurements]
    counts = ", ".join(f"{states.count(state)} {state}" for state in STYLES)
    return [
        f"{len(states)} recipes below {runs}: {counts}",
        'fill a row with: resnext paper run table3 --row "32x4d/50" --data.path IMAGENET',
    ]


def _ago(seconds: float) -> str:
    for size, word in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {word}"
    return f"{seconds:.0f} seconds"
