"""A detector's graph finds what the detector finds, in every layout, stage and engine."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from resnext.detection.export.engines import Detections
from resnext.detection.export.regions_graph import find_area_thresholds
from resnext.detection.export.verify import match_detections
from resnext.detection.model.faster_rcnn import FasterRcnn
from resnext.detection.predict import predict
from resnext.detection.predictor import DetectPredictor
from tests.detection.tiny_detector import CIFAR, NARROW, detector, noise

ENGINES = ("onnxruntime", "openvino")
SIZES = [(64, 64), (150, 100), (37, 90)]  # width and height
pytestmark = pytest.mark.usefixtures("one_thread")

DETECTORS: dict[str, Callable[[], FasterRcnn]] = {
    "fpn": detector,
    "without pooling in the stem": lambda: detector(CIFAR),
    "pre-activation": lambda: detector(NARROW.change(pre_activation=True)),
    "branched": lambda: detector(NARROW.change(form="branched")),
    "c4": lambda: detector(layout="c4"),
    "c4, pre-activation": lambda: detector(NARROW.change(pre_activation=True), layout="c4"),
    "c4, max pooling": lambda: detector(layout="c4", pool="max"),
    "rpn": lambda: detector(stage="rpn"),
    "fast_rcnn": lambda: detector(stage="fast_rcnn", proposer=detector(stage="rpn", seed=3)),
    "other numbers": lambda: detector(
        classes=tuple("abcdefg"), detections=7, nms=0.3, rpn_nms=0.5, score=0.13, anchor_ratios=(0.3, 1.0)
    ),
}


def assert_same(found: Detections, model: FasterRcnn, image: np.ndarray, least: int = 1) -> None:
    (expected,) = predict(model, image)
    assert len(expected.labels) >= least
    assert len(found.labels) == len(expected.labels)
    pairs = match_detections(found, Detections(expected.boxes, expected.labels, expected.scores))
    assert len(pairs) == len(expected.labels)
    np.testing.assert_allclose(found.boxes[pairs[:, 0]], expected.boxes[pairs[:, 1]], atol=1e-3)
    np.testing.assert_allclose(found.scores[pairs[:, 0]], expected.scores[pairs[:, 1]], atol=1e-5)
    assert (np.diff(found.scores) <= 0).all()
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert found.labels.dtype == np.int64


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", DETECTORS)
def test_a_graph_finds_what_pytorch_finds(engine: str, name: str) -> None:
    pytest.importorskip(engine)
    model = DETECTORS[name]()
    with DetectPredictor.from_detector(model, engine=engine) as predictor:
        for number, size in enumerate(SIZES):
            image = np.asarray(noise(*size, seed=number))
            assert_same(predictor.detect(image), model, image, least=7)


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_found_is_three_empty_arrays_and_the_next_image_is_right(engine: str) -> None:
    pytest.importorskip(engine)
    model = detector(score=0.6)
    image = np.asarray(noise(150, 100))
    (expected,) = predict(detector(score=0.0), image)
    model.set_score_threshold(float(expected.scores[0]) + 1e-3)
    with DetectPredictor.from_detector(model, engine=engine) as predictor:
        for _ in range(2):
            found = predictor.detect(image)
            assert found.boxes.shape == (0, 4)
            assert found.labels.shape == found.scores.shape == (0,)


@pytest.mark.parametrize("engine", ENGINES)
def test_only_scores_above_the_threshold_are_given_and_the_best_of_them(engine: str) -> None:
    pytest.importorskip(engine)
    image = np.asarray(noise(150, 100))
    (everything,) = predict(detector(), image)
    threshold = float(everything.scores[20])
    model = detector(score=threshold)
    model.set_max_detections(15)
    with DetectPredictor.from_detector(model, engine=engine) as predictor:
        found = predictor.detect(image)
    np.testing.assert_allclose(found.scores, everything.scores[:15], atol=1e-6)
    assert found.scores.min() > threshold


@pytest.mark.parametrize("engine", ENGINES)
def test_equal_scores_keep_torchvisions_order(engine: str) -> None:
    """All regions get the same scores, so that only the order of regions and classes decides which ten remain."""
    pytest.importorskip(engine)
    model = detector(detections=10, nms=0.9)
    scores: Any = model.roi_heads.box_predictor.cls_score
    scores.weight.data.zero_()
    scores.bias.data.zero_()
    image = np.asarray(noise(150, 100))
    (expected,) = predict(model, image)
    assert len(set(expected.scores.tolist())) == 1
    with DetectPredictor.from_detector(model, engine=engine) as predictor:
        found = predictor.detect(image)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)


def test_area_thresholds_divide_boxes_as_torchvision_does() -> None:
    import torch

    pool: Any = detector().roi_heads.box_roi_pool
    thresholds = np.array(find_area_thresholds(pool), np.float32)
    sides = torch.cat([torch.linspace(0.1, 1500, 3001), torch.tensor([112.0, 224.0, 448.0, 111.99999, 224.00002])])
    boxes = torch.stack([torch.zeros_like(sides), torch.zeros_like(sides), sides, sides], 1)
    areas = (sides * sides).numpy()
    levels = (areas[:, None] >= thresholds[1:]).sum(1)
    np.testing.assert_array_equal(levels, pool.map_levels([boxes]).numpy())
    assert set(levels.tolist()) == set(range(4))
