"""Plot losses, precision and learning rate of a detection run over its epochs."""

from typing import TYPE_CHECKING, Any

from resnext.plotting import BLUE, FAINT, INK, MUTED, add_title, clean_text, create_figure, plot_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOSS_LINES = {
    "train_loss": ("all", INK, 1.8),
    "loss_classifier": ("class", "#0072b2", 1.2),
    "loss_box_reg": ("box", "#d55e00", 1.2),
    "loss_objectness": ("RPN: object", "#009e73", 1.2),
    "loss_rpn_box_reg": ("RPN: box", "#cc79a7", 1.2),
}
PRECISION_LINES = {"ap": ("AP", BLUE, 1.8), "ap50": ("AP50", "#009e73", 1.3), "ap75": ("AP75", "#e69f00", 1.3)}


def plot_training_curves(rows: list[dict[str, Any]], heading: str = "") -> "Figure":
    """Plot losses, precision and learning rate over the epochs of a log (``read_log``)."""
    epochs = [row for row in rows if row.get("kind") == "epoch"]
    steps = [row for row in rows if row.get("kind") == "step"]
    with plot_style():
        figure = create_figure(11, 3.6)
        add_title(figure, clean_text(heading, 110) if heading else "Training")
        loss, precision, rate = (
            figure.add_axes((left, 0.135, width, 0.69)) for left, width in ((0.055, 0.31), (0.425, 0.31), (0.8, 0.185))
        )
        _plot_lines(loss, epochs, LOSS_LINES)
        _plot_lines(precision, epochs, PRECISION_LINES)
        if steps and epochs and epochs[0]["epoch"]:
            per_epoch = max(epochs[0]["step"] / epochs[0]["epoch"], 1)
            rate.plot([row["step"] / per_epoch for row in steps], [row["lr"] for row in steps], color=INK, lw=1.3)
        loss.set_ylim(0, _compute_upper_limit(epochs, LOSS_LINES))
        rate.set_ylim(0, None)
        precision.set_ylim(0, 1)
        last = max([row["epoch"] for row in epochs], default=1)
        for axes, name in ((loss, "training loss"), (precision, "held-out precision"), (rate, "learning rate")):
            axes.set_title(name, fontsize=9.5, loc="left", color=MUTED)
            axes.set_xlim(0, last)
            axes.set_xlabel("epoch")
            axes.grid(color=FAINT, linewidth=0.7)
            axes.set_axisbelow(True)
        frame: dict[str, Any] = {"fontsize": 8, "frameon": True, "framealpha": 0.85, "edgecolor": "none"}
        if loss.lines:
            loss.legend(loc="upper right", **frame)
        if precision.lines:
            precision.legend(loc="lower right", **frame)
    return figure


def _plot_lines(axes: "Axes", epochs: list[dict[str, Any]], what: dict[str, tuple[str, str, float]]) -> None:
    for key, (label, colour, width) in what.items():
        points = [(row["epoch"], row[key]) for row in epochs if row.get(key) is not None]
        if points:
            label, marker = f"{label}  {points[-1][1]:.3f}", "o" if len(points) == 1 else None
            axes.plot(*zip(*points, strict=True), color=colour, label=label, lw=width, marker=marker)


def _compute_upper_limit(epochs: list[dict[str, Any]], what: dict[str, Any]) -> float | None:
    """Compute an upper axis limit from all but the first twentieth of the epochs, whose losses are much larger."""
    values = [row[key] for row in epochs[len(epochs) // 20 :] for key in what if row.get(key) is not None]
    return 1.05 * max(values) if values and max(values) > 0 else None
