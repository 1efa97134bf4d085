"""An entry a line: the table on the screen, and the same as CSV."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from resnext.paper.entries import Entry
from resnext.paper.numbers import Column, Table
from resnext.paper.throughput import BATCH

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as Grid

NONE = "–"
SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
CLAIMED = {  # claim -> heading, unit in which it is shown
    "parameters": ("parameters", "M"),
    "macs": ("MACs", "G"),
    "block_parameters": ("block", "k"),
    "block_macs": ("block MACs", "G"),
}
WORDS = ("row", "network", "data", "state")  # columns of text
SIZE = {"k": 1e3, "M": 1e6, "G": 1e9}


@dataclass
class Sheet:
    """A table as text: headings of two lines, cells, and footnotes in order."""

    headings: list[tuple[str, str]] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def mark(self, note: str) -> str:
        """The superscript of a footnote, added where it is new."""
        if note not in self.notes:
            self.notes.append(note)
        return str(self.notes.index(note) + 1).translate(SUPERSCRIPT)


def make_sheet(table: Table, entries: list[Entry]) -> Sheet:
    """The table with the paper's value and ours side by side."""
    sheet = Sheet()
    claims = [what for what in CLAIMED if any(what in entry.row.claims for entry in entries)]
    timed = any(entry.training_speed for entry in entries) or table.name == "timing"
    has_recipes = any(entry.row.recipe for entry in entries)
    sheet.headings = [("row", ""), ("network", "")]
    if any(entry.row.data for entry in entries):
        sheet.headings.append(("data", ""))
    for column in table.columns:
        sheet.headings += [(_with_unit(column), "paper"), ("", "solved" if table.name == "table2" else "measured")]
    for what in claims:
        heading, unit = CLAIMED[what]
        sheet.headings += [(f"{heading}, {unit}", "paper"), ("", "counted")]
    sheet.headings += [("with BN", "M")] if "parameters" in claims else [("parameters", "M"), ("without BN", "M")]
    sheet.headings += [] if "macs" in claims else [("MACs", "G")]
    sheet.headings += [("activations", "M"), ("images/s", "here")]
    sheet.headings += [("training", "images/s here")] if timed else []
    sheet.headings += [("state", "")] if has_recipes else []
    for entry in entries:
        sheet.rows.append(_cells(sheet, table, entry, claims, timed, has_recipes))
    return sheet


def _cells(sheet: Sheet, table: Table, entry: Entry, claims: list[str], timed: bool, has_recipes: bool) -> list[str]:
    row, cost = entry.row, entry.cost
    foreign = "" if row.family is None else sheet.mark("Not of the ResNeXt family: published numbers only.")
    cells = [row.key, row.name + foreign]
    if any("data" in heading for heading, _ in sheet.headings):
        cells.append(row.data or "")
    for column in table.columns:
        cells += [published_text(entry, column), _measured_text(sheet, entry, column)]
    for what in claims:
        count, unit = entry.counted(what), CLAIMED[what][1]
        note = sheet.mark(row.note) if row.note and what in entry.differs() else ""
        said = row.claims.get(what, NONE).partition(" ")[0]
        cells += [said, NONE if count is None else f"{count / SIZE[unit]:.{0 if unit == 'k' else 2}f}{note}"]
    if cost is None:
        cells += [NONE] * (1 if "parameters" in claims else 2)
    else:
        with_bn, without = f"{cost.parameters / 1e6:.2f}", f"{cost.parameters_without_bn / 1e6:.2f}"
        cells += [with_bn] if "parameters" in claims else [with_bn, without]
    cells += [] if "macs" in claims else [NONE if cost is None else f"{cost.macs / 1e9:.2f}"]
    cells += [NONE if cost is None else f"{cost.activations / 1e6:.2f}", _speed(entry.speed)]
    cells += [_speed(entry.training_speed)] if timed else []
    cells += [state_text(entry)] if has_recipes else []
    return cells


def published_text(entry: Entry, column: Column) -> str:
    """``23.9``, or ``3.654 ± 0.041`` with its standard error."""
    value = entry.row.published.get(column.key)
    if value is None:
        return NONE
    error = entry.row.errors.get(column.key)
    return f"{value:.{column.decimals}f}" + (f" ± {error:.{column.decimals}f}" if error is not None else "")


def _measured_text(sheet: Sheet, entry: Entry, column: Column) -> str:
    solved = entry.solved(column)
    if solved is not None:
        return str(solved)
    value = entry.measurement.value(column) if entry.measurement else None
    if value is None:
        return NONE
    if value.is_changed:
        sheet.mark("≠: the runs differ from the recipe; resnext paper status says in what.")
    return value.text(column.decimals)


def state_text(entry: Entry) -> str:
    """``missing``, ``finished``, or ``running, epoch 43 of 100``."""
    found = entry.measurement
    if found is None:
        return NONE
    if found.state in ("running", "stopped"):
        run = max((r for r in found.runs if r.state == found.state), key=lambda r: r.step)
        return f"{found.state}, {run.progress}"
    return found.state


def _speed(value: float | None) -> str:
    return NONE if value is None else f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def _with_unit(column: Column) -> str:
    return f"{column.heading}, {column.unit}" if column.unit not in ("", "%") else column.heading


def print_table(console: "Console", table: Table, entries: list[Entry]) -> None:
    """The table, its source, footnotes and remarks."""
    sheet = make_sheet(table, entries)
    console.print(table.title, style="bold")
    console.print(table.source, style="dim")
    for grid in _grids(sheet, console):
        console.print()
        console.print(grid)
    console.print()
    for number, note in enumerate(sheet.notes, 1):
        console.print(f"{str(number).translate(SUPERSCRIPT)} {note}", highlight=False, soft_wrap=True)
    for remark in table.remarks:
        console.print(remark, highlight=False, soft_wrap=True)
    console.print(
        "errors in %; the paper's parameters are those without BN, its FLOPs multiply-adds; images/s: fp32, "
        f"batches of {BATCH}, this machine",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )


def _grids(sheet: Sheet, console: "Console") -> list["Grid"]:
    """The table in one piece, or where the terminal is too narrow in two: what was measured, and what it costs."""
    every = list(range(len(sheet.headings)))
    whole = _grid(sheet, every)
    if console.measure(whole, options=console.options.update(max_width=10_000)).maximum <= console.width:
        return [whole]
    cut = next(i for i in every if sheet.headings[i][0].startswith(("parameters", "block", "MACs", "with BN")))
    states = [i for i in every if sheet.headings[i][0] == "state"]
    results = [i for i in every if i < cut and sheet.headings[i][0] != "network"] + states
    return [_grid(sheet, results), _grid(sheet, [0, *(i for i in every if i >= cut and i not in states)])]


def _grid(sheet: Sheet, columns: list[int]) -> "Grid":
    from rich.table import Table as Grid

    grid = Grid(box=None, header_style="bold", padding=(0, 1))
    for first, second in (sheet.headings[i] for i in columns):
        grid.add_column(f"{first}\n{second}", justify="left" if first in WORDS else "right", no_wrap=first in WORDS)
    for cells in sheet.rows:
        grid.add_row(*(cells[i] for i in columns))
    return grid


def table_csv(table: Table, entries: list[Entry]) -> bytes:
    """Every number of the table at full precision, a row a line."""
    lines = [_line(table, entry) for entry in entries]
    return _csv(list(lines[0]), lines)


def _line(table: Table, entry: Entry) -> dict[str, Any]:
    row, cost = entry.row, entry.cost
    line: dict[str, Any] = {"row": row.key, "network": row.label, "setting": row.setting, "data": row.data}
    for column in table.columns:
        line[f"{column.key}_paper"] = row.published.get(column.key)
        line[f"{column.key}_paper_standard_error"] = row.errors.get(column.key)
        solved, value = entry.solved(column), entry.measurement.value(column) if entry.measurement else None
        line[f"{column.key}_here"] = solved if value is None else value.mean
        line[f"{column.key}_here_deviation"] = None if value is None else value.deviation
        line[f"{column.key}_here_runs"] = None if value is None else value.count
    for what in row.claims:
        line[f"{what}_paper"] = row.claims[what]
        line[f"{what}_counted"] = entry.counted(what)
    line |= {
        "parameters": cost.parameters if cost else None,
        "parameters_without_bn": cost.parameters_without_bn if cost else None,
        "macs": cost.macs if cost else None,
        "activations": cost.activations if cost else None,
        "images_per_second": entry.speed,
        "training_images_per_second": entry.training_speed,
        "state": state_text(entry) if entry.measurement else None,
        "recipe": row.recipe,
        "note": row.note,
    }
    return line


def curves_csv(rows: Iterable[tuple[str, str, str, float, float]], at: str) -> bytes:
    """Curves as (who, curve, split, at, error) lines."""
    names = ("who", "network", "split", at, "error")
    return _csv(list(names), [dict(zip(names, row, strict=True)) for row in rows])


def _csv(columns: list[str], lines: Iterable[dict[str, Any]]) -> bytes:
    lines = list(lines)
    names = list(dict.fromkeys([*columns, *(key for line in lines for key in line)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue().encode()
