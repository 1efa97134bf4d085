"""The JSON of the server's own API."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from resnext.data.transforms.eval_view import prepare_pixels
from resnext.data.transforms.view_region import compute_view_region
from resnext.serving.served_model import ServedModel
from resnext.serving.service import ClassifiedImage, DetectedImage, Times

DIGITS = 5  # significant digits of the values of a map
MAX_TEXT = 200  # characters of a value of the provenance


def list_top(model: ServedModel, image: ClassifiedImage, count: int) -> list[dict[str, Any]]:
    """List the most probable classes, the best first; equal ones in class order."""
    probabilities = image.probabilities
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [{"class": model.classes[i], "index": int(i), "probability": float(probabilities[i])} for i in order]


def format_classified(model: ServedModel, image: ClassifiedImage, top: int, explain: bool) -> dict[str, Any]:
    """Format one classified image; with ``explain`` with the maps of its top classes, where the model has maps."""
    best = list_top(model, image, top)
    entry: dict[str, Any] = {"size": list(image.size), "top": best}
    if explain and image.cam is not None:
        maps = image.cam[[one["index"] for one in best]]
        entry["cam"] = {
            "height": maps.shape[1],
            "width": maps.shape[2],
            "region": list(compute_view_region(image.size, model.predictor.preprocessing)),
            "maps": [[float(f"{value:.{DIGITS}g}") for value in row.ravel().tolist()] for row in maps],
        }
    return entry


def format_detected(model: ServedModel, image: DetectedImage, score: float) -> dict[str, Any]:
    """Format the boxes of one image with at least ``score``."""
    boxes = [
        {"class": get_class_name(model, int(label)), "index": int(label), "score": float(s), "box": box.tolist()}
        for box, label, s in zip(*image.detections, strict=True)
        if s >= score
    ]
    return {"size": list(image.size), "boxes": boxes}


def get_class_name(model: ServedModel, index: int) -> str:
    """Return the name of a class; ``class 7`` if it has none."""
    return model.classes[index] if 0 <= index < len(model.classes) else f"class {index}"


def format_times(times: Times) -> dict[str, float]:
    """Format times in milliseconds."""
    values = {"decode": times.decode, "queue": times.queue, "network": times.network, "total": times.total}
    return {name: round(1000 * seconds, 2) for name, seconds in values.items()}


def draw_view(model: ServedModel, image: ClassifiedImage) -> str:
    """Draw what the network saw, as the data URL of a PNG."""
    pixels = image.pixels
    if model.takes_pictures:
        pixels = prepare_pixels(Image.fromarray(pixels.squeeze()), model.predictor.preprocessing)
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def describe_model(model: ServedModel, with_classes: bool) -> dict[str, Any]:
    """Describe a model for ``GET /v1/models``."""
    p = getattr(model.predictor, "preprocessing", None)
    return {
        "name": model.name,
        "task": model.task,
        "architecture": model.architecture,
        "classes": list(model.classes) if with_classes else len(model.classes),
        "image_size": getattr(p, "image_size", None),
        "channels": getattr(p, "channels", 3),
        "engine": model.predictor.engine,
        "has_cam": bool(getattr(model.predictor, "has_cam", False)),
        "provenance": _shorten_provenance(model.predictor.provenance),
    }


def _shorten_provenance(provenance: dict[str, Any]) -> dict[str, Any]:
    """Keep the plain values of the provenance, without paths of this machine."""
    kept = {}
    for key, value in provenance.items():
        is_short_text = isinstance(value, str) and len(value) <= MAX_TEXT and not value.startswith(("/", "~"))
        if is_short_text or isinstance(value, bool | int | float):
            kept[key] = value
    return kept
