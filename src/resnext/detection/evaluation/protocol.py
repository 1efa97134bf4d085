"""The protocol of a detection result: images and their size, detection limits, precision, weights."""

from collections.abc import Mapping
from typing import Any

from resnext.detection.evaluation.coco_eval import MAX_DETECTIONS
from resnext.detection.preprocessing import DetectPreprocessing
from resnext.detection.settings import DetectorSettings
from resnext.evaluation.output.protocol import format_arithmetic, format_weights
from resnext.speed import kernels

OWN_SPLIT = "the data's own held-out images"  # split of a run's own evaluation


def describe_detection_protocol(
    preprocessing: DetectPreprocessing | None,
    detector: DetectorSettings | None,
    *,
    data: str,
    split: str,
    changed: Mapping[str, int] | None = None,
    device: str | None = None,
    precision: str | None = None,
    bn_eps: float | None = None,
    batch_size: int | None = None,
    weights: str | None = None,
    checkpoint: str | None = None,
    step: int | None = None,
    command: str | None = None,
    classes: str | None = None,
    max_detections: int = MAX_DETECTIONS,
    images_over_limit: int = 0,
) -> dict[str, Any]:
    """Describe how a result was made, in JSON values.

    ``preprocessing`` and ``detector`` are None for detections from a file, which ``weights`` then names. ``split`` says
    how the images were held out, ``changed`` is ``DetectionDataset.counts``, ``bn_eps`` replaces that of the weights,
    ``checkpoint`` and ``step`` are of a run, ``classes`` is ``ClassMatch.note``, ``max_detections`` counts per class
    and image, and ``images_over_limit`` is the number of images with more boxes of a class than that.
    """
    limits = {} if detector is None else {key: getattr(detector, key) for key in ("score", "nms", "detections")}
    return {
        "data": data,
        "split": split,
        "changed": dict(changed or {}),
        "classes": classes or None,
        **({} if preprocessing is None else preprocessing.to_dict()),
        **limits,
        "max_detections": max_detections,
        "images_beyond": images_over_limit,
        "precision": precision,
        "bn_eps": bn_eps,
        "fast": None if precision is None else kernels.is_fast_enabled(),
        "device": device,
        "batch_size": batch_size,
        "weights": weights,
        "checkpoint": checkpoint,
        "step": step,
        "command": command,
    }


def format_detection_protocol(protocol: Mapping[str, Any], n: int, boxes: int) -> str:
    """Format the protocol in one line, shown under every result; accepts untrusted values."""
    parts = [f"{n:,} images and {boxes:,} boxes of {protocol.get('data')}"]
    if protocol.get("min_size") is not None:
        parts.append(
            f"shorter side {protocol['min_size']}, longer at most {protocol.get('max_size')}, {protocol.get('resize')}"
        )
    if protocol.get("detections") is not None:
        parts.append(
            f"at most {protocol['detections']} detections per image, score ≥ {protocol.get('score')}, "
            f"NMS {protocol.get('nms')}"
        )
    most = protocol.get("max_detections", MAX_DETECTIONS)
    if most != MAX_DETECTIONS:
        parts.append(f"{most} detections per class and image count (COCO: {MAX_DETECTIONS})")
    if protocol.get("images_beyond"):
        parts.append(f"images with more than {most} boxes of a class: {protocol['images_beyond']}")
    if protocol.get("precision"):
        parts.append(format_arithmetic(protocol))
    if protocol.get("bn_eps"):
        parts.append(f"BN's eps {protocol['bn_eps']}")
    if protocol.get("split"):
        parts.append(f"split: {protocol['split']}")
    changed = protocol.get("changed")
    if isinstance(changed, Mapping) and changed:
        parts.append(", ".join(f"{what}: {count}" for what, count in changed.items()))
    if protocol.get("classes"):
        parts.append(str(protocol["classes"]))
    if format_weights(protocol):
        parts.append(format_weights(protocol))
    return " · ".join((*parts, "COCOeval (pycocotools)"))
