"""``resnext paper table3``: print a table with measured values beside the printed ones; write it as CSV and plot."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnext.errors import RequestError
from resnext.files import atomic_write, check_folder, report_write_errors
from resnext.paper.curve_plots import collect_curve_rows
from resnext.paper.entries import NONE, UNITS, Entry, collect_timed_entries, list_timings
from resnext.paper.numbers import Column, Table
from resnext.paper.plots import plot_table
from resnext.paper.throughput import BATCH, measure_throughputs
from resnext.plotting import encode_figure

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as Grid

FIRST_COLUMNS = ("row", "network", "setting", "data")  # of every CSV: tells that a file is ours
SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
CLAIMED = {  # claim -> heading, unit in which it is shown
    "parameters": ("parameters", "M"),
    "macs": ("MACs", "G"),
    "block_parameters": ("block", "k"),
    "block_macs": ("block MACs", "G"),
}
WORDS = ("row", "network", "data", "state")  # columns of text


def show_table(
    console: "Console", table: Table, runs: Path, results: Path, out: Path, *, measure: str = "missing"
) -> None:
    """Print ``table`` and write NAME.csv, NAME.png, NAME.svg (and NAME-curves.csv) into ``out``.

    ``measure`` says which networks to time on this machine: those ``missing``, all ``again``, or ``none``. Raises
    RequestError, before the work, if ``out`` cannot be written or holds files of these names of another origin.
    """
    check_output(out, table.name)
    speeds = None if measure == "none" else _measure_timings(table, measure == "again")
    entries = collect_timed_entries(table, runs, results, speeds)
    picture = plot_table(table, entries)
    files = {
        f"{table.name}.csv": format_table_csv(table, entries),
        f"{table.name}.png": encode_figure(picture),
        f"{table.name}.svg": encode_figure(picture, "svg"),
    }
    if any(row.curve for row in table.rows):
        at = "epoch" if table.name == "figure5" else "minibatches"
        files[f"{table.name}-curves.csv"] = format_curves_csv(collect_curve_rows(table, entries), at)
    with report_write_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        with atomic_write(out / name) as file:
            file.write(data)
    print_table(console, table, entries)
    if any(entry.speed is None for entry in entries if entry.architecture):
        console.print("images/s that were never timed here are empty: leave --no-measure out", style="dim")
    console.print(f"written: {', '.join(str(out / name) for name in files)}", highlight=False, soft_wrap=True)


def check_output(folder: Path, name: str) -> None:
    """Check that a table can be written. Raises RequestError if not, or if its files there are not ours."""
    check_folder(folder, "--out")
    there = [path for end in (".csv", "-curves.csv", ".png", ".svg") if (path := folder / f"{name}{end}").exists()]
    if there and not _is_table(folder / f"{name}.csv"):
        raise RequestError(f"{there[0]} exists and was not written by resnext; give another folder with --out")


def _is_table(path: Path) -> bool:
    """Return whether a file begins as the CSV of a table does."""
    start = (",".join(FIRST_COLUMNS) + ",").encode()
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(start)) == start


def _measure_timings(table: Table, again: bool) -> dict[str, float]:
    """Time the networks of a table that are not in the cache, or ``again`` all, with a progress bar on the terminal."""
    from rich.progress import BarColumn, Progress, TextColumn

    from resnext.screen import make_screen

    terminal = make_screen(stderr=True)
    columns = (TextColumn("timing networks on this machine, once"), BarColumn())
    with Progress(*columns, console=terminal, transient=True, disable=not terminal.is_terminal) as bar:
        task = bar.add_task("timing", total=None)
        wanted = [timing for row in table.rows for timing in list_timings(row, table)]
        return measure_throughputs(
            wanted, progress=lambda done, total: bar.update(task, completed=done, total=total), force=again
        )


@dataclass
class Sheet:
    """A table as text: headings of two lines, cells, and footnotes in order."""

    headings: list[tuple[str, str]]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add_note(self, note: str) -> str:
        """Return the superscript of a footnote, which is added if it is new."""
        if note not in self.notes:
            self.notes.append(note)
        return str(self.notes.index(note) + 1).translate(SUPERSCRIPT)


def make_sheet(table: Table, entries: list[Entry]) -> Sheet:
    """Make the table, with the paper's value and ours side by side."""
    claims = [what for what in CLAIMED if any(what in entry.row.claims for entry in entries)]
    timed = any(entry.training_speed for entry in entries) or table.name == "timing"
    has_recipes = any(entry.row.recipe for entry in entries)
    sheet = Sheet([("row", ""), ("network", "")])
    if any(entry.row.data for entry in entries):
        sheet.headings.append(("data", ""))
    for column in table.columns:
        sheet.headings += [(_add_unit(column), "paper"), ("", "solved" if table.name == "table2" else "measured")]
    for what in claims:
        heading, unit = CLAIMED[what]
        sheet.headings += [(f"{heading}, {unit}", "paper"), ("", "counted")]
    sheet.headings += [("with BN", "M")] if "parameters" in claims else [("parameters", "M"), ("without BN", "M")]
    sheet.headings += [] if "macs" in claims else [("MACs", "G")]
    sheet.headings += [("activations", "M"), ("images/s", "here")]
    sheet.headings += [("training", "images/s here")] if timed else []
    sheet.headings += [("state", "")] if has_recipes else []
    for entry in entries:
        sheet.rows.append(_make_cells(sheet, table, entry, claims, timed, has_recipes))
    return sheet


def _make_cells(
    sheet: Sheet, table: Table, entry: Entry, claims: list[str], timed: bool, has_recipes: bool
) -> list[str]:
    row, cost = entry.row, entry.cost
    foreign = "" if row.family is None else sheet.add_note("Not of the ResNeXt family: published numbers only.")
    cells = [row.key, row.name + foreign]
    if any("data" in heading for heading, _ in sheet.headings):
        cells.append(row.data or "")
    for column in table.columns:
        cells += [entry.format_published(column), _format_measured(sheet, entry, column)]
    for what in claims:
        count, unit = entry.count(what), CLAIMED[what][1]
        note = sheet.add_note(row.note) if row.note and what in entry.list_wrong_claims() else ""
        said = row.claims.get(what, NONE).partition(" ")[0]
        cells += [said, NONE if count is None else f"{count / UNITS[unit]:.{0 if unit == 'k' else 2}f}{note}"]
    counts = [] if cost is None else [cost.parameters / 1e6, cost.parameters_without_bn / 1e6, cost.macs / 1e9]
    with_bn, without_bn, macs = [f"{count:.2f}" for count in counts] or [NONE] * 3
    cells += [with_bn] if "parameters" in claims else [with_bn, without_bn]
    cells += [] if "macs" in claims else [macs]
    cells += [NONE if cost is None else f"{cost.activations / 1e6:.2f}", _format_speed(entry.speed)]
    cells += [_format_speed(entry.training_speed)] if timed else []
    cells += [entry.format_state()] if has_recipes else []
    return cells


def _format_measured(sheet: Sheet, entry: Entry, column: Column) -> str:
    solved = entry.solve_width(column)
    if solved is not None:
        return str(solved)
    value = entry.measurement.value(column) if entry.measurement else None
    if value is None:
        return NONE
    if value.is_changed:
        sheet.add_note("≠: the runs differ from the recipe; resnext paper status says in what.")
    return value.text(column.decimals)


def _format_speed(value: float | None) -> str:
    return NONE if value is None else f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def _add_unit(column: Column) -> str:
    return f"{column.heading}, {column.unit}" if column.unit not in ("", "%") else column.heading


def print_table(console: "Console", table: Table, entries: list[Entry]) -> None:
    """Print the table, its source, footnotes and remarks."""
    sheet = make_sheet(table, entries)
    console.print(table.title, style="bold")
    console.print(table.source, style="dim")
    for grid in _make_grids(sheet, console):
        console.print()
        console.print(grid)
    console.print()
    for number, note in enumerate(sheet.notes, 1):
        console.print(f"{str(number).translate(SUPERSCRIPT)} {note}", highlight=False, soft_wrap=True)
    for remark in table.remarks:
        console.print(remark, highlight=False, soft_wrap=True)
    units = (
        "errors in %; the paper's parameters are those without BN, its FLOPs multiply-adds; images/s: fp32, "
        f"batches of {BATCH}, this machine"
    )
    console.print(units, style="dim", highlight=False, soft_wrap=True)


def _make_grids(sheet: Sheet, console: "Console") -> list["Grid"]:
    """Make one grid, or two if the terminal is too narrow: what was measured, and what it costs."""
    every = list(range(len(sheet.headings)))
    whole = _make_grid(sheet, every)
    if console.measure(whole, options=console.options.update(max_width=10_000)).maximum <= console.width:
        return [whole]
    cut = next(i for i in every if sheet.headings[i][0].startswith(("parameters", "block", "MACs", "with BN")))
    states = [i for i in every if sheet.headings[i][0] == "state"]
    results = [i for i in every if i < cut and sheet.headings[i][0] != "network"] + states
    return [_make_grid(sheet, results), _make_grid(sheet, [0, *(i for i in every if i >= cut and i not in states)])]


def _make_grid(sheet: Sheet, columns: list[int]) -> "Grid":
    from rich.table import Table as Grid

    grid = Grid(box=None, header_style="bold", padding=(0, 1))
    for first, second in (sheet.headings[i] for i in columns):
        grid.add_column(f"{first}\n{second}", justify="left" if first in WORDS else "right", no_wrap=first in WORDS)
    for cells in sheet.rows:
        grid.add_row(*(cells[i] for i in columns))
    return grid


def format_table_csv(table: Table, entries: list[Entry]) -> bytes:
    """Format every number of the table at full precision."""
    return _format_csv([_make_line(table, entry) for entry in entries])


def _make_line(table: Table, entry: Entry) -> dict[str, Any]:
    row, cost = entry.row, entry.cost
    line: dict[str, Any] = dict(zip(FIRST_COLUMNS, (row.key, row.label, row.setting, row.data), strict=True))
    for column in table.columns:
        line[f"{column.key}_paper"] = row.published.get(column.key)
        line[f"{column.key}_paper_standard_error"] = row.errors.get(column.key)
        solved, value = entry.solve_width(column), entry.measurement.value(column) if entry.measurement else None
        line[f"{column.key}_here"] = solved if value is None else value.mean
        line[f"{column.key}_here_deviation"] = None if value is None else value.deviation
        line[f"{column.key}_here_runs"] = None if value is None else value.count
    for what in row.claims:
        line[f"{what}_paper"] = row.claims[what]
        line[f"{what}_counted"] = entry.count(what)
    line |= {
        "parameters": cost.parameters if cost else None,
        "parameters_without_bn": cost.parameters_without_bn if cost else None,
        "macs": cost.macs if cost else None,
        "activations": cost.activations if cost else None,
        "images_per_second": entry.speed,
        "training_images_per_second": entry.training_speed,
        "state": entry.format_state() if entry.measurement else None,
        "recipe": row.recipe,
        "note": row.note,
    }
    return line


def format_curves_csv(rows: Iterable[tuple[str, str, str, float, float]], at: str) -> bytes:
    """Format curves as (who, curve, split, at, error) lines."""
    names = ("who", "network", "split", at, "error")
    return _format_csv([dict(zip(names, row, strict=True)) for row in rows], names)


def _format_csv(lines: Sequence[dict[str, Any]], columns: Sequence[str] = ()) -> bytes:
    names = list(dict.fromkeys([*columns, *(key for line in lines for key in line)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue().encode()
