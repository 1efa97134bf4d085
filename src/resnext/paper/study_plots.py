"""Plot the study like the paper's Figures 5 and 7: error over epochs, and over complexity, with deviations."""

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from resnext.paper.study import StudySize
from resnext.paper.study_results import get_errors
from resnext.plotting import BLUE, INK, MUTED, RED, add_title, create_figure, draw_grid, plot_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from resnext.run import Run

Rows = Sequence[Mapping[str, Any]]


def plot_errors(rows: Rows, data: str, size: StudySize) -> "Figure":
    """Plot test error over C at equal complexity, and of the networks of twice the complexity and without shortcuts.

    The second part is left out while no such network is trained.
    """
    equal = [network for network in size.networks if network.study == "equal"]
    others = [network for network in size.networks if network.study != "equal"]
    with plot_style():
        figure = create_figure(9.2, 3.9)
        seeds = sorted({len(get_errors(rows, network.label)) for network in size.networks} - {0})
        add_title(
            figure, f"Cardinality on {data}", f"Test error after the last epoch; mean ± deviation of {seeds[0]} to "
            f"{seeds[-1]} seeds, each seed a dot",
        )  # fmt: skip
        left = figure.add_axes((0.07, 0.14, 0.37, 0.66))
        for at, network in enumerate(equal):
            _draw_spread(left, at, get_errors(rows, network.label), RED if network.cardinality > 1 else BLUE)
        _label_columns(left, [network.label for network in equal], "C x d at equal complexity")
        left.set_ylabel("test error (%)")
        if not any(get_errors(rows, network.label) for network in others):
            left.set_position((0.07, 0.14, 0.91, 0.66))
            return figure
        right = figure.add_axes((0.52, 0.14, 0.46, 0.66))
        for at, network in enumerate(others):
            _draw_spread(right, at, get_errors(rows, network.label), RED if network.cardinality > 1 else BLUE)
        names = [network.label.replace(" ", "\n", 1) for network in others]
        _label_columns(right, names, "")
        right.axvline(2.5, color=MUTED, linewidth=0.8)
        right.text(1, 1.01, "twice the complexity", transform=right.get_xaxis_transform(), ha="center", color=MUTED)
        right.text(3.5, 1.01, "without shortcuts", transform=right.get_xaxis_transform(), ha="center", color=MUTED)
    return figure


def _draw_spread(axes: "Axes", at: int, errors: Mapping[int, float], colour: str) -> None:
    values = list(errors.values())
    if not values:
        return
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    mean = statistics.fmean(values)
    axes.errorbar(at, mean, yerr=spread, fmt="o", color=colour, markersize=7, capsize=4, linewidth=1.4)
    axes.plot([at + 0.16] * len(values), values, "o", color=colour, markersize=3, alpha=0.45)


def _label_columns(axes: "Axes", names: Sequence[str], below: str) -> None:
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set(xlim=(-0.5, max(len(names), 1) - 0.5), xlabel=below)
    draw_grid(axes)


def plot_curves(runs: Mapping[str, Sequence["Run"]], data: str, size: StudySize) -> "Figure":
    """Plot training and test error over epochs for C = 1 and the largest C: mean, and the range of the seeds.

    Args:
        runs: Finished runs, by the label of their network.
        data: The data set.
        size: The size of the study.
    """
    from matplotlib.ticker import MaxNLocator

    with plot_style():
        figure = create_figure(6.2, 4.2)
        add_title(figure, f"Training on {data}", "Solid: test, dashed: training (augmented images); band: all seeds")
        axes = figure.add_axes((0.1, 0.115, 0.86, 0.7))
        for label, colour in ((size.baseline, BLUE), (size.most_paths, RED)):
            for column, dashes in (("top1_error", "-"), ("train_error", "--")):
                found = [run.metrics[column] for run in runs.get(label, ())]
                if not found:
                    continue
                lines = np.array([line[: min(map(len, found))] for line in found])  # a run can end early
                epochs = np.arange(1, lines.shape[1] + 1)
                axes.plot(epochs, lines.mean(0), dashes, color=colour, label=label if dashes == "-" else None)
                axes.fill_between(epochs, lines.min(0), lines.max(0), color=colour, alpha=0.15, linewidth=0)
        axes.set(xlabel="epoch", ylabel="error (%)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if axes.get_lines():
            axes.legend(loc="upper right", labelcolor=INK)
        draw_grid(axes)
    return figure
