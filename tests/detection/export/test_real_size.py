"""A ResNeXt-50 with a feature pyramid on photographs at its real size agrees with PyTorch in both engines."""

import tarfile
from pathlib import Path

import pytest
from PIL import Image

from resnext.deploy.export_info import FORMATS
from resnext.detection.export.write import DETECTOR_FORMATS, export_detector
from resnext.detection.preprocessing import DetectPreprocessing
from resnext.model.architecture import Architecture
from tests.detection.tiny_detector import detector


@pytest.mark.slow
@pytest.mark.parametrize("target", DETECTOR_FORMATS)
def test_a_resnext_50_agrees_on_photographs(target: str, tmp_path: Path, shared_data: Path) -> None:
    pytest.importorskip({"onnx": "onnxruntime"}.get(target, target))
    images = []
    with tarfile.open(shared_data / "bccd-coco.tar") as archive:
        for number in (0, 2):
            file = archive.extractfile(f"val/BloodImage_{number:05}.jpg")
            assert file is not None
            images.append(Image.open(file).convert("RGB"))
    model = detector(
        Architecture.parse("resnext50_32x4d", num_classes=0),
        tuple("abcde"),
        view=DetectPreprocessing(),
        score=0.01,
        fpn_channels=256,
        head_channels=1024,
        rpn_pre_nms_test=1000,
        rpn_post_nms_test=1000,
    )
    result = export_detector(model, tmp_path / f"d{FORMATS[target]}", target, images)
    assert result.agreement.same == result.agreement.detections > 20
    assert result.agreement.box_distance < 1e-3
    assert result.agreement.score_difference < 1e-5
