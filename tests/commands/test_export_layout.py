"""Tests of ``resnext export --layout``."""

import json
from pathlib import Path

import pytest
import yaml

from resnext.cli import main
from resnext.detection.weights import save_detector
from tests.detection.export.test_write import make_detector

pytestmark = pytest.mark.usefixtures("one_thread")


def refuse(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["export", *map(str, arguments)]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_a_triton_folder_is_written_and_described(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("onnxruntime")
    out = tmp_path / "new" / "models"
    assert main(["export", str(weights), "--to", "onnx", "--layout", "triton", "--name", "d", "--out", str(out)]) == 0
    assert sorted(f.name for f in out.iterdir()) == ["README.md", "d"]
    assert sorted(f.name for f in (out / "d").iterdir()) == ["1", "config.pbtxt", "labels.txt"]
    printed = capsys.readouterr().out
    assert "d/1/model.onnx" in printed
    assert "predictions are the same" in printed
    assert "exists" in refuse(capsys, weights, "--to", "onnx", "--layout", "triton", "--out", out)


def test_an_ovms_folder_of_a_grey_network_has_both_models(weights: Path, tmp_path: Path):
    pytest.importorskip("openvino")
    out = tmp_path / "models"
    assert main(["export", str(weights), "--to", "openvino", "--layout", "ovms", "--out", str(out)]) == 0
    models = json.loads((out / "config.json").read_text())["model_config_list"]
    assert [m["config"]["name"] for m in models] == ["resnext", "resnext-pixels"]
    assert models[0]["config"]["shape"] == {"images": "(1,-1,-1,1)"}
    assert "a grey JPEG" in (out / "README.md").read_text()


def test_a_kserve_folder_names_its_storage(weights: Path, tmp_path: Path):
    pytest.importorskip("openvino")
    out = tmp_path / "service"
    words = ["--to", "openvino", "--layout", "kserve", "--storage-uri", "s3://b/d", "--out", str(out)]
    assert main(["export", str(weights), *words]) == 0
    service = yaml.safe_load((out / "inference-service.yaml").read_text())
    assert service["spec"]["predictor"]["model"]["storageUri"] == "s3://b/d"
    assert sorted(f.name for f in (out / "storage/1").iterdir()) == ["model.bin", "model.xml"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--layout", "tritn", "--to", "onnx"), "triton"),
        (("--layout", "triton", "--to", "openvino"), "--layout triton needs --to onnx"),
        (("--layout", "ovms", "--to", "torch-export"), "--layout ovms needs --to openvino"),
        (("--layout", "ovms", "--to", "openvino", "--input", "picture"), "leave out --input"),
        (("--layout", "triton", "--to", "onnx", "--batch", "4"), "leave out --input, --batch"),
        (("--layout", "triton", "--to", "onnx", "--with-cam"), "--with-cam"),
        (("--layout", "triton", "--to", "onnx"), "--out FOLDER"),
        (("--layout", "triton", "--to", "onnx", "--overwrite", "--out", "x"), "--overwrite"),
        (("--layout", "triton", "--to", "onnx", "--out", "x", "--name", "a/b"), "--name"),
        (("--layout", "kserve", "--to", "onnx", "--out", "x"), "--storage-uri"),
        (("--to", "onnx", "--name", "x"), "--name is for --layout"),
        (("--to", "onnx", "--storage-uri", "s3://x"), "--storage-uri is for --layout"),
    ],
)
def test_options_that_do_not_fit_are_one_sentence(weights: Path, capsys, arguments: tuple[str, ...], words: str):
    assert words in refuse(capsys, weights, *arguments)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--layout", "triton", "--out", "models"], "--layout takes classifiers only, so export it without --layout"),
        (["--int8"], "a detector is exported in fp32: its boxes have no accuracy gate for int8; leave out --int8"),
    ],
)
def test_a_detector_is_refused_with_what_to_do_instead(
    options: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_detector(make_detector(), tmp_path / "d.safetensors")
    monkeypatch.chdir(tmp_path)
    assert sentence in refuse(capsys, "d.safetensors", "--to", "onnx", *options)
    assert [path.name for path in tmp_path.iterdir()] == ["d.safetensors"]
