from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle
from PIL import Image

from resnext.detection.evaluation import draw_boxes
from resnext.detection.evaluation.coco_eval import evaluate_detections
from resnext.detection.evaluation.draw_boxes import CLASS_COLORS, draw_detections, pick_class_color
from resnext.detection.evaluation.plots import (
    FALSE_COLOR,
    MATCHED_COLOR,
    MISSED_COLOR,
    plot_best_and_worst,
    plot_precision_recall,
    plot_training_samples,
)
from resnext.detection.training.plots import plot_training_curves
from resnext.plotting import encode_figure
from tests.detection.synthetic import dataset, detections, random_case

A, B, FAR = [100, 100, 160, 160], [300, 100, 380, 200], [400, 300, 460, 360]
GREY = Image.new("RGB", (640, 480), (128, 128, 128))


def drawn(image: Image.Image, boxes: list[list[float]], label: int = 0) -> np.ndarray:
    n = len(boxes)
    found = np.array(boxes, np.float32).reshape(-1, 4)
    classes = ("cat", "$dog$ \n日本")
    return np.asarray(draw_detections(image, found, np.full(n, label), np.full(n, 0.9), classes))


def rgb(colour: str) -> list[int]:
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def colours_of(figure: Any) -> list[list[tuple[str, str]]]:
    """(edge colour, line style) of the boxes of each picture."""
    from matplotlib.colors import to_hex

    kinds = [[p for p in axes.patches if isinstance(p, Rectangle)] for axes in figure.axes]
    return [[(to_hex(p.get_edgecolor()), str(p.get_linestyle())) for p in patches] for patches in kinds]


@pytest.mark.parametrize("label", [0, 1, len(CLASS_COLORS) + 1])
def test_a_box_has_its_classes_colour_on_all_four_sides(label: int) -> None:
    pixels = np.asarray(
        draw_detections(GREY, np.array([FAR], "f4"), np.array([label]), np.array([0.5]), [f"c{i}" for i in range(20)])
    )
    x1, y1, x2, y2 = FAR
    for x, y in ((x1, 330), (x2, 330), (430, y1), (430, y2)):
        near = pixels[y - 2 : y + 3, x - 2 : x + 3].reshape(-1, 3)
        assert (near == rgb(pick_class_color(label))).all(axis=1).any()
    assert (pixels[330, 430] == 128).all()
    assert (np.asarray(GREY) == 128).all()  # the original is as it was


@pytest.mark.parametrize("size", [(1, 1), (9, 400), (64, 64), (300, 200), (479, 480), (4000, 30), (3000, 2000)])
def test_images_of_any_size_can_be_drawn_on_and_small_ones_are_enlarged(size: tuple[int, int]) -> None:
    box = [0, 0, *size]
    image = draw_detections(Image.new("L", size), np.array([box], "f4"), np.array([0]), np.array([1.0]), ["cat"])
    factor = image.width // size[0]
    assert image.size == (size[0] * factor, size[1] * factor)
    assert factor == (1 if max(size) >= 480 else -(-480 // max(size)))
    assert image.mode == "RGB"


def test_names_keep_clear_of_each_other_and_inside_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    tags: list[Any] = []
    plain_tag = draw_boxes._draw_label

    def noted(*arguments: Any) -> None:
        plain_tag(*arguments)
        tags[:] = arguments[-1]

    monkeypatch.setattr(draw_boxes, "_draw_label", noted)
    drawn(GREY, [A, A, [101, 99, 158, 162], [0, 0, 30, 30], [600, 440, 640, 480], [0, 0, 640, 480]])
    assert len(tags) == 6
    for i, (x1, y1, x2, y2) in enumerate(tags):
        assert 0 <= x1 < x2 < 640
        assert 0 <= y1 < y2 < 480
        for other in tags[:i]:
            assert min(x2, other[2]) <= max(x1, other[0]) or min(y2, other[3]) <= max(y1, other[1])


def test_the_surest_box_lies_on_top() -> None:
    for sure in (0, 1):
        scores = np.array([0.9 - 0.5 * sure, 0.4 + 0.5 * sure])
        both = draw_detections(GREY, np.array([FAR, FAR], "f4"), np.array([0, 1]), scores, ("cat", "dog"))
        assert np.asarray(both)[330, FAR[2]].tolist() == rgb(pick_class_color(sure))


def test_nothing_found_leaves_the_picture_and_odd_names_do_no_harm() -> None:
    assert (drawn(GREY, []) == 128).all()
    assert (drawn(GREY, [A], label=1) != 128).any()


def test_best_and_worst_show_what_was_found_false_and_missed() -> None:
    data = dataset([(0, 0, A), (0, 0, B), (1, 0, A)], images=3)
    found = detections((0, 0, A, 0.9), (0, 0, FAR, 0.9), (1, 0, A, 0.9))
    figure = plot_best_and_worst(evaluate_detections(data, found), data, worst=1, best=1)
    low, high = colours_of(figure)
    assert low == [("#ffffff", "-"), (MISSED_COLOR, "--"), (FALSE_COLOR, "-"), (MATCHED_COLOR, "-")]
    assert high == [("#ffffff", "-"), (MATCHED_COLOR, "-")]
    assert {"1 of 2 found, 1 false  F1 0.50", "1 of 1 found, 0 false  F1 1.00"} <= {t.get_text() for t in figure.texts}


def test_what_is_found_in_a_crowd_is_not_drawn_as_false() -> None:
    data = dataset([(0, 0, A), (0, 0, [200, 200, 400, 400])], crowd=[1])
    result = evaluate_detections(data, detections((0, 0, A, 0.5), (0, 0, [210, 210, 250, 250], 0.9)))
    figure = plot_best_and_worst(result, data)
    assert colours_of(figure) == [[("#ffffff", "-"), ("#9ca3af", ":"), (MATCHED_COLOR, "-")]]
    assert list(figure.axes[0].images[0].get_extent()) == [0, 640, 480, 0]  # boxes go by the edges of pixels


def test_images_that_are_not_there_are_grey_and_said_to_be_so(tmp_path: Path) -> None:
    data = dataset([(0, 0, A)], size=(4000, 3000))
    data = type(data)(**{**vars(data), "root": str(tmp_path)})
    figure = plot_best_and_worst(evaluate_detections(data, detections((0, 0, A, 0.9))), data)
    (axes,) = figure.axes
    assert axes.images[0].get_size() == (1000, 1333)
    assert [p.get_x() for p in axes.patches if isinstance(p, Rectangle)] == pytest.approx([100 / 3] * 2)
    assert "000.png (cannot be read)" in {t.get_text() for t in figure.texts}


def test_pictures_of_nothing_are_pictures() -> None:
    empty = dataset([], images=1)
    nothing = evaluate_detections(empty, detections())
    for figure in (plot_best_and_worst(nothing, empty), plot_precision_recall(nothing), plot_training_curves([])):
        assert encode_figure(figure).startswith(b"\x89PNG")


def test_curves_of_few_classes_are_named_and_of_many_only_their_mean() -> None:
    data, found = random_case(2)
    result = evaluate_detections(data, found)
    left, right = plot_precision_recall(result).axes
    for axes, key in ((left, "ap50"), (right, "ap75")):
        names = [text.get_text() for text in axes.get_legend().get_texts()]
        own = [f"{one.name}  {getattr(one, key):.3f}" for one in result.per_class]
        assert names == [*own, f"mean of 3  {getattr(result, key):.3f}"]
    data, found = random_case(2, images=20, classes=30)
    many = evaluate_detections(data, found)
    (name,) = [text.get_text() for text in plot_precision_recall(many).axes[0].get_legend().get_texts()]
    assert name.endswith(f"{many.ap50:.3f}")


def test_training_images_of_any_size_and_kind_show_their_boxes() -> None:
    images = [torch.zeros(3, 48, 64, dtype=torch.uint8), torch.rand(1, 90, 30), torch.full((3, 8, 8), float("nan"))]
    boxes = [torch.tensor([[1.0, 1, 9, 9], [3, 3, 5, 7]]), torch.empty(0, 4), torch.tensor([[0.0, 0, 8, 8]])]
    figure = plot_training_samples(images, boxes, [torch.arange(len(own)) for own in boxes], ("cat", "dog"))
    assert colours_of(figure) == [
        [(pick_class_color(0), "-"), (pick_class_color(1), "-")],
        [],
        [(pick_class_color(0), "-")],
    ]
    assert {"64×48, 2 boxes", "30×90, 0 boxes", "8×8, 1 box", "cat", "dog"} <= {t.get_text() for t in figure.texts}
    assert encode_figure(figure).startswith(b"\x89PNG")


def test_curves_of_a_run_skip_what_an_epoch_does_not_know() -> None:
    rows: list[dict[str, Any]] = [
        {"kind": "step", "step": s, "epoch": 1 + s // 5, "lr": 0.1, "loss": 1.0} for s in range(10)
    ]
    rows += [
        {"kind": "epoch", "epoch": 1, "step": 5, "train_loss": 2.0, "loss_objectness": 0.5, "ap": None, "ap50": None},
        {"kind": "epoch", "epoch": 2, "step": 10, "train_loss": 1.0, "loss_objectness": 0.25, "ap": 0.25, "ap50": 0.5},
    ]
    loss, precision, rate = plot_training_curves(rows, "a $run$").axes
    assert [line.get_ydata().tolist() for line in loss.lines] == [[2, 1], [0.5, 0.25]]
    assert [line.get_xdata().tolist() for line in precision.lines] == [[2], [2]]
    assert rate.lines[0].get_xdata()[-1] == pytest.approx(9 / 5)
