"""``resnext detect predict`` and ``detect evaluate`` of an exported file give what they give of the weights."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from resnext.cli import main
from resnext.detection.export.write import export_detector
from resnext.detection.weights import load_detector, save_detector
from tests.detection.shape_images import write
from tests.detection.tiny_detector import CIFAR, detector, noise

pytestmark = pytest.mark.usefixtures("one_thread")


def write_data(root: Path) -> None:
    """COCO's layout: noise, as on plain pictures rounding decides which of many equal boxes is the best."""
    sizes = [(90, 70), (64, 100), (120, 64), (80, 80)]
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        for number, size in enumerate(sizes):
            noise(*size, seed=number).save(root / split / f"{number}.png")
        boxes = [(0, [3.0, 5, 40, 40]), (1, [30.0, 10, 30, 45]), (0, [0.0, 0, 60, 60])]
        write(root, split, [(size, boxes) for size in sizes])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``d.safetensors``, a detector of ``shapes``' two classes, its export ``d.onnx``, and ``data``."""
    for package in ("onnx", "onnxruntime", "pycocotools"):
        pytest.importorskip(package)
    root = tmp_path_factory.mktemp("export")
    write_data(root / "data")
    save_detector(detector(CIFAR, ("disc", "bar"), detections=20), root / "d.safetensors")
    images = [Image.open(path) for path in sorted((root / "data" / "val").iterdir())]
    export_detector(load_detector(root / "d.safetensors"), root / "d.onnx", "onnx", images)
    return root


def run(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert main(["detect", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_predictions_are_those_of_the_weights(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found: list[list[dict[str, Any]]] = [
        json.loads(run(capsys, "predict", place / name, place / "data" / "val", "--device", "cpu", "--json", "-"))
        for name in ("d.onnx", "d.safetensors")
    ]
    assert len(found[0]) == len(found[1]) > 20
    for one, other in zip(*found, strict=True):
        assert (one["file_name"], one["category"]) == (other["file_name"], other["category"])
        assert one["bbox"] == pytest.approx(other["bbox"], abs=0.01)
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)


def test_the_evaluation_is_that_of_the_weights(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = []
    for name in ("d.onnx", "d.safetensors"):
        out = tmp_path / name
        run(capsys, "evaluate", place / name, "--data", place / "data", "--device", "cpu", "--out", out)
        metrics.append(json.loads((out / "metrics.json").read_text()))
    one, other = metrics
    for name in ("ap", "ap50", "ap75", "ar100"):
        assert one[name] == pytest.approx(other[name], abs=1e-3), name
    assert one["protocol"]["weights"] == "d.onnx"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--precision", "bf16"], "--precision bf16 has no effect on"),
        (["--device", "cuda"], "--device cuda has no effect on"),
        (["--bn-eps", "1e-3"], "--bn-eps 0.001 has no effect on"),
        (["--checkpoint", "last"], "checkpoint"),
        (["--max-detections", "500"], "--max-detections 500 is above 20"),
    ],
)
def test_options_without_effect_are_refused(
    place: Path, options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["detect", "evaluate", str(place / "d.onnx"), "--data", str(place / "data"), *options]) == 2
    assert says in capsys.readouterr().err


def test_a_classifiers_file_is_refused_by_name(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx

    model = onnx.load(place / "d.onnx")
    for entry in model.metadata_props:
        entry.value = entry.value.replace('"task": "detection"', '"task": "classification"')
    onnx.save(model, tmp_path / "c.onnx")
    assert main(["detect", "predict", str(tmp_path / "c.onnx"), str(place / "data" / "val")]) == 2
    assert "holds a classifier, not a detector" in capsys.readouterr().err
