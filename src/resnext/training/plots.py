"""Plot loss, error and learning rate of a run over its epochs, in the style of the paper's Figure 5."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from resnext.files import atomic_write


def draw_curves(rows: list[dict[str, Any]], path: Path, title: str = "") -> None:
    """Plot log rows (``read_log``) to a PNG: training (augmented images) dashed, held-out images solid."""
    epochs = [row for row in rows if row["kind"] == "epoch"]
    steps = [row for row in rows if row["kind"] == "step"]
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    loss, error, rate = figure.subplots(1, 3, width_ratios=(1, 1, 0.8))
    for axes, name, train, val in (
        (loss, "loss", "train_loss", "val_loss"),
        (error, "top-1 error (%)", "train_error", "top1_error"),
    ):
        _plot_line(axes, epochs, train, "training", "#5b7fa6", "--")
        _plot_line(axes, epochs, val, "held out", "#b5442e", "-")
        axes.set(title=name, xlabel="epoch", ylim=_compute_y_limits(epochs, train, val))
        if axes.lines:
            axes.legend(frameon=False)
    if steps and epochs:
        per_epoch = epochs[0]["step"] / epochs[0]["epoch"]
        rate.plot([row["step"] / per_epoch for row in steps], [row["lr"] for row in steps], color="#444444", lw=1.2)
    rate.set(title="learning rate", xlabel="epoch", ylim=(0, None))
    for axes in (loss, error, rate):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(0, max([row["epoch"] for row in epochs], default=1))
    if title:
        figure.suptitle(title.replace("$", r"\$"), fontsize=11)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=120)


def _plot_line(axes: Axes, epochs: list[dict[str, Any]], key: str, label: str, color: str, style: str) -> None:
    points = [(row["epoch"], row[key]) for row in epochs if row.get(key) is not None]
    if points:
        marker = "o" if len(points) == 1 else None
        axes.plot(*zip(*points, strict=True), style, color=color, label=label, lw=1.6, marker=marker)


def _compute_y_limits(epochs: list[dict[str, Any]], *keys: str) -> tuple[float, float | None]:
    """Return y limits that fit all but the first fifth of the epochs, whose values are much larger."""
    values = [row[key] for row in epochs[len(epochs) // 5 :] for key in keys if row.get(key) is not None]
    return 0, 1.1 * max(values) if values and max(values) > 0 else None
