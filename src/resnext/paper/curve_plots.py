"""Plot Figures 5, 6 and 7: the printed lines, with measured lines drawn over them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from resnext.paper.entries import Entry
from resnext.paper.numbers import Table, load_curves, load_figure7_series
from resnext.plotting import (
    BLUE,
    FAINT,
    INK,
    MUTED,
    PALE_BLUE,
    PALE_RED,
    RED,
    add_title,
    create_figure,
    draw_grid,
    plot_style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SPLITS = {"train": "train_error", "val": "top1_error", "val-1Kway": "top1_error"}  # curve -> column of metrics.csv
DASHES: dict[str, Any] = {"train": (0, (3, 1.6)), "val": "-", "val-1Kway": "-"}
ERROR_RANGES = {"figure5": (15, 50), "figure6": (20, 55)}  # range of the y axis in %, close to the paper's
RATE_DROPS = (30, 60, 90)  # epochs at which the learning rate drops
Line = list[tuple[float, float]]


def get_printed_line(table: str, curve: str, split: str) -> Line:
    """Return a printed curve as (epoch or mini-batch, error) points."""
    return [(p.at, p.error) for p in load_curves(table) if (p.curve, p.split) == (curve, split)]


def get_measured_line(entry: Entry, table: str, split: str) -> Line:
    """Return the curve of a run here as such points; empty if there is none."""
    if entry.measurement is None or table == "figure6":  # a log has the 5K-way error, the figure the 1K-way error
        return []
    return entry.measurement.curve(SPLITS[split])


def collect_curve_rows(table: Table, entries: list[Entry]) -> list[tuple[str, str, str, float, float]]:
    """Collect all curves of a figure, printed and measured, as rows of its CSV."""
    rows = []
    for entry in entries:
        curve = str(entry.row.curve)
        for split in dict.fromkeys(p.split for p in load_curves(table.name) if p.curve == curve):
            for who, line in (
                ("paper", get_printed_line(table.name, curve, split)),
                ("here", get_measured_line(entry, table.name, split)),
            ):
                rows += [(who, curve, split, at, error) for at, error in line]
    return rows


def plot_error_curves(table: Table, entries: list[Entry]) -> "Figure":
    """Plot Figure 5 (one panel per depth, over epochs) or Figure 6 (over mini-batches)."""
    depths = list(dict.fromkeys(entry.row.key.rpartition("/")[2] for entry in entries))
    wide = 4.6
    with plot_style():
        figure = create_figure(wide * len(depths) + (0.2 if len(depths) > 1 else 1.2), 4.2)
        solid = "Solid: validation, dashed: training (augmented images)"
        under = solid if table.name == "figure5" else "ResNet-101 and ResNeXt-101"
        here = any(get_measured_line(e, table.name, "val") for e in entries)
        add_title(figure, table.title, under + ("; pale: the paper, strong: measured here" if here else "; as printed"))
        for number, depth in enumerate(depths):
            left = 0.62 / figure.get_figwidth() + number / len(depths)
            width = (wide - 1.15) / figure.get_figwidth() if len(depths) > 1 else 0.78
            axes = figure.add_axes((left, 0.115, width, 0.7))
            _draw_curve_panel(axes, table.name, [e for e in entries if e.row.key.endswith(f"/{depth}")])
            axes.set_ylabel("top-1 error (%)" if number == 0 else "")
    return figure


def _draw_curve_panel(axes: "Axes", table: str, entries: Sequence[Entry]) -> None:
    low, high = ERROR_RANGES[table]
    scale = 1.0 if table == "figure5" else 1e-4
    ends: list[tuple[float, str]] = []
    for entry, strong, pale in zip(entries, (BLUE, RED), (PALE_BLUE, PALE_RED), strict=True):
        curve = str(entry.row.curve)
        for split in dict.fromkeys(p.split for p in load_curves(table) if p.curve == curve):
            printed, here = get_printed_line(table, curve, split), get_measured_line(entry, table, split)
            colour = pale if here else strong
            axes.plot(*_scale_line(printed, scale), color=colour, linestyle=DASHES[split], linewidth=1.5)
            if here:
                axes.plot(*_scale_line(here, scale), color=strong, linestyle=DASHES[split], linewidth=1.5)
            ends.append((printed[-1][1], strong))
    for drop in RATE_DROPS:
        axes.axvline(drop if table == "figure5" else drop * 5292 * scale, color=FAINT, linewidth=1, zorder=0)
    _label_line_ends(axes, ends, (high - low) / 26)
    for y, (entry, colour) in enumerate(zip(entries, (BLUE, RED), strict=True)):
        text = f"{entry.row.label} ({entry.row.setting})"
        axes.text(0.97, 0.95 - 0.07 * y, text, transform=axes.transAxes, ha="right", color=colour, fontweight="bold")
    axes.set(ylim=(low, high), xlim=(0, 100 if table == "figure5" else 53))
    axes.set_xlabel("epoch" if table == "figure5" else "mini-batches of 256 (10 thousand)")
    draw_grid(axes)


def _scale_line(line: Line, scale: float) -> tuple[list[float], list[float]]:
    return [at * scale for at, _ in line], [error for _, error in line]


def _label_line_ends(axes: "Axes", ends: list[tuple[float, str]], apart: float) -> None:
    """Write the last printed value of each line at the right, moved apart where labels would overlap."""
    below = float("-inf")
    for error, colour in sorted(ends):
        y = max(error, below + apart)
        axes.text(1.01, y, f"{error:.2f}", transform=axes.get_yaxis_transform(), va="center", fontsize=8, color=colour)
        below = y


def plot_error_over_parameters(table: Table, entries: list[Entry]) -> "Figure":
    """Plot Figure 7: error over parameters, for more paths and for more width."""
    column, by_key = table.columns[0], {entry.row.key: entry for entry in entries}
    with plot_style():
        figure = create_figure(6.6, 4.4)
        under = "Mean of 10 runs, bars: standard error, as printed. Ring: measured here ± deviation"
        add_title(figure, table.title, under)
        axes = figure.add_axes((0.09, 0.115, 0.88, 0.715))
        for (series, keys), colour in zip(sorted(load_figure7_series().items()), (RED, BLUE), strict=True):
            line = [by_key[key] for key in keys]
            x = [(entry.count("parameters") or 0) / 1e6 for entry in line]
            y = [entry.row.published[column.key] for entry in line]
            error = [entry.row.errors[column.key] for entry in line]
            axes.errorbar(x, y, yerr=error, fmt="-o", color=colour, linewidth=1.6, markersize=5, capsize=2.5,
                          elinewidth=1, label=f"more {'paths' if series == 'cardinality' else 'width'}")  # fmt: skip
            for i, (a, b, entry) in enumerate(zip(x, y, line, strict=True)):
                if series == "cardinality" and i == 0:
                    continue  # both lines start there: label it once
                down = series == "cardinality"
                axes.annotate(entry.row.setting, (a, b), (-3, -15) if down else (6, 8), textcoords="offset points",
                              ha="right" if down else "left", fontsize=8, color=colour)  # fmt: skip
            for a, entry in zip(x, line, strict=True):
                value = entry.measurement.value(column) if entry.measurement else None
                if value is not None:
                    axes.errorbar(a, value.mean, yerr=value.deviation, fmt="o", markersize=10, markerfacecolor="none",
                                  markeredgecolor=INK, ecolor=MUTED, markeredgewidth=1.4)  # fmt: skip
        axes.set(xlabel="parameters without BN (M)", ylabel="CIFAR-10 test error (%)", xlim=(0, 102))
        draw_grid(axes)
        axes.legend(loc="upper right")
    return figure
