"""``resnext detect predict`` and ``detect evaluate`` of an exported file give what they give of the weights."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import resnext
from resnext.cli import main
from resnext.data.preprocessing import Preprocessing
from resnext.deploy import probe
from resnext.deploy.export import ExportRequest, export_classifier, write_model
from resnext.deploy.predictor import Predictor
from resnext.detection.export.detector_graph import build_detector_model
from resnext.detection.export.engines import OUTPUTS
from resnext.detection.export.facts import DetectorFacts
from resnext.detection.export.write import export_detector
from resnext.detection.model.faster_rcnn import FasterRcnn
from resnext.detection.predict import predict
from resnext.detection.predictor import DetectPredictor
from resnext.detection.weights import load_detector, save_detector
from resnext.errors import RequestError, WorkError
from tests.deploy.networks import lived
from tests.detection.shape_images import write
from tests.detection.tiny_detector import CIFAR, detector, noise

pytestmark = pytest.mark.usefixtures("one_thread")


def write_data(root: Path, model: FasterRcnn) -> None:
    """COCO's layout. The true boxes are what PyTorch finds, some moved, so that AP is neither 0 nor 1.

    The pictures are noise, as on plain ones rounding decides which of many equal boxes is the best.
    """
    sizes = [(90, 70), (64, 100), (120, 64), (80, 80)]
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        images = []
        for number, size in enumerate(sizes):
            noise(*size, seed=number).save(root / split / f"{number}.png")
            (found,) = predict(model, root / split / f"{number}.png")
            boxes = []
            for place, (box, label) in enumerate(zip(found.boxes[:12].tolist(), found.labels.tolist(), strict=False)):
                x, y, w, h = box[0], box[1], box[2] - box[0], box[3] - box[1]
                boxes.append((label, [x + w * (0, 0.1, 0.2)[place % 3], y, w, h]))
            images.append((size, boxes))
        write(root, split, images)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``d.safetensors``, a detector of ``shapes``' two classes, its export ``d.onnx``, and ``data``."""
    for package in ("onnx", "onnxruntime", "pycocotools"):
        pytest.importorskip(package)
    root = tmp_path_factory.mktemp("export")
    save_detector(detector(CIFAR, ("disc", "bar"), detections=20), root / "d.safetensors")
    model = load_detector(root / "d.safetensors")
    write_data(root / "data", model)
    images = [Image.open(path) for path in sorted((root / "data" / "val").iterdir())]
    export_detector(model, root / "d.onnx", "onnx", images)
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
    assert 0.1 < other["ap"] < other["ap50"] < 1
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
    network = lived("resnext11_2x4d")
    network.preprocessing = Preprocessing(
        image_size=32, resize=36, channels=3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3)
    )
    resnext.save(network, tmp_path / "c.safetensors")
    export_classifier(network, tmp_path / "c.onnx", ExportRequest(format="onnx"), [noise(50, 40)])
    for name in ("c.onnx", "c.safetensors"):
        assert main(["detect", "predict", str(tmp_path / name), str(place / "data" / "val")]) == 2
        says = f"{tmp_path / name} holds a classifier, not a detector; resnext predict and evaluate run it"
        assert says in capsys.readouterr().err
        with pytest.raises(RequestError, match="holds a classifier, not a detector"):
            DetectPredictor.load(tmp_path / name)


@pytest.mark.parametrize("words", [["predict"], ["evaluate", "--data"]])
def test_a_detectors_file_is_refused_by_the_commands_of_classifiers(
    place: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command, *options = words
    for name, says in (
        ("d.onnx", "holds a detector, not a classifier; resnext detect runs it, or DetectPredictor.load"),
        ("d.safetensors", "is a detector: load it with resnext.load_detector, or use resnext detect"),
    ):
        assert main([command, str(place / name), *options, str(place / "data" / "val")]) == 2
        assert f"{place / name} {says}" in capsys.readouterr().err
        with pytest.raises(RequestError, match="detector"):
            Predictor.load(place / name)


@pytest.mark.parametrize("name", ["d.onnx", "d.xml"])
def test_a_detectors_engine_is_tried_in_a_process_of_its_own_first(
    place: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path / "cache"))
    file = place / name
    if name == "d.xml":
        pytest.importorskip("openvino")
        model = load_detector(place / "d.safetensors")
        info = DetectorFacts.from_detector(model).to_info(OUTPUTS, (), None)
        write_model(build_detector_model(model, "openvino"), info, file)
    with DetectPredictor.load(file) as predictor:  # the real child; what has run is not tried again
        expected = predictor.detect(predictor.prepare(noise(90, 70)))
    code = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    monkeypatch.setattr(probe, "CHILD", (sys.executable, "-c", code))
    with DetectPredictor.load(file) as predictor:
        np.testing.assert_array_equal(predictor.detect(predictor.prepare(noise(90, 70))).scores, expected.scores)
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path / "other"))
    with pytest.raises(WorkError, match=rf"crashes on this machine \(SIGSEGV\) with {name} in fp32"):
        DetectPredictor.load(file)
