import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnext.cli import main
from resnext.data.imagenet_classes import imagenet_classes, imagenet_synsets
from resnext.data.preprocessing import Preprocessing
from resnext.data.sources.digits import open_digits
from resnext.model.network import create_model
from resnext.recipe import dump_recipe, parse_recipe
from resnext.settings import DataSettings
from resnext.weights.native import save
from tests.commands.conftest import digits_network

pytestmark = pytest.mark.usefixtures("blank_figures")
RECIPE = """
model: {name: resnext11_2x4d, base_channels: 4}
data: {source: digits, max_val_images: 40, max_train_images: 50}
train: {device: cpu}
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory as training leaves it, with random weights."""
    directory = tmp_path / "run"
    for which, step in (("best", 1200), ("last", 3400)):
        folder = directory / "checkpoints" / which
        folder.mkdir(parents=True)
        save(digits_network(), folder / "model-1.safetensors")
        state = {"format": "resnext-checkpoint", "version": 2, "position": {"step": step}}
        state |= {"files": {"model": {"name": "model-1.safetensors"}}}
        (folder / "state.json").write_text(json.dumps(state))
    (directory / "recipe.yaml").write_text(dump_recipe(parse_recipe(RECIPE)))
    return directory


def digits_folder(root: Path) -> Path:
    """Two digits of each class as PNG, one folder per class."""
    data = open_digits(DataSettings()).val
    for label in range(10):
        (root / str(label)).mkdir(parents=True)
        for index in np.flatnonzero(data.labels == label)[:2]:
            data.image(int(index)).save(root / str(label) / f"{index}.png")
    return root


def metrics(directory: Path) -> dict[str, object]:
    return json.loads((directory / "metrics.json").read_text())


def evaluate(*arguments: object) -> int:
    return main(["evaluate", *map(str, arguments), "--device", "cpu"])


@pytest.mark.usefixtures("drawn_figures")
def test_a_run_is_evaluated_on_its_own_held_out_images(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(run, "--batch-size", 7) == 0
    shown = capsys.readouterr().out
    numbers = ("top-1 error", "95 % interval", "top-5 error", "loss", "calibration error", "40 images of digits test")
    for part in (*numbers, "bicubic", "fp32", "held out when i % 5 == 4", "checkpoint best (step 1,200)"):
        assert part in shown
    values = metrics(run / "evaluation")
    assert values["n"] == 40
    assert values["protocol"]["step"] == 1200  # type: ignore[index]
    assert "40 images of digits test" in (run / "report.html").read_text()
    split = values["protocol"]["split"]  # type: ignore[index]
    assert split.endswith("only 50 of 1,438 training images and 40 of 359 held-out images are used")
    assert evaluate(run) == 0  # replaces its own files
    again = metrics(run / "evaluation")
    assert again["correct1"] == values["correct1"]
    assert again["loss"] == pytest.approx(values["loss"], rel=1e-5)


def test_other_questions_leave_the_runs_evaluation_alone(run: Path) -> None:
    assert evaluate(run) == 0
    before = (run / "evaluation" / "metrics.json").read_text()
    assert evaluate(run, "--split", "train") == 0
    assert evaluate(run, "--checkpoint", "last") == 0
    assert evaluate(run, "--source", "digits") == 0
    assert (run / "evaluation" / "metrics.json").read_text() == before
    assert metrics(run / "evaluation-train")["n"] == 50
    assert metrics(run / "evaluation-last")["protocol"]["step"] == 3400  # type: ignore[index]
    assert metrics(run / "evaluation-digits-test")["n"] == 359


@pytest.mark.usefixtures("drawn_figures")
def test_other_views_of_a_run_leave_its_evaluation_alone(run: Path) -> None:
    assert evaluate(run, "--view", "ten-crop") == 0
    assert evaluate(run, "--image-size", 16) == 0
    assert evaluate(run, run) == 0
    assert {path.name for path in run.glob("evaluation*")} == {"evaluation-16", "evaluation-ten-crop-logits"}


def test_what_is_computed_otherwise_goes_elsewhere(run: Path) -> None:
    assert evaluate(run) == 0
    kept = {path: path.read_bytes() for path in (run / "report.html", *(run / "evaluation").iterdir())}
    assert evaluate(run, "--precision", "bf16") == 0
    assert evaluate(run, "--engine", "pytorch") == 0
    assert evaluate(run, "--checkpoint", "last", "--precision", "bf16") == 0
    assert {path: path.read_bytes() for path in kept} == kept
    assert metrics(run / "evaluation-bf16")["protocol"]["precision"] == "bf16"  # type: ignore[index]
    names = {path.name for path in run.glob("evaluation-*")}
    assert len(names) == 3
    assert {"evaluation-bf16", "evaluation-last-bf16"} < names
    assert any("pytorch" in name for name in names)
    assert evaluate(run, "--precision", "bf16", "--out", f"{run}/x/../evaluation") == 0
    assert "bf16" in (run / "report.html").read_text()


def test_an_evaluation_from_another_device_is_kept(run: Path) -> None:
    assert evaluate(run) == 0
    values = metrics(run / "evaluation")
    values["protocol"]["device"] = "cuda:0"  # type: ignore[index]
    (run / "evaluation" / "metrics.json").write_text(json.dumps(values))
    assert evaluate(run) == 0
    assert metrics(run / "evaluation") == values
    assert (run / "evaluation-cpu" / "metrics.json").is_file()


def test_weights_need_to_be_told_their_images(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(weights) == 2
    assert "--data PATH" in capsys.readouterr().err
    assert evaluate(weights, "--source", "digits") == 0
    assert "359 images" in capsys.readouterr().out.replace("of digits", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits.safetensors"]
    assert evaluate(weights, "--source", "digits", "--out", tmp_path / "out") == 0
    assert metrics(tmp_path / "out")["n"] == 359


def test_weights_are_judged_on_every_image_of_a_folder(weights: Path, tmp_path: Path) -> None:
    data = digits_folder(tmp_path / "photos")
    assert evaluate(weights, "--data", data, "--out", tmp_path / "out", "--workers", 0) == 0
    values = metrics(tmp_path / "out")
    assert values["n"] == 20
    rows = (tmp_path / "out" / "images.csv").read_text().splitlines()[1:]
    assert all(row.split(",")[0].endswith(".png") for row in rows)


def test_a_broken_image_fails_the_evaluation_and_is_named(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = digits_folder(tmp_path / "photos")
    broken = next((data / "3").iterdir())
    broken.write_bytes(broken.read_bytes()[:50])
    assert evaluate(weights, "--data", data, "--workers", 0) == 1
    assert broken.name in capsys.readouterr().err


def test_foreign_files_in_out_are_refused_before_the_work(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "worst.png").write_bytes(b"mine")
    assert evaluate(run, "--out", tmp_path) == 2
    out = capsys.readouterr()
    assert "contains worst.png, which resnext did not write" in out.err
    assert not out.out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--batch-size", "0"), "at least 1"),
        (("--workers", "-1"), "whole number"),
        (("--split", "test"), "invalid choice"),
        (("--data", "/nowhere"), "cannot be used with digits"),
        (("--device", "abacus"), "unknown"),
    ],
)
def test_wrong_requests_are_one_sentence(
    run: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, str], part: str
) -> None:
    assert main(["evaluate", str(run), *arguments]) == 2
    error = capsys.readouterr().err
    assert part in error
    assert len(error.strip().splitlines()) == 1


def test_weights_without_preprocessing_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = digits_network()
    model.preprocessing = None
    save(model, tmp_path / "bare.safetensors")
    assert evaluate(tmp_path / "bare.safetensors", "--source", "digits") == 2
    assert "do not say how images are prepared" in capsys.readouterr().err


def test_a_classifier_of_imagenet_judges_a_folder_of_some_synsets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = create_model("resnext11_2x4d", seed=0, base_channels=4, num_classes=1000)
    with torch.no_grad():
        model.fc.bias[3] = 1000.0  # whatever it sees is a tiger shark, n01491361
    model.preprocessing = Preprocessing(image_size=16, resize=16, mean=(0.5,) * 3, std=(0.2,) * 3, channels=3)
    for synset, count in (("n01440764", 1), ("n01491361", 2), ("n15075141", 1)):
        (tmp_path / "val" / synset).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (20, 16), (9 * index, 80, 20)).save(tmp_path / "val" / synset / f"{index}.JPEG")
    words, synsets = imagenet_classes(), imagenet_synsets()
    for number, (classes, shark) in enumerate(((None, words[3]), (words, words[3]), (synsets, synsets[3]))):
        model.classes = classes
        save(model, tmp_path / "net.safetensors")
        out = tmp_path / f"out{number}"
        assert evaluate(tmp_path / "net.safetensors", "--data", tmp_path / "val", "--out", out, "--workers", 0) == 0
        assert metrics(out)["top1_error"] == 50.0
        assert "4 images of val all (3 of 1,000 classes)" in capsys.readouterr().out
        assert (out / "images.csv").read_text().count(f",{shark},") >= 4


def test_grey_weights_judge_a_folder_of_colour(weights: Path, tmp_path: Path) -> None:
    data = digits_folder(tmp_path / "photos")
    for path in data.rglob("*.png"):
        Image.open(path).convert("RGB").save(path)
    assert evaluate(weights, "--data", data, "--out", tmp_path / "colour", "--workers", 0) == 0
    assert metrics(tmp_path / "colour")["n"] == 20


def test_several_processes_give_the_numbers_of_one(run: Path, tmp_path: Path) -> None:
    """40 images over 3 processes: unpadded shares of 13, 13 and 14, each image once."""
    words = ["evaluate", str(run), "--view", "ten-crop", "--image-size", "8", "--resize", "10"]
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "3", "--standalone", "-m", "--", "resnext"]
    command = [sys.executable, *launcher, *words, "--out", str(tmp_path / "three")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("top-1 error") == 1, "only the leader speaks"
    one, three = metrics(tmp_path / "one"), metrics(tmp_path / "three")
    assert one["n"] == three["n"] == 40
    for key in ("correct1", "correct5", "top1_error", "top5_error", "mean_class_error"):
        assert one[key] == three[key], key
    assert three["loss"] == pytest.approx(one["loss"], rel=1e-6)
    rows = [(tmp_path / name / "images.csv").read_text().splitlines() for name in ("one", "three")]
    assert [row.split(",")[:3] for row in rows[0]] == [row.split(",")[:3] for row in rows[1]]
