"""Plots of a detection run: precision and recall, best and worst images, training samples."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from torch import Tensor

from resnext.data.dataset import BadImageError
from resnext.detection.data.dataset import DetectionDataset
from resnext.detection.evaluation.coco_eval import DetectionEvaluation
from resnext.detection.evaluation.draw_boxes import pick_class_color
from resnext.detection.evaluation.matching import UNMATCHED
from resnext.plotting import (
    BLUE,
    FAINT,
    INK,
    MUTED,
    PAPER,
    RED,
    add_title,
    clean_text,
    convert_to_pixels,
    create_figure,
    draw_caption,
    hide_axes,
    plot_style,
    shorten_path,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MATCHED_COLOR, FALSE_COLOR, MISSED_COLOR = "#1a9e5c", "#d9381e", "#ffd21f"
MAX_NAMED_CLASSES = 10  # classes up to which each curve has its own colour and name
COLUMNS, TILE, GAP = 3, (3.1, 2.45), 0.18  # of image grids, in inches

Tile = tuple[np.ndarray, list[dict[str, Any]], list[tuple[str, str]]]  # image, boxes, caption lines (text, color)


def plot_precision_recall(evaluation: DetectionEvaluation) -> "Figure":
    """Plot precision against recall at IoU 0.50 and 0.75, for each class and their mean."""
    curves, classes = evaluation.curves, evaluation.classes
    known = [k for k in range(len(classes)) if not np.isnan(curves.precision50[k]).any()]
    few = len(known) <= MAX_NAMED_CLASSES
    with plot_style():
        figure = create_figure(9.6, 4.5)
        below = f"{evaluation.n:,} images, {evaluation.boxes:,} boxes in {evaluation.name}"
        add_title(figure, "Precision and recall", below)
        for at, (iou, values) in enumerate((("0.50", curves.precision50), ("0.75", curves.precision75))):
            axes = figure.add_axes((0.07 + 0.49 * at, 0.115, 0.425, 0.7))
            for k in known:
                label = f"{clean_text(classes[k], 22)}  {values[k].mean():.3f}" if few else None
                colour = pick_class_color(k) if few else "#b6c4d6"
                axes.plot(curves.recall, values[k], color=colour, linewidth=1.6 if few else 0.7, label=label)
            if len(known) > 1:
                mean = values[known].mean(axis=0)
                label = f"mean of {len(known)}  {mean.mean():.3f}"
                axes.plot(curves.recall, mean, color=INK, linewidth=2, linestyle="-" if not few else (0, (4, 2)),
                          label=label)  # fmt: skip
            axes.set(xlim=(0, 1.005), ylim=(0, 1.03), xlabel="recall", ylabel="precision" if not at else "")
            axes.set_title(f"IoU {iou}", fontsize=9.5, loc="left", color=MUTED)
            axes.grid(color=FAINT, linewidth=0.7)
            axes.set_axisbelow(True)
            if known:
                axes.legend(loc="lower left", fontsize=8, title="AP", alignment="left", title_fontsize=8)
            else:
                axes.text(0.5, 0.5, "no boxes to find", ha="center", color=MUTED)
    return figure


def plot_best_and_worst(
    evaluation: DetectionEvaluation, dataset: DetectionDataset, worst: int = 6, best: int = 3
) -> "Figure":
    """Plot the images with the lowest and highest F1 at IoU 0.5 and the best score threshold."""
    order = evaluation.matches.rank_images()
    low = order[::-1][:worst]
    high = [i for i in order[: max(0, len(order) - len(low))] if evaluation.matches.boxes[i]][:best]
    groups = [("Worst images", [_make_evaluated_tile(evaluation, dataset, int(i)) for i in low])]
    if high:
        groups.append(("Best images", [_make_evaluated_tile(evaluation, dataset, int(i)) for i in high]))
    score = "no correct detection" if evaluation.threshold is None else f"score ≥ {evaluation.threshold.score:.2f}"
    under = [
        ("found", MATCHED_COLOR, "-"),
        ("false", FALSE_COLOR, "-"),
        ("missed", "#b58900", "--"),
        (f"IoU 0.5, {score}", MUTED, ""),
    ]
    return _draw_grid(groups, under)


def plot_training_samples(
    images: Sequence[Tensor], boxes: Sequence[Tensor], labels: Sequence[Tensor], classes: Sequence[str], count: int = 12
) -> "Figure":
    """Plot augmented training images with their boxes, in a color per class.

    ``images`` are [C, H, W], uint8 or float from 0 to 1, not normalized, of any sizes; ``boxes`` [n, 4] and ``labels``
    int64 [n] belong to each.
    """
    tiles: list[Tile] = []
    shown: set[int] = set()
    for image, own, kinds in list(zip(images, boxes, labels, strict=True))[:count]:
        pairs = zip(own.cpu().numpy(), kinds.tolist(), strict=True)
        drawn = [_style_box(box, pick_class_color(label)) for box, label in pairs]
        shown.update(kinds.tolist())
        caption = f"{image.shape[-1]}×{image.shape[-2]}, {len(drawn)} {'box' if len(drawn) == 1 else 'boxes'}"
        tiles.append((convert_to_pixels(image), drawn, [(caption, MUTED)]))
    under = [(clean_text(classes[k], 20), pick_class_color(k), "-") for k in sorted(shown)[:8]]
    if len(shown) > 8:
        under.append((f"and {len(shown) - 8} more", MUTED, ""))
    return _draw_grid([("Augmented training images", tiles)], under)


def _make_evaluated_tile(evaluation: DetectionEvaluation, dataset: DetectionDataset, index: int) -> Tile:
    m, found = evaluation.matches, evaluation.detections
    rows = np.flatnonzero((found.image == index) & m.kept)
    first = int(dataset.offsets[index])
    own = dataset.get_boxes(index)
    hit = {int(box) - first for box in m.box[rows] if box >= 0}
    drawn = [_style_box(own.boxes[i], "#ffffff", width=0.8, halo=False) for i in sorted(hit)]
    drawn += [_style_box(box, "#9ca3af", style=":") for box in own.boxes[own.crowd]]
    names = [clean_text(name, 14) for name in dataset.classes]
    lost = [i for i in np.flatnonzero(~own.crowd) if i not in hit]
    drawn += [_style_box(own.boxes[i], MISSED_COLOR, style="--", name=names[own.labels[i]]) for i in lost]
    false = [row for row in rows if m.box[row] == UNMATCHED]
    drawn += [_style_box(found.boxes[row], FALSE_COLOR, name=names[found.label[row]]) for row in false]
    drawn += [_style_box(found.boxes[row], MATCHED_COLOR) for row in rows if m.box[row] >= 0]
    counts = f"{m.matched[index]} of {m.boxes[index]} found, {m.false[index]} false"
    f1 = f"  F1 {m.f1[index]:.2f}" if m.boxes[index] or m.false[index] else ""
    mistakes = m.missed[index] + m.false[index]
    caption = [(counts + f1, RED if mistakes else BLUE), (shorten_path(dataset.files[index], 44), MUTED)]
    try:
        picture = np.asarray(dataset.load_image(index).convert("RGB"))
    except BadImageError:  # results of other tools can be evaluated without the images
        width, height = dataset.sizes[index].tolist()
        picture = np.full((min(height, 1000), max(1, width * min(height, 1000) // height)), 150, np.uint8)
        drawn = [one | {"box": [side * picture.shape[0] / height for side in one["box"]]} for one in drawn]
        caption[1] = (f"{shorten_path(dataset.files[index], 26)} (cannot be read)", MUTED)
    return picture, drawn, caption


def _style_box(
    box: np.ndarray, colour: str, style: str = "-", width: float = 1.5, halo: bool = True, name: str = ""
) -> dict[str, Any]:
    return {"box": box.tolist(), "colour": colour, "style": style, "width": width, "halo": halo, "name": name}


def _draw_grid(groups: list[tuple[str, list[Tile]]], legend: list[tuple[str, str, str]]) -> "Figure":
    """Draw groups of images with headings in rows, each image with its caption below."""
    wide, high = TILE
    line, top, head = 0.165, 0.62, 0.36
    lines = max((len(caption) for _, tiles in groups for *_, caption in tiles), default=1)
    row_height = high + lines * line + 0.2
    rows = [-(-len(tiles) // COLUMNS) for _, tiles in groups]
    heads = head * (len(groups) - 1)
    width = COLUMNS * (wide + GAP) + GAP
    height = top + heads + sum(rows) * row_height + 0.05
    with plot_style():
        figure = create_figure(width, height)
        add_title(figure, groups[0][0], left=GAP)
        _draw_legend(figure, legend, 0.43)
        y = height - top
        for at, (heading, tiles) in enumerate(groups):
            if at:
                figure.text(GAP / width, (y - 0.08) / height, heading, fontsize=12, fontweight="bold", va="top")
                y -= head
            for i, tile in enumerate(tiles):
                row, column = divmod(i, COLUMNS)
                _draw_tile(figure, tile, GAP + column * (wide + GAP), y - row * row_height, line)
            y -= rows[at] * row_height
    return figure


def _draw_legend(figure: "Figure", entries: list[tuple[str, str, str]], down: float) -> None:
    """Draw a one-row legend ``down`` inches from the top."""
    from matplotlib.lines import Line2D

    width, height = figure.get_size_inches()
    x = GAP
    for text, colour, style in entries:
        if style:
            y = 1 - (down + 0.06) / height
            ends = [x / width, (x + 0.26) / width]
            figure.add_artist(Line2D(ends, [y, y], color=colour, lw=2.2, ls=cast(Any, style)))
            x += 0.34
        figure.text(x / width, 1 - down / height, text, fontsize=8.5, color=MUTED, va="top")
        x += 0.075 * len(text) + 0.22


def _draw_tile(figure: "Figure", tile: Tile, x: float, top: float, line: float) -> None:
    """Draw one image with its boxes, the upper left corner at (x, top) inches."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import Normal, Stroke

    picture, boxes, caption = tile
    width, height = figure.get_size_inches()
    scale = min(TILE[0] / picture.shape[1], TILE[1] / picture.shape[0])
    wide, high = picture.shape[1] * scale, picture.shape[0] * scale
    axes = figure.add_axes((x / width, (top - TILE[1]) / height, wide / width, high / height))
    extent = (0, picture.shape[1], picture.shape[0], 0)  # box coordinates refer to pixel edges
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255, extent=extent, aspect="auto", interpolation="antialiased")
    hide_axes(axes)
    for one in boxes:
        x1, y1, x2, y2 = one["box"]
        patch = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=one["colour"], linewidth=one["width"],
                          linestyle=one["style"], joinstyle="miter")  # fmt: skip
        if one["halo"]:
            patch.set_path_effects([Stroke(linewidth=one["width"] + 1.1, foreground="#1f2937", alpha=0.55), Normal()])
        axes.add_patch(patch)
        if one["name"]:
            patch_look = {"facecolor": one["colour"], "edgecolor": "none", "pad": 0.9, "alpha": 0.9}
            ink = INK if one["colour"] == MISSED_COLOR else PAPER
            axes.text(max(x1, 0), max(y1, 0), one["name"], fontsize=5.2, color=ink, va="bottom" if y1 > 20 else "top",
                      bbox=patch_look, clip_on=True)  # fmt: skip
    axes.set(xlim=(0, picture.shape[1]), ylim=(picture.shape[0], 0))
    draw_caption(figure, x, top - TILE[1] - 0.06, caption, line=line, size=8)
