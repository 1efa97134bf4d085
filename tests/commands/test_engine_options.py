"""``resnext predict`` and ``evaluate`` on an engine: the same results, or a clear error."""

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from resnext.cli import main
from resnext.data.preprocessing import Preprocessing
from resnext.weights.native import save
from tests.conftest import TINY
from tests.deploy.networks import lived

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few seconds on scikit-learn's digits."""
    folder = tmp_path_factory.mktemp("engine")
    (folder / "tiny.yaml").write_text(TINY)
    assert main(["train", str(folder / "tiny.yaml"), "--run", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path / "cache"))


def wrong(folder: Path) -> list[str]:
    with (folder / "images.csv").open() as file:
        return [row["predicted"] for row in csv.DictReader(file)]


def test_evaluate_on_an_engine_gives_the_same_predictions(run_folder: Path, tmp_path: Path) -> None:
    assert main(["evaluate", str(run_folder), "--out", str(tmp_path / "plain")]) == 0
    assert main(["evaluate", str(run_folder), "--engine", "pytorch", "--out", str(tmp_path / "engine")]) == 0
    assert wrong(tmp_path / "plain") == wrong(tmp_path / "engine")
    said = json.loads((tmp_path / "engine" / "metrics.json").read_text())
    assert "pytorch" in json.dumps(said)  # the protocol names the engine


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--engine", "openvin"], "did you mean 'openvino'"),
        (["--precision", "int8"], "add --engine auto"),
        (["--calibration", "x"], "--calibration needs --engine"),
        (["--calibration", "x", "--engine", "pytorch"], "--calibration needs --engine and --precision int8"),
        (["--device", "nonsense"], "device 'nonsense' is unknown; choose cpu, cuda, cuda:1, mps or auto"),
        (["--device", "nonsense", "--engine", "pytorch"], "device 'nonsense' is unknown"),
        (["--device", "cuda:77", "--engine", "pytorch"], "device 'cuda:77' is not available"),
    ],
)
@pytest.mark.parametrize("verb", ["evaluate", "predict"])
def test_options_that_make_no_sense_are_one_sentence(
    verb: str, options: list[str], sentence: str, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (16, 16)).save(tmp_path / "a.png")
    images = [str(tmp_path / "a.png")] if verb == "predict" else []
    assert main([verb, str(run_folder), *images, *options]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
def test_engines_run_on_the_cpu_and_no_device_is_overruled(
    verb: str, run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    words = [verb, str(run_folder), *["x.png"] * (verb == "predict"), "--engine", "pytorch", "--device", "cuda"]
    assert main(words) == 2
    assert "--device cuda cannot be used with --engine: engines run on the CPU" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["evaluate"], ["predict", "a.png"], ["convert", "out.safetensors"]])
def test_a_checkpoint_is_only_asked_of_a_run(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = str(tmp_path / "w.safetensors")
    assert main([words[0], weights, *words[1:], "--checkpoint", "last"]) == 2
    assert f"--checkpoint last selects a checkpoint of a run, but {weights} is not a run" in capsys.readouterr().err


def test_predict_on_an_engine_gives_the_same_answer(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.radial_gradient("L").resize((16, 16)).save(tmp_path / "a.png")
    answers = []
    for options in ([], ["--engine", "pytorch"]):
        assert main(["predict", str(run_folder), str(tmp_path / "a.png"), "--json", *options]) == 0
        answers.append(json.loads(capsys.readouterr().out)[0]["predictions"])
    assert [a["class"] for a in answers[0]] == [a["class"] for a in answers[1]]
    assert answers[0][0]["probability"] == pytest.approx(answers[1][0]["probability"], abs=1e-4)


def test_int8_of_a_weights_file_wants_to_be_told_its_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = lived("resnext11_2x4d")
    network.preprocessing = Preprocessing(image_size=32, resize=32, channels=3, mean=(0.5,) * 3, std=(0.2,) * 3)
    save(network, tmp_path / "w.safetensors")
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    words = ["predict", str(tmp_path / "w.safetensors"), str(tmp_path / "a.png"), "--engine", "auto"]
    assert main([*words, "--precision", "int8"]) == 2
    assert "give --calibration DIR" in capsys.readouterr().err
