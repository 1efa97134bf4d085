"""Plot every table and figure: the paper's numbers as filled marks, measured numbers as rings or strong lines."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from resnext.model.stage_table import StageRow, build_stage_table
from resnext.paper.curve_plots import plot_error_curves, plot_error_over_parameters
from resnext.paper.entries import Entry
from resnext.paper.numbers import Column, Table
from resnext.plotting import (
    BLUE,
    FAINT,
    INK,
    MUTED,
    PALE_BLUE,
    PALE_RED,
    PAPER,
    RED,
    add_title,
    create_figure,
    draw_grid,
    plot_style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEGEND_MEASURED, LEGEND_PUBLISHED = "Filled: as published; ring: measured here", "As published"
TEXT_BACKGROUND: dict[str, Any] = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.8}  # where a line may cross text
ROW_HEIGHT, PANEL_WIDTH, LETTER_WIDTH = 0.33, 2.2, 0.073  # inches


def plot_table(table: Table, entries: list[Entry]) -> "Figure":
    """Plot a table or figure."""
    special = {
        "table1": plot_stages,
        "table2": plot_width_tradeoff,
        "table3": plot_by_cardinality,
        "figure5": plot_error_curves,
        "figure6": plot_error_curves,
        "figure7": plot_error_over_parameters,
        "timing": plot_timing,
    }
    return special.get(table.name, plot_dots)(table, entries)


def plot_dots(table: Table, entries: list[Entry]) -> "Figure":
    """Plot one line per row and one panel per column, each panel on its own scale."""
    columns = [c for c in table.columns if any(c.key in e.row.published for e in entries)]
    groups = list(dict.fromkeys(entry.row.data for entry in entries))
    panels = [(column, group) for group in groups for column in columns]
    most = max(sum(e.row.data == group for e in entries) for group in groups)
    labels = 0.35 + LETTER_WIDTH * max(len(entry.row.name) for entry in entries)
    top = 0.62 if groups == [None] else 0.85
    width, height = labels + PANEL_WIDTH * max(len(panels), 2) + 0.25, top + 0.5 + ROW_HEIGHT * most
    with plot_style():
        figure = create_figure(width, height)
        add_title(figure, table.title, LEGEND_MEASURED if _has_measurements(entries, columns) else LEGEND_PUBLISHED)
        for number, (column, group) in enumerate(panels):
            rows = [entry for entry in entries if entry.row.data == group]
            left = labels + (width - labels - 0.25) * number / len(panels)
            wide = (width - labels - 0.25) / len(panels) - 0.22
            axes = figure.add_axes((left / width, 0.52 / height, wide / width, ROW_HEIGHT * most / height))
            _draw_dot_panel(axes, rows, column, group, names=number == 0)
    return figure


def _draw_dot_panel(axes: "Axes", entries: list[Entry], column: Column, group: str | None, *, names: bool) -> None:
    best = _find_best(entries, column)
    for y, entry in enumerate(entries):
        axes.axhline(y, color=FAINT, linewidth=0.8, zorder=0)
        value = entry.row.published.get(column.key)
        colour = RED if _is_resnext(entry) else BLUE if entry.architecture else MUTED
        if value is not None:
            axes.plot(value, y, "o", color=colour, markersize=6.5)
            bold = "bold" if value == best else "normal"
            text = f"{value:.{column.decimals}f}"
            axes.annotate(text, (value, y), (0, 5.5), textcoords="offset points", ha="center", fontsize=7.5,
                          color=INK, fontweight=bold)  # fmt: skip
        _draw_ring(axes, entry, column, y, colour)
    axes.set(ylim=(len(entries) - 0.5, -0.75), xlabel=f"{column.heading}{' (%)' if column.unit == '%' else ''}")
    axes.margins(x=0.16)
    labels = [entry.row.name for entry in entries]
    axes.set_yticks(range(len(entries)), labels if names else [""] * len(entries))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    if group:
        axes.set_title(group, fontsize=9, loc="left", color=MUTED, pad=5)


def _draw_ring(axes: "Axes", entry: Entry, column: Column, at: float, colour: str, *, vertical: bool = False) -> None:
    """Draw a measured value at the position ``at`` of the other axis: y, or x if the values are vertical."""
    value = entry.measurement.value(column) if entry.measurement else None
    if value is not None:
        x, y = (at, value.mean) if vertical else (value.mean, at)
        xerr, yerr = (None, value.deviation) if vertical else (value.deviation, None)
        axes.errorbar(x, y, yerr, xerr, fmt="o", markersize=9,
                      markerfacecolor="none", markeredgecolor=colour, markeredgewidth=1.6, ecolor=colour,
                      elinewidth=1.2)  # fmt: skip


def plot_by_cardinality(table: Table, entries: list[Entry]) -> "Figure":
    """Plot Table 3: error over cardinality from 1 to 32, one line per depth."""
    column = table.columns[0]
    with plot_style():
        figure = create_figure(6.6, 4.2)
        seen = LEGEND_MEASURED if _has_measurements(entries, [column]) else LEGEND_PUBLISHED
        add_title(figure, f"{table.title} at preserved complexity", f"ImageNet-1K, single crop 224. {seen}")
        axes = figure.add_axes((0.09, 0.125, 0.75, 0.71))
        settings = list(dict.fromkeys(entry.row.setting for entry in entries))
        for depth, colour in ((50, BLUE), (101, RED)):
            line = [entry for entry in entries if entry.architecture is not None and entry.architecture.depth == depth]
            errors = [entry.row.published[column.key] for entry in line]
            at = [settings.index(entry.row.setting) for entry in line]
            axes.plot(at, errors, "-o", color=colour, linewidth=1.6, markersize=6)
            for x, error in zip(at, errors, strict=True):
                axes.annotate(f"{error:.1f}", (x, error), (0, -14), textcoords="offset points", ha="center", fontsize=8)
            axes.annotate(f"{depth} layers\n~{line[0].row.claims['macs']}MACs", (at[-1], errors[-1]), (14, 0),
                          textcoords="offset points", va="center", color=colour, fontweight="bold")  # fmt: skip
            for x, entry in zip(at, line, strict=True):
                _draw_ring(axes, entry, column, x, colour, vertical=True)
        axes.set_xticks(range(len(settings)), settings)
        axes.set(xlabel="cardinality × bottleneck width", ylabel="top-1 error (%)")
        axes.margins(x=0.04, y=0.14)
        draw_grid(axes)
    return figure


def plot_stages(table: Table, entries: list[Entry]) -> "Figure":
    """Plot Table 1: parameters and multiply-adds of each stage of the two networks."""
    with plot_style():
        figure = create_figure(7.6, 3.9)
        said = ", ".join(f"{e.row.label}: {e.row.claims['parameters']}, {e.row.claims['macs']}" for e in entries)
        add_title(figure, table.title, f"Counted stage by stage. The paper's totals: {said}FLOPs")
        named = [(e, build_stage_table(e.architecture)) for e in entries if e.architecture is not None]
        panels: tuple[tuple[str, str, float], ...] = (("parameters (M)", "parameters", 1e6), ("MACs (G)", "macs", 1e9))
        for number, (heading, what, unit) in enumerate(panels):
            axes = figure.add_axes((0.085 + 0.49 * number, 0.13, 0.4, 0.66))
            _draw_stage_bars(axes, named, what, unit)
            axes.set_xlabel(heading)
            if number == 0:
                axes.legend(loc="upper right", fontsize=8.5)
    return figure


def _draw_stage_bars(axes: "Axes", named: Sequence[tuple[Entry, list[StageRow]]], what: str, unit: float) -> None:
    colours = (BLUE, RED)
    for i, (entry, rows) in enumerate(named):
        values = [getattr(row, what) / unit for row in rows]
        at = [y + 0.38 * (i - 0.5) for y in range(len(rows))]
        total = sum(values)
        axes.barh(at, values, 0.36, color=colours[i], label=f"{entry.row.label} {entry.row.setting}")
        for y, value in zip(at, values, strict=True):
            axes.annotate(f"{value:.2f}", (value, y), (4, 0), textcoords="offset points", va="center", fontsize=7.5)
        axes.text(1.0, 0.06 + 0.075 * (1 - i), f"total {total:.2f}", transform=axes.transAxes, ha="right",
                  color=colours[i], fontweight="bold")  # fmt: skip
    axes.set_yticks(range(len(named[0][1])), [row.stage or "fc" for row in named[0][1]])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.tick_params(axis="y", length=0)


def plot_width_tradeoff(table: Table, entries: list[Entry]) -> "Figure":
    """Plot Table 2: d falls and C·d grows as C rises, while the parameters of the block stay constant."""
    with plot_style():
        figure = create_figure(7.6, 3.6)
        add_title(figure, table.title, "Rings: solved by Equation 4 for the parameters of ResNet's block, 69,632")
        left, right = (figure.add_axes((x, 0.15, 0.4, 0.62)) for x in (0.075, 0.57))
        at = range(len(entries))
        for column, colour in zip(table.columns, (BLUE, RED), strict=True):
            values = [entry.row.published[column.key] for entry in entries]
            left.plot(at, values, "-o", color=colour, markersize=5.5, label=column.heading)
            left.plot(
                at, [e.solve_width(column) or 0 for e in entries], "o", color=colour, markersize=10, fillstyle="none"
            )
            for x, value in zip(at, values, strict=True):
                left.annotate(f"{value:.0f}", (x, value), (0, 8), textcoords="offset points", ha="center", fontsize=8)
        left.legend(loc="center right")
        left.margins(y=0.16)
        left.set(ylabel="channels", ylim=(0, None))
        counts = [(entry.count("block_parameters") or 0) / 1e3 for entry in entries]
        right.bar(at, counts, 0.62, color=PALE_BLUE)
        right.axhline(70, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        right.text(0.5, 71.2, "the paper's ~70 k", ha="center", color=MUTED, fontsize=8)
        for x, count in zip(at, counts, strict=True):
            right.text(x, count - 2, f"{count:.1f}", ha="center", va="top", fontsize=8)
        right.set(ylabel="parameters of a conv2 block (k)", ylim=(0, 80))
        for axes in (left, right):
            axes.set_xticks(at, [str(e.architecture.cardinality) if e.architecture else "" for e in entries])
            axes.set_xlabel("cardinality C")
            draw_grid(axes)
    return figure


def plot_timing(table: Table, entries: list[Entry]) -> "Figure":
    """Plot the time of a training step relative to ResNet-101: on the paper's GPUs, and here if it was timed."""
    first = entries[0]
    with plot_style():
        figure = create_figure(6.4, 2.9)
        add_title(
            figure, table.title, "Relative to ResNet-101. Wide: 8 M40 in the paper; thin: this machine; tick: MACs"
        )
        axes = figure.add_axes((0.24, 0.17, 0.72, 0.58))
        for y, entry in enumerate(entries):
            colour, pale = (RED, PALE_RED) if _is_resnext(entry) else (BLUE, PALE_BLUE)
            seconds = entry.row.published["seconds"]
            share = seconds / first.row.published["seconds"]
            axes.barh(y - 0.12, share, 0.42, color=pale)
            axes.text(share + 0.03, y - 0.12, f"{share:.2f}   {seconds:.2f} s per 256 images", va="center", fontsize=8)
            if entry.training_speed and first.training_speed:
                here = first.training_speed / entry.training_speed
                axes.barh(y + 0.25, here, 0.18, color=colour)
                said = f"{here:.2f}   {entry.training_speed:.2g} images/s here"
                axes.text(here + 0.03, y + 0.25, said, va="center", fontsize=8, color=MUTED, bbox=TEXT_BACKGROUND)
            if entry.cost and first.cost:
                macs = entry.cost.macs / first.cost.macs
                axes.plot([macs, macs], [y - 0.36, y + 0.36], color=INK, linewidth=1.4)
        axes.set_yticks(range(len(entries)), [entry.row.name for entry in entries])
        axes.set(ylim=(len(entries) - 0.5, -0.5), xlabel="time of a training step, ResNet-101 = 1")
        axes.set_xlim(0, 3.6)
        axes.tick_params(axis="y", length=0)
    return figure


def _is_resnext(entry: Entry) -> bool:
    return entry.architecture is not None and entry.architecture.cardinality > 1


def _has_measurements(entries: list[Entry], columns: Sequence[Column]) -> bool:
    return any(entry.measurement and entry.measurement.value(c) for entry in entries for c in columns)


def _find_best(entries: list[Entry], column: Column) -> float | None:
    values = [v for e in entries if (v := e.row.published.get(column.key)) is not None]
    return (max if column.heading.startswith("AP") else min)(values, default=None)
