"""Table 8 and the recipes of detection: schedules are the printed ones, and runs fill the cells."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from resnext.cli import main
from resnext.detection.settings import DetectRecipe
from resnext.errors import RequestError
from resnext.paper.measurements import collect_measurement
from resnext.paper.numbers import Row, get_table
from resnext.paper.row_recipes import get_recipe_path, read_row_recipe
from resnext.paper.run import get_rpn_recipe
from resnext.recipe import list_recipes
from resnext.recipe_header import read_header
from resnext.training.schedule import compute_learning_rate
from resnext.weights.released import load_released
from tests.paper.conftest import write_run

EVERY = [path.stem for name, path in list_recipes().items() if "/coco-" in name]
X50 = "coco-resnext50-32x4d-fast-rcnn"
each_recipe = pytest.mark.parametrize("name", EVERY)
each_row = pytest.mark.parametrize("row", get_table("table8").rows, ids=lambda row: row.key)


def read(name: str, **changes: Any) -> DetectRecipe:
    recipe = read_row_recipe(name, changes)
    assert isinstance(recipe, DetectRecipe)
    return recipe


def test_each_row_has_the_two_steps_of_the_paper_and_one_that_is_practical() -> None:
    names = {"resnet50", "resnext50-32x4d", "resnet101", "resnext101-32x4d"}
    paper = {f"paper/coco-{name}{step}" for name in names for step in ("", "-rpn", "-fast-rcnn")}
    assert {name for name in list_recipes() if name.startswith("paper/coco-")} == paper
    for row in get_table("table8").rows:
        name = str(row.recipe)
        assert read(name).model.architecture(1000, 3) == row.architecture()
        assert f"{row.published['ap50']:.1f}" in read_header(get_recipe_path(name)).fields["Expected"]
        assert get_rpn_recipe(name) in EVERY


@each_row
def test_the_two_steps_are_as_printed(row: Row) -> None:
    second, first = read(str(row.recipe)), read(get_rpn_recipe(str(row.recipe)))
    for r, batch, lr in ((first, 16, 0.02), (second, 8, 0.005)):
        assert (r.train.steps, r.train.batch_size, r.optimizer.lr) == (180_000, batch, lr)
        assert (r.optimizer.weight_decay, r.optimizer.momentum, r.optimizer.nesterov) == (1e-4, 0.9, False)
        rates = [compute_learning_rate(r.schedule, lr, 180_000, 7000, step) for step in (0, 119_999, 120_000, 179_999)]
        assert rates == pytest.approx([lr, lr, lr / 10, lr / 10])
        assert (r.data.min_size, r.data.max_size, r.detector.layout, r.detector.pool) == (600, 1000, "c4", "max")
        assert (r.detector.rpn_post_nms_train, r.detector.rpn_post_nms_test, r.detector.rpn_nms) == (2000, 300, 0.7)
        assert r.init.frozen_bn
    assert first.train.stage == "rpn"
    assert first.detector.rpn_batch == 256
    assert second.train.stage == "fast_rcnn"
    assert second.train.proposals == f"runs/paper/{get_rpn_recipe(str(row.recipe))}"
    assert (second.detector.roi_batch, second.detector.roi_positive, second.detector.nms) == (64, 0.25, 0.3)


def test_the_schedules_of_today_are_detectron2s() -> None:
    for name, steps, drops in (("1x", 90_000, (60_000, 80_000)), ("3x", 270_000, (210_000, 250_000))):
        r = read(f"coco-fpn-{name}-resnext101-32x8d")
        assert (r.train.steps, r.train.batch_size, r.optimizer.lr, r.schedule.milestones) == (steps, 16, 0.02, drops)
        assert r.augment.min_sizes == (640, 672, 704, 736, 768, 800)
        epoch = 117_266 // 16
        assert compute_learning_rate(r.schedule, 0.02, steps, epoch, 0) == pytest.approx(2e-5, rel=0.1)
        assert compute_learning_rate(r.schedule, 0.02, steps, epoch, 1001) == pytest.approx(0.02)


@each_recipe
def test_weights_to_start_from_are_published_ones_of_that_network(name: str) -> None:
    (start,) = [file for file in load_released() if file.url == read(name).init.weights]
    assert start.architecture == read(name).model.name


def finished(folder: Path, name: str, ap: float, ap50: float, **changes: Any) -> Path:
    """Write a finished run of the recipe, as detect train does."""
    recipe = read(X50, **changes)
    rows = ["epoch,step,lr,train_loss,ap,ap50", "12,170000,0.1,1.0,0.9,0.95", f"13,180000,0.1,1.0,{ap},{ap50}"]
    return write_run(folder / "runs" / name, recipe, {"step": recipe.train.steps, "epoch": 13}, rows)


def test_a_finished_run_gives_its_last_ap_in_percent(tmp_path: Path) -> None:
    local = {"init.weights": "/copies/resnext_50_32x4d.t7", "train.proposals": "/mine", "data.path": "/coco"}
    finished(tmp_path, X50, 0.2761, 0.4958, **local)
    found = collect_measurement(X50, tmp_path / "runs")
    assert (found.state, found.damaged) == ("finished", ())
    assert found.runs[0].differences == ()
    ap50, ap = (found.value(column) for column in get_table("table8").columns)
    assert ap is not None
    assert ap50 is not None
    assert (ap.text(1), ap50.text(1)) == ("27.6", "49.6")


def test_a_run_from_other_weights_or_with_another_head_is_marked(tmp_path: Path) -> None:
    finished(tmp_path, X50, 0.3, 0.5, **{"init.weights": "/copies/other.pth", "detector.roi_batch": 512})
    changed = collect_measurement(X50, tmp_path / "runs").runs[0].differences
    assert {line.partition(":")[0] for line in changed} == {"detector.roi_batch", "init.weights"}


def test_table_8_shows_its_rows_with_what_runs_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished(tmp_path, X50, 0.2761, 0.4958)
    words = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["paper", "table8", "--no-measure", *words]) == 0
    printed = capsys.readouterr().out
    assert "27.6" in printed
    assert "no recipes" not in printed
    lines = (tmp_path / "out" / "table8.csv").read_text().splitlines()
    assert len(lines) == 5
    assert sum("finished" in line for line in lines) == 1
    assert main(["paper", "status", *words[:4]]) == 0
    assert X50 in capsys.readouterr().out


@each_row
def test_a_row_is_run_by_two_commands_that_are_said(
    row: Row, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "my runs"
    assert main(["paper", "run", "table8", "--row", row.key, "--seed", "3", "--runs", str(runs)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    rpn, fast_rcnn = (shlex.split(command) for command in re.findall(r"(resnext detect train paper.*?)(?:;|$)", said))
    name, first = str(row.recipe), get_rpn_recipe(str(row.recipe))
    proposals, mine = str(runs / f"{first}-seed3"), str(runs / f"{name}-seed3")
    detect, more = ["resnext", "detect", "train"], ["--data.path", "COCO", "--train.seed", "3"]
    assert rpn == [*detect, f"paper/{first}", "--continue", proposals, *more]
    assert fast_rcnn == [*detect, f"paper/{name}", "--continue", mine, "--train.proposals", proposals, *more]


def test_an_unknown_recipe_is_one_sentence() -> None:
    with pytest.raises(RequestError, match="did you mean 'coco-resnet50'"):
        read_row_recipe("coco-resnet5")
