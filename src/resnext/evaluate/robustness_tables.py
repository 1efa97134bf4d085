"""Errors under corruption on disk: the numbers as JSON and CSV, and a picture of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnext.environment import environment
from resnext.errors import RequestError
from resnext.evaluate.robustness import SEVERITIES, Result, mean_errors, summary
from resnext.evaluate.show import verdict
from resnext.evaluate.style import INK, MUTED, RED, look, new_figure, plain, save, title
from resnext.evaluate.tables import is_ours, write_csv, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = "resnext-corruptions"
FILES = ("corruptions.json", "corruptions.csv", "corruptions.png")


def check_directory(directory: Path) -> None:
    """Make ``directory``; raises RequestError where it cannot be, or holds files of our names that are not ours."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        there = [name for name in FILES if (directory / name).exists()]
        if there and not is_ours(directory / FILES[0], FORMAT):
            raise RequestError(f"{directory} holds {there[0]}, but no result of ours; give --out another place")
    except OSError as error:
        raise RequestError(f"{directory} cannot be written: {error.strerror or error}") from None


def write_corruptions(results: Sequence[Result], protocol: dict[str, Any], official: bool, directory: Path) -> None:
    """Write FILES into ``directory``, each whole or not at all. Raises WorkError when the disk refuses."""
    check_directory(directory)
    about = {"protocol": protocol, "environment": environment(str(protocol.get("device") or "cpu"))}
    write_json(directory / FILES[0], {"format": FORMAT, "version": 1, **summary(results, official), **about})
    header = ("corruption", "severity", "images", "wrong", "top1_error", "low95", "high95")
    rows = ((r.corruption, r.severity, r.n, r.wrong, r.error, *r.interval95) for r in results)
    write_csv(directory / FILES[1], header, rows)
    save(picture(results, verdict(results, official), str(protocol.get("data"))), directory / FILES[2])


def picture(results: Sequence[Result], under: str, data: str) -> "Figure":
    """The error of each corruption (row) and severity (column) as shades and numbers, the means beside them."""
    means = mean_errors(results)
    severities = [severity for severity in SEVERITIES if any(r.severity == severity for r in results)]
    errors = {(r.corruption, r.severity): r.error for r in results}
    shades = np.array([[errors.get((name, s), np.nan) for s in severities] for name in means])
    names = [plain(name.replace("_", " "), 24) for name in means]
    left, cell, high = 1.75, 0.62, 0.3
    width, height = max(left + cell * (len(severities) + 1) + 0.35, 5.0), 1.15 + high * len(names) + 0.2
    with look():
        figure = new_figure(width, height)
        title(figure, f"Error under corruption, {plain(data, 40)}", plain(under, int(width * 15)))
        box = (left / width, 0.2 / height, cell * len(severities) / width, high * len(names) / height)
        axes = figure.add_axes(box)
        axes.imshow(shades, cmap=_ramp(), vmin=0, vmax=100, aspect="auto")
        axes.set_yticks(range(len(names)), names, color=INK)
        axes.set_xticks(
            range(len(severities)), [f"severity {s}" if i == 0 else str(s) for i, s in enumerate(severities)]
        )
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        for (row, column), error in np.ndenumerate(shades):
            if np.isfinite(error):
                colour = "white" if error > 65 else INK
                axes.text(column, row, f"{error:.1f}", ha="center", va="center", fontsize=8.5, color=colour)
        for row, mean in enumerate(means.values()):
            axes.text(len(severities) - 0.1, row, f"{mean:.1f}", va="center", ha="center", fontweight="bold")
        axes.text(len(severities) - 0.1, -0.72, "mean", va="bottom", ha="center", color=MUTED)
    return figure


def _ramp() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("error", ["#ffffff", RED])
