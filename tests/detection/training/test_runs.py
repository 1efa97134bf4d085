"""Whole runs of ``resnext detect train``: files, resuming, precisions, several processes, and that it learns."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from resnext.cli import main
from resnext.data import open_data
from resnext.data.preprocessing import Preprocessing
from resnext.detection.data.open import open_detection_data
from resnext.detection.settings import DetectRecipe
from resnext.detection.training.initial_weights import build_initial_detector
from resnext.detection.training.task import Detection
from resnext.detection.weights import load_detector
from resnext.errors import RequestError
from resnext.model.network import create_model
from resnext.recipe import read_recipe
from resnext.run_directory import RunDirectory
from resnext.settings import DataSettings, Recipe
from resnext.settings_shared import InitSettings
from resnext.training.finetune import load_initial_network
from resnext.training.logbook import read_log
from resnext.training.step import StepResult
from resnext.weights import load
from resnext.weights.native import save
from tests.conftest import run_resnext
from tests.detection.shape_images import folder, one_image, recipe
from tests.figures import draw_figures
from tests.training.test_resume import KILLED, assert_same_end

FILES = {
    *("recipe.yaml", "environment.json", "samples.png", "log.jsonl", "metrics.csv", "speed.csv", "curves.png"),
    *("report.html", "checkpoints", "evaluation"),
}
PARTS = ("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(recipe, the directory of its uninterrupted run)."""
    root = tmp_path_factory.mktemp("whole")
    path = recipe(root / "r.yaml", data, train__ema_decay=0.9)
    with draw_figures():
        assert main(["detect", "train", str(path), "--run", str(root / "run")]) == 0
    return path, root / "run"


def trained(tmp_path: Path, data: Path, **changes: Any) -> Path:
    tmp_path.mkdir(exist_ok=True)
    path = recipe(tmp_path / "r.yaml", data, **changes)
    assert main(["detect", "train", str(path), "--run", str(tmp_path / "run")]) == 0
    return tmp_path / "run"


def killed(point: str, count: int, *arguments: object) -> None:
    run_resnext(point, count, "detect", *arguments, script=KILLED, exits=-signal.SIGKILL)


class Cut(BaseException):
    """Ends a run in this process where a kill would, with nothing saved."""


def cut(step: int, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    """``resnext detect ARGUMENTS``, cut off after so many steps."""
    left, take_step = iter(range(step, -1, -1)), Detection.step

    def counted(*given: Any) -> StepResult:
        result = take_step(*given)
        if next(left) == 1:
            raise Cut
        return result

    with monkeypatch.context() as patch:
        patch.setattr(Detection, "step", counted)
        with pytest.raises(Cut):
            main(["detect", *map(str, arguments)])


def test_a_run_leaves_its_files(whole: tuple[Path, Path]) -> None:
    _, run = whole
    assert {path.name for path in run.iterdir()} >= FILES
    rows = read_log(run / "log.jsonl")
    assert [row["step"] for row in rows if row["kind"] == "step"] == [1, 2, 3, 4]
    epochs = [row for row in rows if row["kind"] == "epoch"]
    with open(run / "metrics.csv", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["epoch"] for row in epochs] == [1, 2]
    for row, line in zip(epochs, table, strict=True):
        assert row["train_loss"] == pytest.approx(sum(row[name] for name in PARTS))
        assert 0 <= row["ap"] <= row["ap50"] <= 1
        assert {name: float(line[name]) for name in (*PARTS, "ap")} == {name: row[name] for name in (*PARTS, "ap")}
    steps = [row["loss"] for row in rows if row["kind"] == "step"]
    assert epochs[0]["train_loss"] == pytest.approx(sum(steps[:2]) / 2)
    assert epochs[1]["train_loss"] == pytest.approx(sum(steps[2:]) / 2)


def test_a_killed_run_ends_bit_identical(whole: tuple[Path, Path], tmp_path: Path) -> None:
    path, run = whole
    again = tmp_path / "run"
    killed("step", 2, "train", path, "--run", again)  # one step after a checkpoint
    killed("write", 2, "train", "--resume", again, "--data.workers", 2)
    assert main(["detect", "train", "--resume", str(again), "--data.workers", "1"]) == 0
    assert_same_end(again, run)
    assert not list((again / "checkpoints").rglob("*.part"))


def test_a_run_from_weights_resumes_without_them(
    data: Path, whole: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run = whole
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(RunDirectory(run).weights("best").read_bytes())
    path = recipe(tmp_path / "r.yaml", data, init__weights=str(weights), init__frozen_bn=True, init__freeze="conv2")
    assert main(["detect", "train", str(path), "--run", str(tmp_path / "one")]) == 0
    cut(2, monkeypatch, "train", path, "--run", tmp_path / "two")
    weights.unlink()
    assert main(["detect", "train", "--resume", str(tmp_path / "two")]) == 0
    assert_same_end(tmp_path / "two", tmp_path / "one")


def test_continue_begins_goes_on_and_leaves_a_finished_run_as_it_is(
    whole: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, run = whole
    command = ["train", str(path), "--continue", str(tmp_path / "run")]
    cut(3, monkeypatch, *command)
    assert main(["detect", *command]) == 0
    assert_same_end(tmp_path / "run", run)
    before = {p: p.read_bytes() for p in (tmp_path / "run" / "checkpoints").rglob("*") if p.is_file()}
    assert main(["detect", *command]) == 0
    assert {p: p.read_bytes() for p in before} == before


def test_another_recipe_or_other_data_are_refused(
    whole: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, run = whole
    assert main(["detect", "train", str(path), "--resume", str(run), "--detector.roi_batch", "16"]) == 2
    assert "detector.roi_batch: 32 -> 16" in capsys.readouterr().err
    other = folder(tmp_path / "other", train=9)
    assert main(["detect", "train", "--resume", str(run), "--data.path", str(other)]) == 2
    assert "was trained with 10 training images, but the data now has 9" in capsys.readouterr().err
    moved = folder(tmp_path / "moved", size=(80, 48))  # as many images, with other boxes
    assert main(["detect", "train", "--resume", str(run), "--data.path", str(moved)]) == 2
    assert "now has 10, some with other names or labels" in capsys.readouterr().err
    assert main(["train", "--resume", str(run)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_start_that_fails_leaves_no_directory(
    whole: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for way in ("--run", "--continue"):
        place = tmp_path / "runs" / "a"
        assert main(["detect", "train", str(whole[0]), way, str(place), "--train.batch_size", "11"]) == 2
        assert "larger than the training set of 10 images" in capsys.readouterr().err
        assert not place.parent.exists()


def test_sigterm_says_how_to_go_on(whole: tuple[Path, Path], tmp_path: Path) -> None:
    path, _ = whole
    command = ["detect", "train", str(path), "--run", str(tmp_path / "run"), "--train.epochs", "500"]
    process = subprocess.Popen([sys.executable, "-m", "resnext", *command], stderr=subprocess.PIPE, text=True)
    log = tmp_path / "run" / "log.jsonl"
    while process.poll() is None and not log.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"continue with: resnext detect train --resume {tmp_path / 'run'}" in errors


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"train__ema_decay": 0.5, "data__max_val_images": 3}, marks=pytest.mark.slow, id="fp32"),
        pytest.param(
            {"train__precision": "bf16", "train__epochs": 1, "train__fast": "no", "train__channels_last": "no"},
            id="bf16 in the plain layout",
        ),
    ],
)
def test_one_checkpoint_has_one_number(
    changes: dict[str, Any],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In the log, at the end of the run and asked for again: with BN folded and any number of workers and processes."""
    monkeypatch.setenv("RESNEXT_FAST", "1")
    run = trained(tmp_path, data, **changes)
    files = {name: (run / "evaluation" / name).read_bytes() for name in ("detections.json", "images.csv", "curves.csv")}
    own = json.loads((run / "evaluation" / "metrics.json").read_text())
    best = json.loads((run / "checkpoints" / "best" / "state.json").read_text())["position"]["best"]
    (row,) = (r for r in read_log(run / "log.jsonl") if r["kind"] == "epoch" and r["epoch"] == best["epoch"])
    assert {name: row[name] for name in Detection.evaluation_columns} == {
        name: own[name] for name in Detection.evaluation_columns
    }
    (run / "report.html").write_text("old")
    capsys.readouterr()
    assert main(["detect", "evaluate", str(run), "--device", "cpu", "--workers", "1"]) == 0
    assert f"AP {100 * own['ap']:.1f} %" in capsys.readouterr().out
    again = json.loads((run / "evaluation" / "metrics.json").read_text())
    assert again == own | {"environment": again["environment"]}
    assert {name: (run / "evaluation" / name).read_bytes() for name in files} == files
    assert (run / "report.html").read_text() != "old"
    if "train__precision" in changes:
        torchrun("detect", "evaluate", run, "--device", "cpu", "--workers", 0, "--out", tmp_path / "two")
        assert (tmp_path / "two" / "detections.json").read_bytes() == files["detections.json"]
    assert own["protocol"]["changed"] == (
        {"images left out by the limit": 1} if "data__max_val_images" in changes else {}
    )


def test_another_question_leaves_the_runs_own_evaluation_as_it_is(
    whole: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole[1], run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    def asked(*words: object) -> str:
        assert main(["detect", "evaluate", str(run), "--device", "cpu", "--workers", "0", *map(str, words)]) == 0
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
        return capsys.readouterr().out

    stays = "RUN/evaluation is kept, as this protocol differs from it"
    assert f"{stays} (score is 0.9, not 0.0): give --out DIR" in asked("--score", 0.9)
    assert f"{stays} (precision is bf16, not fp32): give --out DIR" in asked("--precision", "bf16")
    assert f"{stays} (bn_eps is 0.01, not None)" in asked("--bn-eps", 0.01)
    for words in (("--split", "train"), ("--checkpoint", "last"), ("--source", "coco")):
        assert "give --out DIR" in asked(*words)
    usual = os.environ["RESNEXT_FAST"]
    monkeypatch.setenv("RESNEXT_FAST", "0" if usual == "1" else "1")
    assert f"{stays} (fast is {usual == '0'}, not {usual == '1'})" in asked()
    monkeypatch.setenv("RESNEXT_FAST", usual)
    (run / "evaluation" / "metrics.json").unlink()
    del before[run / "evaluation" / "metrics.json"]
    for name in ("detections.json", "images.csv", "curves.csv", "per_class.csv", "images.png", "precision_recall.png"):
        (run / "evaluation" / name).unlink()
        del before[run / "evaluation" / name]
    assert f"{stays} (score is 0.9, not 0.0): give --out DIR" in asked("--score", 0.9)
    assert main(["detect", "evaluate", str(run), "--device", "cpu", "--workers", "0", "--score", "0.9",
                 "--out", str(tmp_path / "what-if")]) == 0  # fmt: skip
    assert json.loads((tmp_path / "what-if" / "metrics.json").read_text())["protocol"]["score"] == 0.9


def test_other_data_is_judged_whole_and_the_runs_own_as_the_recipe_limits_it(data: Path, tmp_path: Path) -> None:
    place = str(data / "annotations" / "instances_val.json")  # absolute: of the run's own data
    run = trained(tmp_path, data, train__epochs=1, data__max_val_images=2, data__max_train_images=8, data__val=place)
    other = folder(tmp_path / "other", train=3, val=7)
    for words, count in (((), 2), (("--split", "train"), 8), (("--data", other), 7)):
        out = tmp_path / f"out{count}"
        assert main(["detect", "evaluate", str(run), "--workers", "0", "--out", str(out), *map(str, words)]) == 0
        values = json.loads((out / "metrics.json").read_text())
        assert values["n"] == count
        left = values["protocol"]["changed"].get("images left out by the limit")
        assert left == {2: 2, 8: 2, 7: None}[count]
    assert "images left out by the limit: 2" in (run / "report.html").read_text()


def torchrun(*words: object) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "--"]
    done = subprocess.run(
        [*command, "resnext", *map(str, words)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_network_of_a_run_goes_on_elsewhere_as_it_was_trained(data: Path, tmp_path: Path) -> None:
    """Its stride, eps and colours: no tensor says them, the detector's own metadata does."""
    changes = {"stride_in_1x1": True, "bn_eps": 1e-3, "base_channels": 4, "blocks": (1, 1, 1)}
    start = create_model("resnext11_2x4d", seed=1, stem="imagenet", num_classes=3, **changes)
    start.preprocessing = Preprocessing(image_size=32, resize=32, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), channels=3)
    save(start, tmp_path / "start.safetensors")
    run = trained(
        tmp_path, data, init__weights=str(tmp_path / "start.safetensors"), train__epochs=1, model__name=None,
        model__stem=None, model__blocks=None, model__base_channels=None,
    )  # fmt: skip
    theirs = load_detector(run)
    assert main(["convert", str(run), str(tmp_path / "net.safetensors")]) == 0
    assert main(["convert", str(run), str(tmp_path / "hub") + "/"]) == 0
    for place in (tmp_path / "net.safetensors", tmp_path / "hub"):
        network = load(place)
        assert network.architecture == theirs.architecture
        assert network.preprocessing is not None
        assert network.preprocessing.mean == theirs.preprocessing.mean == (0.1, 0.2, 0.3)
        for name, value in theirs.network.state_dict().items():
            assert torch.equal(network.state_dict()[name], value), name
    source = open_data(DataSettings())
    network = load_initial_network(Recipe(init=InitSettings(weights=str(run))), source)
    assert network.architecture == theirs.architecture.change(num_classes=10, in_channels=1)
    assert any("only the backbone of the detector was read" in note for note in network.provenance["init"]["notes"])


def test_what_a_run_goes_on_with_is_no_network(data: Path, tmp_path: Path) -> None:
    run = trained(tmp_path, data, train__epochs=1, train__ema_decay=0.9)
    file = next((run / "checkpoints" / "last").glob("training-*.safetensors"))
    with pytest.raises(RequestError, match="the training state of a run, not its weights"):
        load(file)


def test_two_processes_find_the_same(whole: tuple[Path, Path], tmp_path: Path) -> None:
    _, run = whole
    options = ["--device", "cpu", "--workers", "0", "--out"]
    assert main(["detect", "evaluate", str(run), *options, str(tmp_path / "one")]) == 0
    torchrun("detect", "evaluate", run, *options, tmp_path / "two")
    for name in ("metrics.json", "detections.json"):
        one, two = (json.loads((tmp_path / which / name).read_text()) for which in ("one", "two"))
        for values in (one, two):
            if name == "metrics.json":
                del values["environment"]  # it has the time
        assert one == two, name


def test_two_processes_train_and_agree_on_the_end(data: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path / "r.yaml", data)
    torchrun("detect", "train", path, "--run", tmp_path / "run")
    own = json.loads((tmp_path / "run" / "evaluation" / "metrics.json").read_text())
    assert main(["detect", "evaluate", str(tmp_path / "run"), "--device", "cpu", "--out", str(tmp_path / "e")]) == 0
    assert json.loads((tmp_path / "e" / "metrics.json").read_text())["ap"] == own["ap"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("layout", ["fpn", "c4"])
def test_both_precisions_train_either_layout(precision: str, layout: str, data: Path, tmp_path: Path) -> None:
    sizes = {"detector__anchor_sizes": [8, 16, 32]} if layout == "c4" else {}
    run = trained(
        tmp_path,
        data,
        train__precision=precision,
        detector__layout=layout,
        train__grad_clip_norm=1.0,
        train__steps=3,
        train__epochs=None,
        **sizes,
    )
    losses = [row["loss"] for row in read_log(run / "log.jsonl") if row["kind"] == "step"]
    assert len(losses) == 3
    assert all(0 < loss < 20 for loss in losses)
    state = load_detector(run, "last").state_dict().values()
    assert all(value.dtype in (torch.float32, torch.int64) for value in state)


def test_clipping_bounds_the_step_and_the_average_lags(data: Path, tmp_path: Path) -> None:
    """One step of plain SGD at rate 1 moves the weights by at most the largest norm."""
    options = {
        "optimizer__lr": 1.0,
        "optimizer__momentum": 0.0,
        "optimizer__nesterov": False,
        "optimizer__weight_decay": 0.0,
        "schedule__name": "constant",
        "train__steps": 1,
        "train__epochs": None,
        "train__grad_clip_norm": 0.01,
    }
    run = trained(tmp_path / "a", data, **options)
    settings = read_recipe(run / "recipe.yaml", kind=DetectRecipe)
    start = dict(build_initial_detector(settings, open_detection_data(settings.data)[0]).named_parameters())
    moved = dict(load_detector(run, "last").named_parameters())
    norm = sum(float((moved[name] - value).detach().double().square().sum()) for name, value in start.items()) ** 0.5
    assert norm == pytest.approx(0.01, rel=1e-2)
    options |= {"train__ema_decay": 0.75, "train__ema_warmup": False}
    averaged = dict(load_detector(trained(tmp_path / "b", data, **options), "last").named_parameters())
    for name, value in start.items():
        torch.testing.assert_close(averaged[name], value + 0.25 * (moved[name] - value), atol=1e-6, rtol=1e-4)


def test_the_papers_two_steps_run_one_after_the_other(data: Path, tmp_path: Path) -> None:
    rpn = trained(tmp_path / "rpn", data, train__stage="rpn")
    fast = trained(tmp_path / "fast", data, train__stage="fast_rcnn", train__proposals=str(rpn))
    last = read_log(fast / "log.jsonl")[-1]
    assert last["loss_objectness"] is None
    assert last["loss_classifier"] > 0
    assert load_detector(fast).proposer.stage == "rpn"
    assert main(["detect", "evaluate", str(rpn), "--device", "cpu"]) == 0
    assert main(["detect", "evaluate", str(fast), "--device", "cpu"]) == 0


def test_it_learns_one_image_by_heart(tmp_path: Path) -> None:
    """Four shapes of two classes: every box and class is right, and nothing else is found."""
    run = trained(
        tmp_path,
        one_image(tmp_path / "data", 25),
        model__base_channels=8,
        detector__fpn_channels=16,
        detector__head_channels=64,
        detector__roi_batch=64,
        detector__rpn_batch=64,
        detector__score=0.5,
        data__min_size=72,
        data__max_size=96,
        augment__flip=0.0,
        augment__color_jitter=0.0,
        optimizer__lr=0.02,
        schedule__name="cosine",
        schedule__warmup_epochs=0.2,
        train__batch_size=1,
        train__epochs=8,
        train__grad_clip_norm=5.0,
        train__checkpoint_steps=None,
        train__evaluate_every=4,
    )
    last = read_log(run / "log.jsonl")[-1]
    assert last["step"] == 200
    assert last["ap"] == pytest.approx(1)
    found = json.loads((run / "evaluation" / "detections.json").read_text())
    assert len(found) == 4
