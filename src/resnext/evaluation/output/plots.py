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
from resnext.plotting import BLUE, FAINT, INK, MUTED, PALE_BLUE, PALE_RED, RED, clean_text, count_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_CLASSES_WITH_COUNTS = 14  # up to so many classes the confusion matrix shows counts
MAX_CLASSES_WITH_NAMES = 60  # and up to so many it shows class names
MAX_MATRIX_CELLS = 368  # cells a side; a larger matrix is reduced to the maximum of each patch
GRID_COLUMNS = 6
MAX_TILES = 4 * GRID_COLUMNS  # of a grid with large images
MAX_SAMPLES = 64


def plot_confusion(counts: np.ndarray, classes: tuple[str, ...]) -> "Figure":
    """Plot the confusion matrix [K, K] (rows: true classes), each row shaded by its shares, correct blue, wrong red."""
    k = len(classes)
    names = [clean_text(name, 18) for name in classes]
    margin = 0.5 + 0.065 * max(map(count_columns, names)) if k <= MAX_CLASSES_WITH_NAMES else 0.75
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
            turned = 90 if max(map(count_columns, names)) > 3 else 0
            axes.set_xticks(range(k), names, rotation=turned, fontsize=font_size)
            axes.set_yticks(range(k), names, fontsize=font_size)
            axes.tick_params(length=0)
        if k <= MAX_CLASSES_WITH_COUNTS:
            _write_counts(axes, counts)
    return figure


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
    """Plot the reliability diagram: accuracy per confidence bin, its gap to the diagonal, and the counts."""
    with plotting.plot_style():
        figure = plotting.create_figure(5.2, 5.6)
        ece, widest = 100 * calibration.ece, 100 * calibration.max_gap
        plotting.add_title(figure, "Reliability", f"Expected calibration error {ece:.2f} %, largest gap {widest:.1f} %")
        top = figure.add_axes((0.135, 0.345, 0.825, 0.535))
        under = figure.add_axes((0.135, 0.095, 0.825, 0.19), sharex=top)
        edges, filled = calibration.edges, calibration.count > 0
        left, wide = edges[:-1][filled], np.diff(edges)[filled]
        accuracy, confidence = calibration.accuracy[filled], calibration.confidence[filled]
        look_of: dict[str, Any] = {"align": "edge", "edgecolor": "white", "linewidth": 0.8}
        top.bar(left, accuracy, wide, color=BLUE, label="accuracy", **look_of)
        gap = confidence - accuracy
        hatched: dict[str, Any] = {"hatch": "////", **look_of}
        over, under_sure = np.maximum(gap, 0), np.maximum(-gap, 0)
        top.bar(left, over, wide, accuracy, color=PALE_RED, label="overconfident", **hatched)
        top.bar(left, under_sure, wide, confidence, color=PALE_BLUE, label="underconfident", **hatched)
        top.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="perfectly calibrated")
        top.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
        top.legend(loc="upper left", fontsize=8)
        top.tick_params(labelbottom=False)
        shares = calibration.count / max(1, int(calibration.count.sum()))
        under.bar(edges[:-1], shares, np.diff(edges), color=PALE_BLUE, **look_of)
        highest = max(0.05, float(shares.max()) * 1.1)
        under.set(ylim=(0, highest), xlabel="probability of the prediction", ylabel="images")
        under.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        for axes in (top, under):
            axes.grid(axis="y", color=FAINT, linewidth=0.7)
            axes.set_axisbelow(True)
    return figure


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
        prediction = f"{clean_text(evaluation.classes[said], 17)}  {_format_probability(evaluation.probability[row])}"
        truth = f"true: {clean_text(evaluation.classes[true], 17)}"
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
        lines = [(f"{clean_text(first, 17)}  {_format_probability(p)}", BLUE)]
        lines += [(f"or {clean_text(name, 17)}  {_format_probability(q)}", MUTED) for name, q in others]
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
        return [clean_text(classes[int(label)], 24) for label in labels]
    texts = []
    for shares in labels:
        values, which = shares.topk(min(2, len(classes)))
        mixed = len(values) > 1 and float(values[1]) > 0.1  # a smaller value comes from label smoothing
        pairs = list(zip(values.tolist(), which.tolist(), strict=True))[: 2 if mixed else 1]
        columns = 9 if mixed else 19
        texts.append(" + ".join(f"{clean_text(classes[i], columns)} {100 * value:.0f}%" for value, i in pairs))
    return texts


def _plot_grid(tiles: list[np.ndarray], captions: list[list[tuple[str, str]]], heading: str, under: str) -> "Figure":
    """Plot images in rows, each with lines of (text, colour) below."""
    few = len(tiles) <= MAX_TILES
    tile, gap, line, top = (1.5 if few else 1.3), 0.18, 0.155, 0.62
    lines = max((len(caption) for caption in captions), default=1)
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


def _format_probability(probability: float) -> str:
    return f"{100 * probability:.0f} %" if probability < 0.995 else ">99 %"
