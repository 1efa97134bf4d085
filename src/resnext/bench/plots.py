"""Plots of the benchmarks: our line is thicker, and each line is labelled at its end."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from resnext.bench.measure import Timing
from resnext.bench.peers import OURS
from resnext.plotting import BLUE, INK, RED, add_title, create_figure, draw_grid, plot_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {OURS: RED, "torchvision": BLUE, "timm": INK, "plain": BLUE}
LABEL_GAP = 0.055  # smallest distance between labels at the ends of lines, as a share of the axes' height


def plot_cardinality(settings: Sequence[str], lines: Mapping[str, Sequence[Timing]], said: str) -> "Figure":
    """Plot images per second over C x d, one line per library; bars show the quartiles of the rounds."""
    with plot_style():
        figure = create_figure(6.6, 4.0)
        add_title(figure, "Training speed over cardinality, at equal complexity", said)
        axes = figure.add_axes((0.09, 0.135, 0.745, 0.69))
        at = range(len(settings))
        for library, timings in lines.items():
            plot_line(axes, at, timings, library, strong=library == OURS)
        top = max(timing.best for timings in lines.values() for timing in timings)
        axes.set(ylim=(0, 1.08 * top), ylabel="images/s", xlabel="cardinality × bottleneck width")
        axes.set_xticks(at, settings)
        axes.margins(x=0.05)
        draw_grid(axes)
        label_line_ends(axes, {library: timings[-1].median for library, timings in lines.items()}, len(settings) - 1)
        for x, timing in zip(at, next(iter(lines.values())), strict=True):
            axes.annotate(f"{timing.median:.3g}", (x, timing.median), (0, 9), textcoords="offset points", ha="center",
                          fontsize=8.5, color=RED)  # fmt: skip
    return figure


def plot_line(axes: "Axes", at: Sequence[float], timings: Sequence[Timing], library: str, *, strong: bool) -> None:
    """Plot the medians, with bars for the quartiles of the rounds."""
    medians = [timing.median for timing in timings]
    half = [(max(0.0, m - t.quartiles[0]), max(0.0, t.quartiles[1] - m)) for m, t in zip(medians, timings, strict=True)]
    axes.errorbar(at, medians, yerr=list(zip(*half, strict=True)), fmt="-o", color=COLOURS[library],
                  linewidth=2 if strong else 1.3, markersize=6 if strong else 4.5, elinewidth=1,
                  zorder=3 if strong else 2)  # fmt: skip


def plot_growth(heading: str, said: str, label: str, points: Sequence[Mapping[str, Any]]) -> "Figure":
    """Plot seconds per step and peak memory over what grows.

    Points have ``at`` (x value), ``name`` (tick label), and ``seconds`` and ``mib``, each by library.
    """
    with plot_style():
        figure = create_figure(7.6, 3.7)
        add_title(figure, heading, said)
        panels = (("seconds", "seconds per step", 1.0), ("mib", "peak memory (GiB)", 1024.0))
        for number, (key, name, unit) in enumerate(panels):
            axes = figure.add_axes((0.075 + 0.495 * number, 0.145, 0.335, 0.64))
            at = [point["at"] for point in points]
            ends = {}
            for library in points[0]["seconds"]:
                values = [point[key][library] / unit for point in points]
                strong = library == OURS
                axes.plot(at, values, "-o", color=COLOURS[library], linewidth=2 if strong else 1.3,
                          markersize=6 if strong else 4.5, zorder=3 if strong else 2)  # fmt: skip
                ends[library] = values[-1]
            axes.set(ylim=(0, 1.08 * max(max(p[key].values()) for p in points) / unit), xlabel=label, ylabel=name)
            axes.set_xlim(min(0, *at), None)
            axes.set_xticks(at, [point["name"] for point in points], fontsize=8)
            draw_grid(axes)
            label_line_ends(axes, ends, at[-1])
    return figure


def label_line_ends(axes: "Axes", ends: Mapping[str, float], x: float) -> None:
    """Write the name of each line to the right of its last point, moved apart where labels would overlap."""
    low, high = axes.get_ylim()
    step, y = LABEL_GAP * (high - low), -float("inf")
    for library, value in sorted(ends.items(), key=lambda item: item[1]):
        y = max(value, y + step)
        axes.annotate(library, (x, value), (10, (y - value) / (high - low) * axes.get_window_extent().height * 72 /
                      axes.figure.dpi), textcoords="offset points", va="center", color=COLOURS[library],
                      fontweight="bold" if library == OURS else "normal")  # fmt: skip


def plot_serving(points: Mapping[str, Sequence[tuple[int, float, float]]], ceiling: float, said: str) -> "Figure":
    """Plot images per second and the 99th percentile of the latency over the number of clients.

    Args:
        points: For each server its points: clients, images per second, seconds. The first server is ours.
        ceiling: Images per second without a server.
        said: The line under the title.
    """
    with plot_style():
        figure = create_figure(7.6, 3.7)
        add_title(figure, "Serving pictures over HTTP", said)
        clients = sorted({one[0] for found in points.values() for one in found})
        for number, (name, unit) in enumerate((("images/s", 1.0), ("99th percentile of a request (ms)", 1000.0))):
            axes = figure.add_axes((0.085 + 0.495 * number, 0.145, 0.4, 0.64))
            for (server, found), color in zip(points.items(), (RED, BLUE), strict=False):
                at, values = [clients.index(one[0]) for one in found], [unit * one[1 + number] for one in found]
                axes.plot(at, values, "-o", color=color, linewidth=2 if color == RED else 1.3, label=server)
            if number == 0:
                axes.axhline(ceiling, color=INK, linewidth=1, linestyle="--", label="no server")
                axes.set_ylim(0, 1.15 * max([ceiling, *(one[1] for found in points.values() for one in found)]))
                axes.legend(loc="center")
            else:
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter("{x:g}")
                axes.yaxis.set_minor_formatter("")
            axes.set(xlabel="clients", ylabel=name)
            axes.set_xticks(range(len(clients)), [str(n) for n in clients])
            draw_grid(axes)
    return figure
