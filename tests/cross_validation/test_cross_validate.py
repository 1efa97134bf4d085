"""A cross-validation judges every image once, finds wrong labels, and goes on where it was stopped."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

import resnext
from resnext.cli import main
from resnext.data.sources.registry import open_data
from resnext.errors import RequestError, WorkError
from resnext.evaluation.predict import predict
from resnext.recipe import dump_recipe
from tests.conftest import run_resnext
from tests.cross_validation.conftest import Finished, make_recipe, write_digits

pytestmark = pytest.mark.usefixtures("one_thread")


def read_rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_wrong_labels_are_at_the_top_of_the_page(finished: Finished) -> None:
    rows = read_rows(finished.result.path / "labels-to-look-at.csv")
    doubtful = [row["file"] for row in rows if row["reason"] == "label looks wrong"]
    wrong = finished.photos.wrong | {"digit 1/copy ü.png"}
    assert len(wrong & set(doubtful[: len(wrong)])) >= len(wrong) - 2
    scores = [float(row["score"]) for row in rows if row["score"]]
    assert scores == sorted(scores)
    assert all(row["decision"] == "" for row in rows)
    page = unescape((finished.result.path / "labels-to-look-at.html").read_text(encoding="utf-8"))
    places = [page.index(f'alt="{name}"') for name in doubtful]
    assert places == sorted(places)
    assert page.count('src="data:image/png;base64,') == len(doubtful) + 2 * len(finished.result.conflicts)


def test_a_copy_under_another_label_is_shown_beside_its_original(finished: Finished) -> None:
    paths = finished.result.evaluation.paths
    pairs = [{paths[pair.first], paths[pair.second]} for pair in finished.result.conflicts]
    assert {finished.copied, "digit 1/copy ü.png"} in pairs
    rows = read_rows(finished.result.path / "labels-to-look-at.csv")
    assert any(row["file"] == "digit 1/copy ü.png" and row["like"] == finished.copied for row in rows)


def test_the_page_links_to_the_files_and_loads_nothing(finished: Finished) -> None:
    page = (finished.result.path / "labels-to-look-at.html").read_text(encoding="utf-8")
    links = [unquote(part.split('"')[0]) for part in page.split('href="')[1:]]
    assert "report.html" in links
    assert all((finished.result.path / link).is_file() for link in links)
    assert "://" not in page.replace("data:image", "")


def test_every_image_is_judged_once_by_the_network_that_has_not_seen_it(finished: Finished) -> None:
    result = finished.result
    assert result.evaluation.n == len(set(result.evaluation.paths)) == 81
    for number in (1, 2):
        run = resnext.open_run(result.path / f"fold-{number}")
        source = open_data(run.recipe.data)
        held_out = {source.val.image_path(index) for index in range(len(source.val))}
        rows = [row for row in range(81) if result.fold[row] == number]
        assert {result.evaluation.paths[row] for row in rows} == held_out
        files = [str(finished.photos.folder / result.evaluation.paths[row]) for row in rows]
        expected = np.stack([one.probabilities for one in predict(run.load("last"), files)])
        np.testing.assert_allclose(result.probabilities[rows], expected, atol=1e-5)
        assert run.files.state("best")["position"]["epoch"] == 15  # no epoch was chosen by the held-out images


def test_the_tables_hold_the_pooled_numbers(finished: Finished) -> None:
    result, rows = finished.result, read_rows(finished.result.path / "predictions.csv")
    right = sum(row["label"] == row["predicted"] for row in rows)
    summary = json.loads((result.path / "summary.json").read_text())
    metrics = json.loads((result.path / "evaluation/metrics.json").read_text())
    assert len(rows) == summary["images"] == metrics["n"] == 81
    assert right == summary["right"] == metrics["correct1"] == result.evaluation.correct1
    assert [one["held_out"] for one in summary["folds"]] == [Counter(row["fold"] for row in rows)[key] for key in "12"]
    for row in rows:
        of_classes = [float(row[f"probability of {name}"]) for name in result.evaluation.classes]
        assert sum(of_classes) == pytest.approx(1, abs=1e-5)
        assert float(row["probability_of_label"]) == float(row[f"probability of {row['label']}"])
    report = (result.path / "report.html").read_text(encoding="utf-8")
    assert f"{right} of 81 <small>images right" in report
    assert "It does not cover images of another kind" in report


def test_the_same_call_trains_nothing_again_and_keeps_a_users_notes(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = finished.result.path / "labels-to-look-at.csv"
    before = {path: path.stat().st_mtime_ns for path in finished.result.path.glob("fold-*/**/*")}
    monkeypatch.setattr("resnext.cross_validation.train_folds.train_runs", None)
    monkeypatch.setattr("resnext.cross_validation.cross_validate.write_results", lambda *_: None)
    written = table.read_text(encoding="utf-8")
    table.write_text(written + "mine\n", encoding="utf-8")
    again = resnext.crossval(finished.recipe, finished.result.path, quiet=True)
    assert table.read_text(encoding="utf-8") == written + "mine\n"
    table.write_text(written, encoding="utf-8")
    np.testing.assert_array_equal(again.probabilities, finished.result.probabilities)
    assert before == {path: path.stat().st_mtime_ns for path in finished.result.path.glob("fold-*/**/*")}


def test_a_directory_of_another_recipe_or_of_other_images_is_refused(finished: Finished, tmp_path: Path) -> None:
    out = finished.result.path
    with pytest.raises(RequestError, match=r"begun with another recipe .*train\.epochs: 15 -> 9"):
        resnext.crossval(finished.recipe, out, overrides={"train.epochs": 9}, quiet=True)
    with pytest.raises(RequestError, match="begun with 2 folds, not 3"):
        resnext.crossval(finished.recipe, out, folds=3, quiet=True)
    more = finished.photos.folder / "digit 0/one more.png"
    shutil.copy(finished.photos.folder / finished.copied, more)
    try:
        with pytest.raises(RequestError, match=r"images have changed since .* \(81 images then, 82 now\)"):
            resnext.crossval(finished.recipe, out, quiet=True)
    finally:
        more.unlink()
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(RequestError, match="is not empty; choose another --out"):
        resnext.crossval(finished.recipe, tmp_path, quiet=True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--folds", "1"], "--folds 1 must be from 2 to 100"),
        (["--folds", "30"], "class 'digit 0' has 6 images, fewer than the 30 folds (and 1 more"),
        (["--data.val_fraction", "0.2"], "--data.val_fraction has no use here"),
        (["--data.fold", "1/2"], "--data.fold is what a cross-validation varies"),
        (["--data.on_bad_image", "skip"], "--data.on_bad_image cannot be skip: every image is held out once"),
        (["--jobs", "0"], "--jobs 0 must be from 1 to 256"),
        (["--data.group", "scan ([0-9])", "--folds", "5"], "all 12 images are in one group, '0'"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_work(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_digits(tmp_path / "scans", (0, 1), 6, 0, seed=0)
    assert main(["crossval", "scans", *words, "--init.weights", "null"]) == 2
    assert says in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_dry_run_prints_plan_and_cost_of_all_folds_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_digits(tmp_path / "scans", (0, 1), 6, 0, seed=0)
    assert main(["crossval", "scans", "--folds", "3", "--dry-run", "--init.weights", "null"]) == 0
    said = capsys.readouterr().out
    assert " (3 x " in next(line for line in said.splitlines() if line.startswith("cost: about"))
    assert "12 images of scans all in 3 folds of 4;" in said
    assert "data.val_fraction" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["scans"]


def test_the_cost_of_a_recipe_is_printed_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_digits(tmp_path / "scans", (0, 1), 6, 0, seed=0)
    Path("tiny.yaml").write_text(dump_recipe(make_recipe(tmp_path / "scans")))
    for words, epochs in (("--train.epochs 7", 7), ("--train.steps 5 --train.epochs null", 5)):
        command = f"crossval tiny.yaml --folds 3 --dry-run --train.batch_size 8 {words}"
        assert main(command.split()) == 0
        cost = f"cost: 3 networks x {epochs} epochs x 8 images, that is {3 * epochs * 8} images to train on"
        assert cost in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scans", "tiny.yaml"]


@pytest.mark.usefixtures("quick_folds")
def test_a_data_set_with_test_images_of_its_own_is_divided_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnext.cross_validation.cross_validate.write_results", lambda *_: None)
    recipe = make_recipe(tmp_path, **{"data.source": "digits", "data.path": None, "data.max_train_images": 60})
    result = resnext.crossval(recipe, tmp_path / "out", folds=2, overrides={"train.epochs": 2}, quiet=True)
    assert result.evaluation.n == 60
    assert all(path.startswith("train[") for path in result.evaluation.paths)
    assert (tmp_path / "out/labels-to-look-at.html").stat().st_size > 5000


def test_an_image_that_cannot_be_read_is_named_before_the_work(tmp_path: Path) -> None:
    photos = write_digits(tmp_path / "scans", (0, 1), 6, 0, seed=0).folder
    cut = sorted(photos.rglob("*.png"))[7]
    cut.write_bytes(cut.read_bytes()[:60])
    said = rf"1 of 12 images cannot be read: .*{cut.name}.*; every image is held out once, so mend or remove"
    with pytest.raises(RequestError, match=said):
        resnext.crossval(make_recipe(photos), tmp_path / "out", folds=2, quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("quick_folds")
def test_a_fold_that_fails_is_named(tmp_path: Path) -> None:
    write_digits(tmp_path / "scans", (0, 1), 6, 0, seed=0)
    recipe = make_recipe(tmp_path / "scans", **{"train.batch_size": 64})
    with pytest.raises(WorkError, match=r"runs failed \(fold-1, fold-2\)"):
        resnext.crossval(recipe, tmp_path / "out", folds=2, quiet=True)


COMMAND = (
    "--data.image_size", "8", "--model.name", "resnext11_2x4d", "--model.base_channels", "8", "--augment.pad", "1",
    "--augment.flip", "0", "--optimizer.lr", "0.05", "--train.ema_decay", "0.9", "--data.workers", "0",
    "--train.channels_last", "no", "--train.threads", "1",
)  # fmt: skip


@pytest.mark.slow
def test_eighteen_of_120_wrong_labels_are_found_by_the_command(tmp_path: Path) -> None:
    photos = write_digits(tmp_path / "scans", (0, 1, 2, 3), 30, 18, seed=1)
    run_resnext("crossval", "scans", "--train.epochs", "12", *COMMAND, cwd=tmp_path)
    rows = read_rows(tmp_path / "runs/crossval-scans/labels-to-look-at.csv")
    files = [row["file"] for row in rows if row["reason"] == "label looks wrong"]
    assert len(photos.wrong & set(files[:18])) >= 16
    assert len(photos.wrong & set(files[:25])) >= 17


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_stopped_cross_validation_goes_on_and_ends_with_the_same_bytes(number: int, tmp_path: Path) -> None:
    write_digits(tmp_path / "scans", (0, 1), 20, 4, seed=0)
    words = ["crossval", "scans", "--folds", "2", "--train.epochs", "30", *COMMAND]
    whole = run_resnext(*words, "--out", "whole", cwd=tmp_path)
    assert "finished fold-2; 0 left" in whole.stdout
    child = subprocess.Popen(
        [sys.executable, "-m", "resnext", *words, "--out", "stopped"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    metrics = tmp_path / "stopped/fold-2/metrics.csv"
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 3):
        assert child.poll() is None
        time.sleep(0.05)
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 1
    assert "stopping: fold-2 saves a checkpoint" in out
    assert err.endswith("stopped by a signal; the same command goes on where it was\n")
    again = run_resnext(*words, "--out", "stopped", cwd=tmp_path)
    assert "1 of 2 folds are finished already" in again.stdout
    assert "training fold-2, from epoch" in again.stdout
    for name in ("predictions.csv", "labels-to-look-at.csv", "summary.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
