import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from resnext.data.dataset import ArrayDataset, BadImageError
from resnext.evaluation.calibration import compute_calibration
from resnext.evaluation.evaluator import Evaluation
from resnext.evaluation.metrics import compute_interval95
from resnext.evaluation.output.protocol import build_protocol
from resnext.evaluation.output.report import describe_calibration, write_report
from resnext.evaluation.output.tables import collect_metrics, measure_calibration, write_evaluation
from resnext.recipe import dump_recipe
from resnext.settings import Recipe
from resnext.settings_shared import ModelSettings
from tests.evaluation.conftest import PREPROCESSING, make_dataset, make_evaluation

IMAGE = '"><img src=http://evil.example/x onerror=alert(1)>'
EVIL = ("<script>alert(1)</script>", IMAGE, "{{ 7 * 7 }}", "日本語", "&lt;")
HOW = {"data": "numbers <test>", "split": "by hand", "device": "cpu", "checkpoint": "best", "step": 20}
PROTOCOL = build_protocol(PREPROCESSING, **HOW)
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Reader(HTMLParser):
    """Collects tags, checks that they nest, and joins the visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data + " "


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with everything a report shows, with hostile class names and paths."""
    run = tmp_path_factory.mktemp("runs") / "my <run>"
    run.mkdir()
    (run / "recipe.yaml").write_text(dump_recipe(Recipe(model=ModelSettings(name="resnext50_32x4d"))))
    (run / "environment.json").write_text(json.dumps({"torch": "2.9", "cpu": "<b>CPU</b>", "isa": ["avx2", "amx"]}))
    (run / "metrics.csv").write_text("epoch,step,top1_error\n1,10,30.5\n2,20,12.25\n3,30,14.0\n")
    write_evaluation(evaluation(), dataset(), PREPROCESSING, run / "evaluation", PROTOCOL)
    for name in ("curves.png", "samples.png"):
        (run / name).write_bytes((run / "evaluation" / "worst.png").read_bytes())
    return run


@pytest.fixture
def run_directory(whole_run: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(whole_run, tmp_path / whole_run.name))


def evaluation() -> Evaluation:
    return make_evaluation([0, 1, 2, 3, 4, 4], [0, 1, 0, 3, 3, 4], EVIL)


def dataset() -> ArrayDataset:
    return make_dataset(np.array([0, 1, 2, 3, 4, 4]), 5, EVIL)


def read(run: Path, **changes: object) -> Reader:
    metrics = collect_metrics(evaluation(), measure_calibration(evaluation())) | {"environment": {"date": "today"}}
    metrics |= {"protocol": PROTOCOL} | changes
    assert write_report(run, evaluation(), metrics, dataset(), PREPROCESSING) == run / "report.html"
    return Reader((run / "report.html").read_text(encoding="utf-8"))


def test_the_report_shows_result_settings_tables_pictures_and_environment(run_directory: Path) -> None:
    page = read(run_directory)
    result = ("33.33 %", "95 % interval", "The best was epoch 2: 5 of 6 right, 12.25 % top-1 error", "test[4]")
    protocol = ("numbers <test>", "by hand", "checkpoint best (step 20)")
    settings = ("resnext50_32x4d", "weight_decay", "batch_size", "avx2, amx", "<b>CPU</b>", "my <run>")
    for part in (*result, *protocol, *settings, *EVIL):  # hostile names are shown as text
        assert part in page.text
    assert sum(tag == "img" for tag, _ in page.tags) == 4 + 6  # plots, and the images with the highest loss


def test_the_last_epoch_comes_first_and_the_best_one_is_said_to_be_chosen_on_the_same_images(
    run_directory: Path,
) -> None:
    text = " ".join(read(run_directory).text.split())
    low, high = compute_interval95(1, 6)  # 14 % of 6 images
    first = f"5 of 6 images right after the last epoch 14.00 % top-1 error (95 % interval {low:.2f} to {high:.2f})"
    best = "It was selected on these same images"
    again = "4 of 6 right at the best checkpoint, after epoch 2: 33.33 % top-1 error (95 % interval"
    assert text.index(first) < text.index(again) < text.index(best)
    (run_directory / "metrics.csv").unlink()
    text = " ".join(read(run_directory).text.split())
    assert "4 of 6 images right 33.33 % top-1 error (95 % interval" in text
    assert "4 of 6 right at the best checkpoint: 33.33 % top-1 error" in text


def test_a_last_epoch_that_is_the_best_one_is_named_once(run_directory: Path) -> None:
    (run_directory / "metrics.csv").write_text("epoch,step,top1_error\n1,10,40.0\n2,20,33.333\n")
    text = " ".join(read(run_directory).text.split())
    assert "4 of 6 images right after the last epoch, which is the best one 33.33 % top-1 error (95 % interval" in text
    assert "selected on these same images" not in text
    assert "After epoch 2, the last one: 4 of 6 right, 33.33 % top-1 error, the best of all epochs." in text


@pytest.mark.parametrize("error", ["1e300", "inf", "nan", "-5"])
def test_an_epoch_with_an_impossible_error_gives_no_interval(run_directory: Path, error: str) -> None:
    (run_directory / "metrics.csv").write_text(f"epoch,step,top1_error\n1,10,{error}\n2,20,10\n3,30,{error}\n")
    text = read(run_directory).text
    assert "% top-1 error" in text
    assert "images right" not in text


def test_the_report_needs_nothing_from_outside(run_directory: Path) -> None:
    page = read(run_directory)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base")
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "action"):
            assert attributes.get(name, "data:").startswith("data:image/png;base64,") or name not in attributes  # type: ignore[union-attr]
    style = re.search(r"<style>(.*?)</style>", (run_directory / "report.html").read_text(), re.DOTALL)
    assert style
    assert "url(" not in style[1]
    assert "@import" not in style[1]


@pytest.mark.parametrize(
    "name",
    [
        *("recipe.yaml", "environment.json", "metrics.csv", "curves.png", "samples.png"),
        *("evaluation/confusion.png", "evaluation/reliability.png", "evaluation/worst.png"),
    ],
)
@pytest.mark.parametrize("damage", [None, b"", b'\x00\xff{{ <b> 1,2\n"', b"[" * 100_000])
def test_a_missing_or_damaged_file_is_left_out(run_directory: Path, name: str, damage: bytes | None) -> None:
    path = run_directory / name
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    assert "Results per class" in read(run_directory).text


def test_an_image_that_cannot_be_read_any_more_is_left_out(
    run_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: ArrayDataset, index: int) -> None:
        raise BadImageError(f"test[{index}]", "it is gone")

    monkeypatch.setattr(ArrayDataset, "image", fail)
    page = read(run_directory)
    assert sum(tag == "img" for tag, _ in page.tags) == 4
    assert "test[4]" in page.text


def test_the_report_says_how_sure_the_network_is_and_lists_the_bins(run_directory: Path) -> None:
    text = " ".join(read(run_directory).text.split())
    sentence = "gave its prediction a probability of 80.0 %, and 66.7 % of the 6 predictions were right, which agree"
    assert sentence in text
    assert "73 to 80 % 6 4 66.7 % 80.0 % -13.3" in text
    assert "0 to 7 % 0 0 – – –" in text


@pytest.mark.parametrize(
    ("right", "verdict"), [(60, "surer than it should be"), (80, "which agree"), (97, "less sure than it could be")]
)
def test_confidence_is_compared_with_what_so_many_images_can_tell(right: int, verdict: str) -> None:
    correct = np.arange(100) < right
    said = describe_calibration(compute_calibration(np.full(100, 0.79), correct))["sentence"]
    assert f"79.0 %, and {right}.0 % of the 100 predictions were right" in said
    assert verdict in said


@pytest.mark.parametrize(("real", "shown"), [({"top1_error": 12.345}, True), ({"top1_error": None}, False)])
def test_the_error_under_real_labels_is_shown_where_it_was_asked_for(
    tmp_path: Path, real: dict[str, float | None], shown: bool
) -> None:
    assert "ReaL" not in read(tmp_path).text
    assert ("ReaL error 12.35 %" in " ".join(read(tmp_path, real=real).text.split())) is shown
