"""Exports of detectors: the file gives the detector's results in a process without torch, or nothing is written."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resnext.deploy.export_info import FORMATS, ExportInfo
from resnext.deploy.exported import open_exported
from resnext.detection.export import write
from resnext.detection.export.detector_graph import build_detector_model
from resnext.detection.export.engines import Detections
from resnext.detection.export.verify import measure_agreement
from resnext.detection.export.write import DETECTOR_FORMATS, DetectorExport, export_detector
from resnext.detection.model.faster_rcnn import FasterRcnn
from resnext.detection.predict import predict
from resnext.detection.predictor import DetectPredictor
from resnext.errors import RequestError, WorkError
from tests.detection.tiny_detector import CIFAR, detector, noise

ENGINES = {"onnx": "onnxruntime", "openvino": "openvino"}
NAMES = ('a "b"', "ü <b>\n🐈")
pytestmark = pytest.mark.usefixtures("one_thread")


def make_detector(**changes: Any) -> FasterRcnn:
    model = detector(CIFAR, NAMES, **{"detections": 30} | changes)
    model.category_ids, model.provenance = (3, 90), {"run": "x"}
    return model


def export(out: Path, model: FasterRcnn, target: str = "onnx", **options: Any) -> DetectorExport:
    for package in {"onnx", ENGINES[target]} if target == "onnx" else {ENGINES[target]}:
        pytest.importorskip(package)
    return export_detector(model, out, target, [noise(90, 70, seed) for seed in range(3)], **options)


@pytest.mark.parametrize("target", DETECTOR_FORMATS)
def test_the_file_gives_the_detections_and_the_facts_of_the_detector(target: str, tmp_path: Path) -> None:
    model, out = make_detector(), tmp_path / f"d{FORMATS[target]}"
    result = export(out, model, target, weights_sha256="abc")
    assert result.agreement.images == 3
    assert result.agreement.same == result.agreement.detections > 50
    assert result.agreement.box_distance < 1e-4
    assert {path.suffix for path in tmp_path.iterdir()} == ({".onnx"} if target == "onnx" else {".xml", ".bin"})
    assert result.size == sum(path.stat().st_size for path in tmp_path.iterdir())
    info = open_exported(out).info
    assert info == result.info
    assert (info.task, info.input, info.outputs) == ("detection", "picture", ["boxes", "labels", "scores"])
    assert (info.classes, info.weights_sha256, info.provenance) == (list(NAMES), "abc", {"run": "x"})
    assert info.agreement == result.agreement.to_dict()
    picture = tmp_path / "x.png"
    noise(120, 80, 9).save(picture)
    with DetectPredictor.load(out) as predictor:
        assert (predictor.task, predictor.classes, predictor.category_ids) == ("detection", NAMES, (3, 90))
        assert predictor.engine == f"fp32 on {ENGINES[target]}"
        assert (predictor.preprocessing, predictor.settings) == (model.preprocessing, model.settings)
        (found,), (expected,) = predict(predictor, str(picture)), predict(model, str(picture))
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    assert (found.path, found.size, found.error) == (str(picture), (120, 80), None)


@pytest.mark.parametrize("target", DETECTOR_FORMATS)
def test_an_exported_file_is_run_without_torch(target: str, tmp_path: Path) -> None:
    out = tmp_path / f"d{FORMATS[target]}"
    export(out, make_detector(), target)
    noise(90, 70).save(tmp_path / "x.png")
    code = f"""
import sys
from resnext.detection.predict import predict
from resnext.detection.predictor import DetectPredictor
with DetectPredictor.load({str(out)!r}) as predictor:
    (one,) = predict(predictor, {str(tmp_path / "x.png")!r})
    assert len(one.labels) > 5
    assert predictor.detect(predictor.prepare({str(tmp_path / "x.png")!r})).boxes.shape == one.boxes.shape
assert not {{"torch", "torchvision"}} & set(sys.modules), "torch was imported"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr


def test_a_file_that_disagrees_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph is built of other weights than those that PyTorch runs."""

    def build_other(model: FasterRcnn, engine: str) -> Any:
        bias: Any = model.roi_heads.box_predictor.bbox_pred.bias
        with torch.no_grad():
            bias += 0.01
        made = build_detector_model(model, engine)
        with torch.no_grad():
            bias -= 0.01
        return made

    monkeypatch.setattr(write, "build_detector_model", build_other)
    out = tmp_path / "new" / "d.onnx"
    with pytest.raises(WorkError, match=r"disagrees with the detector: .*; nothing was written"):
        export(out, make_detector())
    assert not out.parent.exists()
    kept = tmp_path / "d.onnx"
    kept.write_bytes(b"mine")
    with pytest.raises(WorkError, match="disagrees"):
        export(kept, make_detector())
    assert [path.name for path in tmp_path.iterdir()] == ["d.onnx"]
    assert kept.read_bytes() == b"mine"


def test_a_detector_that_finds_little_is_verified_at_all_scores(tmp_path: Path) -> None:
    said: list[str] = []
    result = export(tmp_path / "d.onnx", make_detector(score=0.99), progress=said.append)
    assert any("without score threshold" in words for words in said)
    assert result.agreement.score == 0
    assert result.agreement.detections > 50
    with DetectPredictor.load(result.path) as predictor:
        assert predictor.settings.score == 0.99
        assert not len(predictor.detect(np.asarray(noise(90, 70))).labels)


def test_requests_that_cannot_be_met_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    model, images = make_detector(), [noise(60, 50)]
    for target, name, given, says in (
        ("onnx", "d.xml", images, r"d.xml must end in .onnx"),
        ("onxx", "d.onnx", images, "onxx"),
        ("onnx", "d.onnx", [], "verified with real images"),
    ):
        with pytest.raises(RequestError, match=says):
            export_detector(model, tmp_path / name, target, given)
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_an_exported_file_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "d.onnx"
    export(out, make_detector(score=0.2))
    for options, says in (
        ({"engine": "openvino"}, "runs on onnxruntime, not on openvino"),
        ({"engine": "opnvino"}, "did you mean"),
        ({"score": 0.1}, "from 0.2, the threshold of the exported detector"),
    ):
        with pytest.raises(RequestError, match=says):
            DetectPredictor.load(out, **options)  # type: ignore[arg-type]
    image = np.asarray(noise(90, 70))
    with DetectPredictor.load(out) as predictor, DetectPredictor.load(out, score=0.4) as strict:
        everything, few = predictor.detect(image), strict.detect(image)
        np.testing.assert_array_equal(few.scores, everything.scores[everything.scores > 0.4])
        for bad in (image.astype(np.float32), image[None], image[..., :1], image[:0]):
            with pytest.raises(RequestError, match="an image must be uint8"):
                predictor.detect(bad)
    with pytest.raises(WorkError, match="closed"):
        predictor.detect(image)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"task": "classification"}, "holds a classifier"),
        ({"detector": None}, "does not describe a detector"),
        ({"classes": []}, "does not describe a detector"),
        ({"detector": {"settings": {"score": 7}, "stage": "joint"}}, "score"),
        ({"detector": {"settings": {"nonsense": 7}, "stage": "joint"}}, "nonsense"),
        ({"detector": {"settings": {}, "stage": "joint", "category_ids": [1]}}, "category_ids"),
        ({"preprocessing": {"min_size": "x"}}, "min_size"),
    ],
)
def test_metadata_of_hostile_files_are_checked(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from resnext.detection.export.facts import DetectorFacts

    info = DetectorFacts.from_detector(make_detector()).to_info(("boxes", "labels", "scores"), (), None)
    changed = ExportInfo.from_json(json.dumps(json.loads(info.to_json()) | change))
    with pytest.raises(RequestError, match=says):
        DetectorFacts.from_info(changed, str(tmp_path / "x.onnx"))


def test_the_measure_of_agreement_counts_what_only_one_side_finds() -> None:
    boxes = np.array([[0, 0, 10, 10], [20, 0, 40, 10], [0, 30, 10, 50]], np.float32)
    whole = Detections(boxes, np.array([0, 1, 0]), np.array([0.9, 0.8, 0.0505], np.float32))
    same = measure_agreement([whole], [whole], 0.05, 100)
    assert (same.detections, same.same, same.box_distance, same.score_difference) == (4, 4, 0, 0)  # without the edge
    moved = whole._replace(boxes=boxes + np.float32(0.125), scores=whole.scores - np.float32(0.002))
    other = measure_agreement([moved], [whole], 0.05, 100)
    assert (other.same, other.box_distance) == (4, 0.125)
    assert other.score_difference == pytest.approx(0.002, abs=1e-6)
    relabelled = whole._replace(labels=np.array([0, 0, 0]))
    worse = measure_agreement([relabelled], [whole], 0.05, 100)
    assert (worse.detections, worse.same) == (4, 2)
    for agreement in (other, worse, replace(same, box_distance=float("nan"))):
        with pytest.raises(WorkError, match="disagrees"):
            agreement.check()
    same.check()
    lost = whole._replace(boxes=boxes * np.float32(np.nan))
    with pytest.raises(WorkError, match="not finite"):
        measure_agreement([lost], [whole], 0.05, 100)


def test_images_may_be_grey(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    images: list[Image.Image] = [noise(90, 70).convert("L")]
    assert export_detector(make_detector(), tmp_path / "d.onnx", "onnx", images).agreement.images == 1
