"""report.html and the gallery of predictions in a browser: on a phone nothing is cut, in light and dark."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import resnext
from resnext.evaluation.output.prediction_files import write_gallery
from resnext.evaluation.output.protocol import build_protocol
from resnext.evaluation.output.report import write_report
from resnext.evaluation.output.tables import write_evaluation
from tests.evaluation.conftest import PREPROCESSING, make_dataset, make_evaluation
from tests.evaluation.output.page_checks import (
    DESKTOP,
    LONG_NAMES,
    PHONE,
    check_accessibility,
    check_layout,
    open_file,
)

RECIPE = """
model: {{name: resnext11_2x4d, base_channels: 4}}
data: {{source: folder, path: {folder}, val_fraction: 0.4, image_size: 16, workers: 0}}
augment: {{crop: center}}
train: {{epochs: 2, batch_size: 8, channels_last: "no", fast: "no"}}
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small pictures with long class names, and long names of files."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number, name in enumerate(LONG_NAMES):
        (folder / name).mkdir()
        for index in range(5):
            pixels = rng.integers(0, 60, (20, 24, 3)) + 35 * number
            file = folder / name / f"IMG_2024-05-01_{index:02d}_Aufnahme_im_Schlossgartenwaldstück.png"
            Image.fromarray(pixels.astype(np.uint8)).save(file)
    return folder


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> resnext.Run:
    """A real run of two epochs."""
    place = tmp_path_factory.mktemp("runs")
    (place / "recipe.yaml").write_text(RECIPE.format(folder=photos))
    return resnext.train(place / "recipe.yaml", place / "run", quiet=True)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_of_a_run_fits_a_phone_with_every_name_whole(browser: Any, run: resnext.Run, scheme: str) -> None:
    with open_file(browser, run.files.report, color_scheme=scheme, **PHONE) as page:
        check_layout(page, 390)
        check_accessibility(page)
        text = page.inner_text("body")
        assert all(name in text for name in LONG_NAMES)
        words = " ".join(text.split())
        right = re.search(r"\d+ of \d+ images right", words)
        assert right is not None
        assert right.start() < words.index("top-1 error")
        plots = page.evaluate("[...document.querySelectorAll('.plot img')].map((one) => one.width / one.naturalWidth)")
        assert len(plots) == 3
        assert min(plots) > 0.6  # text of 8 points is then at least 9 pixels high
        folded = page.evaluate("getComputedStyle(document.querySelector('.rows tr:not(.heads)')).display")
        assert folded == "grid"


def test_the_report_of_a_run_fits_a_desktop(browser: Any, run: resnext.Run) -> None:
    with open_file(browser, run.files.report, **DESKTOP) as page:
        check_layout(page, 1280)
        check_accessibility(page)
        assert page.locator(".cards img").count() == 12


def test_a_hundred_long_class_names_fit_a_phone(browser: Any, tmp_path: Path) -> None:
    names = tuple(f"{LONG_NAMES[number % 6]} {number}" for number in range(100))
    labels = list(range(100))
    evaluation = make_evaluation(labels, [0] * 50 + labels[50:], names)
    about = build_protocol(PREPROCESSING, data="numbers", split="by hand", device="cpu")
    data = make_dataset(np.arange(100), 100, names)
    metrics = write_evaluation(evaluation, data, PREPROCESSING, tmp_path / "evaluation", about)
    with open_file(browser, write_report(tmp_path, evaluation, metrics, data, PREPROCESSING), **PHONE) as page:
        check_layout(page, 390)
        text = page.inner_text("body")
        assert all(name in text for name in names)


def test_the_gallery_fits_a_phone(browser: Any, run: resnext.Run, photos: Path, tmp_path: Path) -> None:
    predictions = resnext.predict(run.load(), sorted(photos.glob("*/*_0[01]_*.png")))
    write_gallery(tmp_path / "gallery.html", predictions, 2, "Vorhersagen " + LONG_NAMES[1])
    with open_file(browser, tmp_path / "gallery.html", **PHONE) as page:
        check_layout(page, 390)
        check_accessibility(page)
        assert page.locator(".cards img").count() == 12


@pytest.mark.parametrize(
    "cut",
    [
        "<p style='white-space: nowrap'>" + LONG_NAMES[0] * 3 + "</p>",
        "<p style='width: 9em; overflow: hidden; white-space: nowrap'>" + LONG_NAMES[0] + "</p>",
        "<p style='text-overflow: ellipsis'>" + LONG_NAMES[0] + "</p>",
    ],
)
def test_the_check_finds_text_that_is_cut(browser: Any, tmp_path: Path, cut: str) -> None:
    (tmp_path / "cut.html").write_text(f"<meta name=viewport content='width=device-width'><p>short</p>{cut}")
    with open_file(browser, tmp_path / "cut.html", **PHONE) as page, pytest.raises(AssertionError):
        check_layout(page, 390)
