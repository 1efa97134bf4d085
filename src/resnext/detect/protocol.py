"""The protocol a detection result carries: which images at which size, which detections, which weights."""

from collections.abc import Mapping
from typing import Any

from resnext.detect.settings import DetectDataSettings, DetectorSettings
from resnext.evaluate.protocol import weights_line


def detection_protocol(
    data: DetectDataSettings,
    detector: DetectorSettings | None,
    *,
    name: str,
    split: str,
    device: str,
    precision: str = "fp32",
    batch_size: int | None = None,
    weights: str | None = None,
    checkpoint: str | None = None,
    step: int | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """The protocol as plain values for JSON.

    ``name`` is the data set's, ``split`` says in a sentence how the images were held out, ``checkpoint`` and ``step``
    say which weights of a run were judged. ``detector`` is None where the detections come from a file (``weights``).
    """
    limits = {} if detector is None else {key: getattr(detector, key) for key in ("score", "nms", "detections")}
    view = {} if detector is None else {key: getattr(data, key) for key in ("min_size", "max_size", "resize")}
    return {
        "data": name,
        "split": split,
        **view,
        **limits,
        "exif": data.exif,
        "bad_boxes": data.bad_boxes,
        "precision": None if detector is None else precision,
        "device": str(device),
        "batch_size": batch_size,
        "weights": weights,
        "checkpoint": checkpoint,
        "step": step,
        "command": command,
    }


def detection_line(protocol: Mapping[str, Any], n: int, boxes: int) -> str:
    """The protocol in one line, as it stands under every result; of a file that nobody vouches for."""
    parts = [f"{n:,} images and {boxes:,} boxes of {protocol.get('data')}"]
    if protocol.get("min_size") is not None:
        parts.append(
            f"shorter side {protocol['min_size']}, longer at most {protocol.get('max_size')}, {protocol.get('resize')}"
        )
    if protocol.get("detections") is not None:
        parts.append(
            f"at most {protocol['detections']} detections an image, score ≥ {protocol.get('score')}, "
            f"NMS {protocol.get('nms')}"
        )
    if protocol.get("precision"):
        parts.append(str(protocol["precision"]))
    if protocol.get("split"):
        parts.append(f"split: {protocol['split']}")
    if weights_line(protocol):
        parts.append(weights_line(protocol))
    return " · ".join((*parts, "COCOeval (pycocotools)"))
