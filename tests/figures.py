"""Blank figures instead of a run's pictures, which take most of the time of a short run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from matplotlib.figure import Figure

from resnext.detection.evaluation import plots as detection_plots
from resnext.detection.training import outputs as detection_outputs
from resnext.evaluation.output import plots
from resnext.plotting import create_figure, save_figure
from resnext.training import outputs

FIGURES: dict[ModuleType, tuple[str, ...]] = {
    outputs: ("plot_samples",),
    plots: ("plot_confusion", "plot_reliability", "plot_worst_images"),
    detection_outputs: ("plot_training_samples", "plot_training_curves"),
    detection_plots: ("plot_precision_recall", "plot_best_and_worst"),
}
DRAWN = {(module, name): getattr(module, name) for module, names in FIGURES.items() for name in names}
DRAW_CURVES = outputs.draw_curves


def create_blank_figure(*_: Any, **__: Any) -> Figure:
    return create_figure(1, 1)


def write_blank_curves(rows: list[dict[str, Any]], path: Path, title: str = "") -> None:
    save_figure(create_blank_figure(rows, title), path)


@contextmanager
def leave_figures_blank() -> Iterator[None]:
    """Write small blank PNGs, in the same files, instead of the pictures of runs and evaluations."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in DRAWN:
            patch.setattr(module, name, create_blank_figure)
        patch.setattr(outputs, "draw_curves", write_blank_curves)
        yield


@contextmanager
def draw_figures() -> Iterator[None]:
    """Draw within ``leave_figures_blank`` all the same."""
    with pytest.MonkeyPatch.context() as patch:
        for (module, name), draw in DRAWN.items():
            patch.setattr(module, name, draw)
        patch.setattr(outputs, "draw_curves", DRAW_CURVES)
        yield
