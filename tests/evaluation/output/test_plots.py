import io
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from sklearn.calibration import calibration_curve

from resnext.data.preprocessing import Preprocessing
from resnext.data.transforms.pipeline import build_eval_transform
from resnext.evaluation.calibration import BINS, compute_calibration
from resnext.evaluation.output import plots
from resnext.plotting import BLUE, RED, clean_text, count_columns, save_figure, wrap_text
from tests.evaluation.conftest import PREPROCESSING, make_dataset, make_evaluation

HOSTILE = ("$\\frac{1}{2}$", "$5 or $6", "a_b^c", "x" * 500, "a\nb\x00\x1b[31m", "日本語 🐶", "\udcff", " ", "<b>&")


def drawn(figure: Figure, tmp_path_factory: pytest.TempPathFactory) -> Image.Image:
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    save_figure(figure, path)
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        image.load()
        return image


def texts(figure: Figure) -> list[str]:
    inside = [text.get_text() for axes in figure.axes for text in axes.texts]
    return inside + [text.get_text() for text in figure.texts]


def test_hostile_names_draw_without_a_warning(tmp_path_factory: pytest.TempPathFactory) -> None:
    k = len(HOSTILE)
    result = make_evaluation(list(range(k)), [0] * k, HOSTILE)
    labels = torch.arange(k)
    images = torch.zeros(k, 1, 4, 4, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in (
            plots.plot_confusion(result.confusion, HOSTILE),
            plots.plot_worst_images(result, make_dataset(np.arange(k), k, HOSTILE), PREPROCESSING),
            plots.plot_samples(images, labels, HOSTILE, PREPROCESSING),
        ):
            assert drawn(figure, tmp_path_factory).size[0] > 300


def test_a_dollar_is_a_dollar() -> None:
    figure = plots.plot_confusion(np.eye(2, dtype=int), ("$a$", "b"))
    ticks = figure.axes[0].get_yticklabels()
    assert ticks[0].get_text() == "$a$"
    assert not ticks[0].get_parse_math()


@pytest.mark.parametrize(
    ("text", "columns", "expected"),
    [
        ("short", 10, "short"),
        ("exactly ten", 11, "exactly ten"),
        ("longer than that", 8, "longer…"),
        ("two\nlines\tand \x00 more", 40, "two lines and more"),
        ("日本語日本語", 7, "日本語…"),
        ("", 10, "(no name)"),
        ("\u202eevil", 10, "evil"),
    ],
)
def test_names_become_one_line_of_bounded_width(text: str, columns: int, expected: str) -> None:
    assert clean_text(text, columns) == expected
    assert count_columns(clean_text(text, columns)) <= columns


def test_the_confusion_matrix_shows_its_counts_names_and_shades() -> None:
    counts = np.array([[90, 10, 0], [0, 5, 5], [0, 0, 0]])
    figure = plots.plot_confusion(counts, ("cat", "dog", "emu"))
    axes = figure.axes[0]
    assert sorted(text.get_text() for text in axes.texts) == ["10", "5", "5", "90"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["cat", "dog", "emu"]
    shades = axes.images[0].get_array()
    assert np.allclose(shades[2], 1)  # no image of that class: white, not a division by zero
    red, _, blue = shades[0, 0]
    assert blue > red  # hits are blue
    red, _, blue = shades[1, 2]
    assert red > blue  # mistakes are red
    assert shades[1, 2].sum() < shades[0, 1].sum()  # half the row is darker than a tenth


@pytest.mark.parametrize("k", [100, 1000])
def test_many_classes_are_drawn_without_text_and_no_mistake_vanishes(k: int) -> None:
    counts = np.diag(np.full(k, 10))
    counts[3, k - 5] = 10
    figure = plots.plot_confusion(counts, tuple(f"class {i}" for i in range(k)))
    axes = figure.axes[0]
    assert not axes.texts
    shades = np.asarray(axes.images[0].get_array())
    assert max(shades.shape[:2]) <= plots.MAX_MATRIX_CELLS
    assert int(((shades[..., 0] - shades[..., 2]) > 0.1).sum()) == 1


def test_the_reliability_picture_shows_accuracy_gaps_counts_and_empty_bins_as_scikit_learn_counts_them() -> None:
    rng = np.random.default_rng(0)
    probability = rng.uniform(0.2, 1, 300).astype(np.float32)
    probability = probability[(probability < 0.5) | (probability > 0.62)]
    correct = rng.random(len(probability)) < probability**2
    accuracy, confidence = calibration_curve(correct, probability, n_bins=BINS)
    figure = plots.plot_reliability(compute_calibration(probability, correct))
    top, under = figure.axes
    bars, over, below = top.containers[:3]
    assert [bar.get_height() for bar in bars] == pytest.approx(accuracy)
    gap = confidence - accuracy
    assert [bar.get_height() for bar in over] == pytest.approx(np.maximum(gap, 0), abs=1e-6)
    assert [bar.get_y() for bar in over] == pytest.approx(accuracy)
    assert [bar.get_height() for bar in below] == pytest.approx(np.maximum(-gap, 0), abs=1e-6)
    counts = np.histogram(probability, np.arange(BINS + 1) / BINS)[0]
    assert [bar.get_height() for bar in under.containers[0]] == counts.tolist()
    assert [text.get_text() for text in under.texts] == [str(count) for count in counts]
    assert len(top.containers[3]) == (counts == 0).sum() > 0
    assert len(bars) == (counts > 0).sum()
    (ideal,) = top.lines
    assert ideal.get_xydata().tolist() == [[0, 0], [1, 1]]  # type: ignore[union-attr]


def test_the_reliability_picture_names_what_it_draws_and_is_told_apart_without_colors() -> None:
    calibration = compute_calibration(np.array([0.95, 0.99, 0.41, 0.42]), np.array([True, False, True, True]))
    figure = plots.plot_reliability(calibration)
    top, under = figure.axes
    assert (top.get_ylabel(), under.get_ylabel()) == ("right predictions (accuracy)", "images")
    assert under.get_xlabel() == "probability of the prediction (confidence)"
    ece = 100 * (2 * abs(0.5 - 0.97) + 2 * abs(1 - 0.415)) / 4
    assert any(
        f"(ECE) {ece:.2f} %" in text and "mean gap over all images" in text.replace("\n", " ") for text in texts(figure)
    )
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"share right in the bin", "mean probability in the bin", "ideal: both equal", "no images"} <= set(names)
    assert {"gap: too sure", "gap: not sure enough"} <= set(names)
    kinds = [container[0] for container in top.containers]
    hatches = [bar.get_hatch() for bar in kinds]
    grey = [float(np.dot(bar.get_facecolor()[:3], (0.299, 0.587, 0.114))) for bar in kinds]
    looks = sorted(zip(grey, hatches, strict=True), key=lambda look: look[0])
    assert all(b[0] - a[0] > 0.1 or a[1] != b[1] for a, b in pairwise(looks))


@pytest.mark.parametrize(
    ("text", "columns", "expected"),
    [
        ("short", 10, ["short"]),
        ("Donaudampfschifffahrtsgesellschaftskapitän", 22, ["Donaudampfschifffahrts", "gesellschaftskapitän"]),
        ("Acer pseudoplatanus var. x", 22, ["Acer pseudoplatanus", "var. x"]),
        ("tree_of-heaven", 8, ["tree_of-", "heaven"]),
        ("日本語日本語", 6, ["日本語", "日本語"]),
        ("a" * 100, 10, ["a" * 10] * 3 + ["a" * 9 + "…"]),
        ("", 5, ["(no", "name)"]),
    ],
)
def test_names_are_wrapped_whole(text: str, columns: int, expected: list[str]) -> None:
    assert wrap_text(text, columns) == expected


def test_empty_and_single_evaluations_can_be_drawn(tmp_path_factory: pytest.TempPathFactory) -> None:
    one = make_evaluation([0], [0], ("a", "b"))
    drawn(plots.plot_worst_images(one, make_dataset(np.array([0]), 2), PREPROCESSING), tmp_path_factory)
    drawn(plots.plot_reliability(compute_calibration(np.empty(0), np.empty(0, dtype=bool))), tmp_path_factory)


def test_the_worst_grid_shows_the_networks_input_with_prediction_and_truth() -> None:
    rng = np.random.default_rng(0)
    data = make_dataset(np.array([0, 1, 0]), 2, ("cat", "dog"))
    data.images[:] = rng.integers(0, 256, data.images.shape)
    result = make_evaluation([0, 1, 0], [0, 0, 1], ("cat", "dog"), probability=0.8)
    view = Preprocessing(image_size=6, resize=7, mean=(0.0,), std=(1.0,), channels=1)
    figure = plots.plot_worst_images(result, data, view, count=2)
    assert len(figure.axes) == 2
    for axes, index in zip(figure.axes, (2, 1), strict=True):
        assert np.array_equal(axes.images[0].get_array(), build_eval_transform(view)(data.image(index))[0].numpy())
    shown = texts(figure)
    assert shown.count("dog  80 %") == shown.count("cat  80 %") == 1
    assert {"true: cat", "true: dog", "test[2]", "test[1]"} <= set(shown)
    colours = {text.get_text(): to_hex(text.get_color()) for text in figure.texts}
    assert colours["dog  80 %"] == RED
    right = plots.plot_worst_images(make_evaluation([0], [0], ("cat", "dog")), data, view)
    assert {text.get_text(): to_hex(text.get_color()) for text in right.texts}["cat  80 %"] == BLUE


def test_the_sample_grid_clamps_floats_and_names_mixtures() -> None:
    images = torch.tensor([-0.5, 0.5, 1.5]).view(3, 1, 1, 1).expand(3, 3, 5, 5)
    shares = torch.tensor([[0.7, 0.3], [1.0, 0.0], [0.0, 1.0]])
    figure = plots.plot_samples(images, shares, ("cat", "dog"), PREPROCESSING)
    assert [int(axes.images[0].get_array().max()) for axes in figure.axes] == [0, 128, 255]
    assert {"cat 70% + dog 30%", "cat 100%", "dog 100%"} <= set(texts(figure))
    images = torch.full((2, 1, 4, 4), 200, dtype=torch.uint8)
    bytes_ = plots.plot_samples(images, torch.tensor([0, 1]), ("cat", "dog"), PREPROCESSING)
    assert [int(axes.images[0].get_array().max()) for axes in bytes_.axes] == [200, 200]
    assert {"cat", "dog"} <= set(texts(bytes_))
