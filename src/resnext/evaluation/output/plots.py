"""Plots of an evaluation and grids of images. The training curves are plotted by ``train``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from resnext import plotting
from resnext.data.dataset import Dataset
from resnext.data.decode.pillow import read_image
from resnext.data.preprocessing import Preprocessing
from resnext.data.transforms.pipeline import build_eval_transform
from resnext.evaluation.calibration import Calibration
from resnext.evaluation.evaluator import Evaluation
from resnext.evaluation.predict import Prediction
from resnext.plotting import BLUE, FAINT, INK, MUTED, PALE_BLUE, RED, clean_text, count_columns, wrap_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_CLASSES_WITH_COUNTS = 14  # up to so many classes the confusion matrix shows counts
MAX_CLASSES_WITH_NAMES = 60  # and up to so many it shows class names
MAX_MATRIX_CELLS = 368  # cells a side; a larger matrix is reduced to the maximum of each patch
OVER, UNDER, EMPTY = "#f2b48c", "#cfe3f7", "#e3e6ea"  # gaps above and below the ideal line; bins without images
GRID_COLUMNS = 6
MAX_TILES = 4 * GRID_COLUMNS  # of a grid with large images
MAX_SAMPLES = 64


def plot_confusion(counts: np.ndarray, classes: tuple[str, ...]) -> "Figure":
    """Plot the confusion matrix [K, K] (rows: true classes), each row shaded by its shares, correct blue, wrong red."""
    k = len(classes)
    names = _fit_names(classes)
    columns = max(count_columns(line) for name in names for line in name.split("\n"))
    letter = 0.065 if k <= MAX_CLASSES_WITH_COUNTS else 0.054  # inches
    margin = 0.5 + letter * columns if k <= MAX_CLASSES_WITH_NAMES else 0.75
    cell = 0.52 if k <= MAX_CLASSES_WITH_COUNTS else 0.17
    side = min(max(cell * k, 3.4), 7.5 if k <= MAX_CLASSES_WITH_COUNTS else 8.5)
    width, height = side + margin + 0.3, side + margin + 0.95
    with plotting.plot_style():
        figure = plotting.create_figure(width, height)
        n, wrong = int(counts.sum()), int(counts.sum() - counts.trace())
        plotting.add_title(
            figure,
            "Confusion matrix",
            f"{n:,} images, {wrong:,} wrong. Blue: correct, red: wrong;\n"
            "shade: share of the true class's images (red: its square root)",
        )
        axes = figure.add_axes((margin / width, margin / height, side / width, side / height))
        axes.imshow(_shade_confusion(counts), interpolation="nearest", extent=(-0.5, k - 0.5, k - 0.5, -0.5))
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.spines[:].set_visible(True)
        if k <= MAX_CLASSES_WITH_NAMES:
            font_size = 8.5 if k <= MAX_CLASSES_WITH_COUNTS else 7 if k <= 40 else 6
            turned = 90 if columns > 3 else 0
            axes.set_xticks(range(k), names, rotation=turned, fontsize=font_size)
            axes.set_yticks(range(k), names, fontsize=font_size)
            axes.tick_params(length=0)
        if k <= MAX_CLASSES_WITH_COUNTS:
            _write_counts(axes, counts)
    return figure


def _fit_names(classes: tuple[str, ...]) -> list[str]:
    """Fit class names beside the cells: in several lines where cells are large, in one where they are small."""
    if len(classes) <= MAX_CLASSES_WITH_COUNTS:
        return ["\n".join(wrap_text(name, 22, lines=3)) for name in classes]
    return [clean_text(name, 64) for name in classes]


def _shade_confusion(counts: np.ndarray) -> np.ndarray:
    """Compute the cell colours: RGB [K, K, 3], 0 to 1, or fewer cells for very many classes."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    hits = np.where(np.eye(len(counts), dtype=bool), share, 0)
    mistakes = np.sqrt(np.where(np.eye(len(counts), dtype=bool), 0, share))
    if len(counts) > MAX_MATRIX_CELLS:
        starts = np.unique(np.linspace(0, len(counts), MAX_MATRIX_CELLS, endpoint=False).astype(int))
        hits, mistakes = (
            np.maximum.reduceat(np.maximum.reduceat(m, starts, axis=0), starts, axis=1) for m in (hits, mistakes)
        )
    blue, red = (np.array([int(hue[i : i + 2], 16) / 255 for i in (1, 3, 5)]) for hue in (BLUE, RED))
    colors: np.ndarray = 1 - hits[..., None] * (1 - blue) - (1 - hits[..., None]) * mistakes[..., None] * (1 - red)
    return colors


def _write_counts(axes: "Axes", counts: np.ndarray) -> None:
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for i, j in zip(*np.nonzero(counts), strict=True):
        dark = share[i, j] > (0.5 if i == j else 0.35)
        text = f"{counts[i, j]:,}" if counts[i, j] < 100_000 else f"{counts[i, j] / 1000:,.0f}k"
        axes.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if dark else INK)


def plot_reliability(calibration: Calibration) -> "Figure":
    """Plot the reliability diagram: accuracy in each bin of the probability, its gap to the mean probability, counts.

    Bars, gaps and empty bins differ in hatching and brightness too, so that they can be told apart in grey.
    """
    with plotting.plot_style():
        figure = plotting.create_figure(3.9, 6.3)
        ece, widest = 100 * calibration.ece, 100 * calibration.max_gap
        below = (
            f"Expected calibration error (ECE) {ece:.2f} %: the\nmean gap over all images. Largest gap {widest:.1f} %"
        )
        plotting.add_title(figure, "Reliability of the probabilities", below)
        top = figure.add_axes((0.175, 0.35, 0.755, 0.42))
        under = figure.add_axes((0.175, 0.085, 0.755, 0.2), sharex=top)
        _draw_accuracy(top, calibration)
        _draw_counts(under, calibration)
        figure.legend(
            *top.get_legend_handles_labels(), loc="upper left", ncols=2, fontsize=8, bbox_to_anchor=(0.03, 0.875),
            columnspacing=1.2, handlelength=1.6, labelspacing=0.35,
        )  # fmt: skip
        for axes in (top, under):
            axes.grid(axis="y", color=FAINT, linewidth=0.7)
            axes.set_axisbelow(True)
            axes.set_xlim(0, 1)
            axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        top.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        top.tick_params(labelbottom=False)
    return figure


def _draw_accuracy(axes: "Axes", calibration: Calibration) -> None:
    """Draw a bar for each bin with images, the gap between it and the mean probability, and where bins are empty."""
    edges, filled = calibration.edges, calibration.count > 0
    left, wide = edges[:-1][filled], np.diff(edges)[filled]
    accuracy, confidence = calibration.accuracy[filled], calibration.confidence[filled]
    look: dict[str, Any] = {"align": "edge", "edgecolor": "white", "linewidth": 0.8}
    axes.bar(left, accuracy, wide, color=BLUE, label="share right in the bin", **look)
    gap = confidence - accuracy
    for height, bottom, color, hatch, label in (
        (np.maximum(gap, 0), accuracy, OVER, "////", "gap: too sure"),
        (np.maximum(-gap, 0), confidence, UNDER, "....", "gap: not sure enough"),
    ):
        axes.bar(left, height, wide, bottom, color=color, hatch=hatch, label=label, align="edge", edgecolor=INK,
                 linewidth=0)  # fmt: skip
    axes.hlines(confidence, left, left + wide, color=INK, linewidth=1.6, label="mean probability in the bin")
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="ideal: both equal")
    empty = edges[:-1][~filled]
    axes.bar(
        empty, np.ones_like(empty), np.diff(edges)[~filled], color=EMPTY, align="edge", label="no images", zorder=0
    )
    axes.set(ylim=(0, 1), ylabel="right predictions (accuracy)")


def _draw_counts(axes: "Axes", calibration: Calibration) -> None:
    """Draw and write the number of images in each bin."""
    from matplotlib.ticker import MaxNLocator

    edges, count = calibration.edges, calibration.count
    axes.bar(edges[:-1], count, np.diff(edges), color=PALE_BLUE, align="edge", edgecolor="white", linewidth=0.8)
    highest = max(1, int(count.max()))
    for left, right, images in zip(edges[:-1], edges[1:], count, strict=True):
        text = f"{images:,}" if images < 100_000 else f"{images / 1000:,.0f}k"
        axes.text(
            (left + right) / 2, images + 0.04 * highest, text, ha="center", va="bottom", fontsize=7,
            color=INK if images else MUTED, rotation=90 if highest > 999 else 0,
        )  # fmt: skip
    axes.set(ylim=(0, 1.3 * highest if highest <= 999 else 1.55 * highest), ylabel="images",
             xlabel="probability of the prediction (confidence)")  # fmt: skip
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))


def plot_worst_images(
    evaluation: Evaluation,
    dataset: Dataset,
    preprocessing: Preprocessing,
    count: int = MAX_TILES,
    view_name: str = "center",
) -> "Figure":
    """Plot the images with the highest loss, as the network saw them, with predicted and true class.

    Shows the centre crop, also if the evaluation used another view, ``view_name``.
    """
    view = build_eval_transform(preprocessing)
    tiles, captions = [], []
    for row in evaluation.find_worst(count):
        said, true = evaluation.predicted[row], evaluation.label[row]
        tiles.append(plotting.convert_to_pixels(view(dataset.image(int(evaluation.index[row])))))
        prediction = _write_prediction(evaluation.classes[said], evaluation.probability[row])
        truth = "\n".join(wrap_text(f"true: {evaluation.classes[true]}", 24))
        path = plotting.shorten_path(evaluation.paths[row], 24)
        captions.append([(prediction, RED if said != true else BLUE), (truth, INK), (path, MUTED)])
    size = f"{preprocessing.image_size}×{preprocessing.image_size}"
    part = "As the network sees them" if view_name == "center" else f"The centre crop (evaluated: {view_name})"
    under = f"{part}, {size}. Red: wrong, blue: correct; p of the prediction"
    return _plot_grid(tiles, captions, "Highest loss", under)


def plot_predictions(predictions: Sequence[Prediction], preprocessing: Preprocessing) -> "Figure":
    """Plot images as the network sees them, with its predictions; unreadable images are left out."""
    view = build_eval_transform(preprocessing)
    tiles, captions = [], []
    for prediction in [p for p in predictions if p.error is None and p.path is not None][:MAX_TILES]:
        image = read_image(str(prediction.path), preprocessing.channels, preprocessing.exif)
        tiles.append(plotting.convert_to_pixels(view(image)))
        (first, p), *others = prediction.top(2)
        lines = [(_write_prediction(first, p), BLUE)]
        lines += [(_write_prediction(f"or {name}", q), MUTED) for name, q in others]
        captions.append([*lines, (plotting.shorten_path(str(prediction.path), 24), MUTED)])
    size = f"{preprocessing.image_size}×{preprocessing.image_size}"
    return _plot_grid(tiles, captions, "Predictions", f"As the network sees the images, {size}")


def plot_samples(images: Tensor, labels: Tensor, classes: tuple[str, ...], preprocessing: Preprocessing) -> "Figure":
    """Plot training images after augmentation, with their labels.

    ``images`` [B, C, H, W] are uint8 or float from 0 to 1, not normalised; ``labels`` are int64 [B], or probabilities
    [B, K] after mixup or CutMix.
    """
    tiles = [plotting.convert_to_pixels(image) for image in images[:MAX_SAMPLES].cpu()]
    captions = [[(text, INK)] for text in _format_labels(labels[:MAX_SAMPLES].cpu(), classes)]
    size = f"{images.shape[-2]}×{images.shape[-1]}"
    under = f"As the network sees them before normalisation, {size}, {preprocessing.interpolation}"
    return _plot_grid(tiles, captions, "Augmented training images", under)


def _format_labels(labels: Tensor, classes: tuple[str, ...]) -> list[str]:
    if labels.ndim == 1:
        return ["\n".join(wrap_text(classes[int(label)], 22)) for label in labels]
    texts = []
    for shares in labels:
        values, which = shares.topk(min(2, len(classes)))
        mixed = len(values) > 1 and float(values[1]) > 0.1  # a smaller value comes from label smoothing
        pairs = list(zip(values.tolist(), which.tolist(), strict=True))[: 2 if mixed else 1]
        whole = " + ".join(f"{classes[i]} {100 * value:.0f}%" for value, i in pairs)
        texts.append("\n".join(wrap_text(whole, 22)))
    return texts


def _plot_grid(tiles: list[np.ndarray], captions: list[list[tuple[str, str]]], heading: str, under: str) -> "Figure":
    """Plot images in rows, each with lines of (text, colour) below."""
    few = len(tiles) <= MAX_TILES
    tile, gap, line, top = (1.5 if few else 1.3), 0.18, 0.155, 0.62
    lines = max((sum(1 + text.count("\n") for text, _ in caption) for caption in captions), default=1)
    columns = max(1, min(GRID_COLUMNS if few else GRID_COLUMNS + 2, len(tiles)))
    rows = max(1, -(-len(tiles) // columns))
    step = tile + lines * line + 0.14
    width, height = max(4.0, columns * (tile + gap) + gap), top + rows * step + 0.08
    with plotting.plot_style():
        figure = plotting.create_figure(width, height)
        plotting.add_title(figure, heading, clean_text(under, int(width * 14)), left=gap)
        for i, (picture, caption) in enumerate(zip(tiles, captions, strict=True)):
            row, column = divmod(i, columns)
            x, y = gap + column * (tile + gap), height - top - row * step - tile
            axes = figure.add_axes((x / width, y / height, tile / width, tile / height))
            small = max(picture.shape[:2]) <= 100
            axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest" if small else "antialiased")
            plotting.hide_axes(axes)
            plotting.draw_caption(figure, x, y - 0.04, caption, line=line, size=7.2)
    return figure


def _write_prediction(name: str, probability: float) -> str:
    """Write a class and its probability in lines that fit below a tile of a grid."""
    *lines, last = wrap_text(name, 22)
    share = _format_probability(probability)
    return "\n".join([*lines, f"{last}  {share}"] if count_columns(last) <= 17 else [*lines, last, share])


def _format_probability(probability: float) -> str:
    return f"{100 * probability:.0f} %" if probability < 0.995 else ">99 %"
