"""Write errors under corruption as JSON, CSV and a plot."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnext.environment import describe_environment
from resnext.evaluation.output.console import format_summary
from resnext.evaluation.output.tables import write_csv, write_json
from resnext.evaluation.suites.imagenet_c import SEVERITIES, CorruptionResult, compute_mean_errors, summarize_results
from resnext.files import check_output_directory
from resnext.plotting import INK, RED, add_title, clean_text, create_figure, plot_style, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMAT = "resnext-corruptions"
FILES = ("corruptions.json", "corruptions.csv", "corruptions.png")


def write_corruptions(
    results: Sequence[CorruptionResult], protocol: dict[str, Any], official: bool, directory: Path
) -> None:
    """Write FILES into ``directory``, each atomically. Raises WorkError if that fails."""
    check_output_directory(directory, FILES, FORMAT)
    directory.mkdir(parents=True, exist_ok=True)
    about = {"protocol": protocol, "environment": describe_environment(str(protocol.get("device") or "cpu"))}
    write_json(directory / FILES[0], {"format": FORMAT, "version": 1, **summarize_results(results, official), **about})
    header = ("corruption", "severity", "images", "wrong", "top1_error", "low95", "high95")
    rows = ((r.corruption, r.severity, r.n, r.wrong, r.error, *r.interval95) for r in results)
    write_csv(directory / FILES[1], header, rows)
    save_figure(
        plot_corruptions(results, format_summary(results, official), str(protocol.get("data"))), directory / FILES[2]
    )


def plot_corruptions(results: Sequence[CorruptionResult], under: str, data: str) -> "Figure":
    """Plot the error of each corruption (row) and severity (column) as a heat map, with the means."""
    from matplotlib.colors import LinearSegmentedColormap

    means = compute_mean_errors(results)
    severities = [severity for severity in SEVERITIES if any(r.severity == severity for r in results)]
    errors = {(r.corruption, r.severity): r.error for r in results}
    shades = np.array([[errors.get((name, s), np.nan) for s in severities] for name in means])
    names = [clean_text(name.replace("_", " "), 24) for name in means]
    left, cell, high, columns = 1.75, 0.62, 0.3, len(severities)
    width, height = max(left + cell * (columns + 1) + 0.2, 6.4), 1.05 + high * len(names) + 0.15
    with plot_style():
        figure = create_figure(width, height)
        lines = "\n".join(clean_text(line, int(width * 14.5)) for line in (data, under))
        add_title(figure, "Error under corruption, %", lines)
        box = (left / width, 0.15 / height, cell * (columns + 1) / width, high * len(names) / height)
        axes = figure.add_axes(box)
        axes.imshow(
            shades, cmap=LinearSegmentedColormap.from_list("error", ["#ffffff", RED]), vmin=0, vmax=100, aspect="auto"
        )
        axes.set_xlim(-0.5, columns + 0.5)  # one more column for the means
        axes.set_yticks(range(len(names)), names, color=INK)
        heads = [f"severity {s}" if i == 0 else str(s) for i, s in enumerate(severities)]
        axes.set_xticks(range(columns + 1), [*heads, "mean"])
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for (row, column), error in np.ndenumerate(shades):
            if np.isfinite(error):
                _write_error(axes, column, row, error, color="white" if error > 65 else INK)
        for row, mean in enumerate(means.values()):
            _write_error(axes, columns, row, mean, fontweight="bold")
    return figure


def _write_error(axes: "Axes", column: int, row: int, error: float, **how: Any) -> None:
    axes.text(column, row, f"{error:.1f}", ha="center", va="center", fontsize=8.5, **how)
