"""A detector on pictures without labels: what is in them, as numbers and drawn."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resnext.data.images import read_image
from resnext.data.source import BadImage
from resnext.detect.drawing import draw_detections
from resnext.detect.faster_rcnn import FasterRcnn
from resnext.device import autocast
from resnext.errors import RequestError, printable
from resnext.files import written_whole


@dataclass(frozen=True, eq=False)
class Predicted:
    """One picture: what was found, best first; or why it could not be read."""

    path: str
    boxes: np.ndarray  # float32 [n, 4]: x1, y1, x2, y2 in pixels of the picture
    labels: np.ndarray  # int64 [n], into the detector's classes
    scores: np.ndarray  # float32 [n]
    exif: bool = True  # whether it was turned upright
    error: str | None = None


@torch.inference_mode()
def predict(
    model: FasterRcnn,
    paths: Sequence[str],
    device: torch.device,
    *,
    precision: str = "fp32",
    batch_size: int = 1,
    progress: Callable[..., None] | None = None,
) -> list[Predicted]:
    """What ``model`` finds in the pictures at ``paths``, in their order; a picture that cannot be read says so."""
    model.eval()
    results: dict[int, Predicted] = {}
    for start in range(0, len(paths), batch_size):
        pictures = {}
        for number in range(start, min(start + batch_size, len(paths))):
            try:
                pictures[number] = read_image(paths[number], 3, model.preprocessing.exif)
            except BadImage as error:
                results[number] = _nothing(paths[number], error.reason)
        if pictures:
            views = [model.preprocessing.view(picture).to(device) for picture in pictures.values()]
            sizes = [(picture.height, picture.width) for picture in pictures.values()]
            with autocast(device, precision):
                found = model.detect(views, sizes)
            for number, one in zip(pictures, found, strict=True):
                boxes, labels, scores = (one[key].float().cpu().numpy() for key in ("boxes", "labels", "scores"))
                exif = model.preprocessing.exif
                results[number] = Predicted(paths[number], boxes, labels.astype(np.int64), scores, exif)
        if progress is not None:
            progress(start + batch_size)
    return [results[number] for number in range(len(paths))]


def as_results(found: Sequence[Predicted], classes: Sequence[str]) -> list[dict[str, Any]]:
    """COCO's results format: a row a detection, with the file and class names that its numbers have no table for.

    ``image_id`` counts the pictures from 1, ``category_id`` the classes; ``bbox`` is [x, y, width, height] in pixels.
    """
    return [
        {
            "image_id": number,
            "category_id": int(label) + 1,
            "bbox": [round(float(v), 3) for v in (box[0], box[1], box[2] - box[0], box[3] - box[1])],
            "score": round(float(score), 6),
            "file_name": one.path,
            "category": classes[int(label)],
        }
        for number, one in enumerate(found, start=1)
        for box, label, score in zip(one.boxes, one.labels, one.scores, strict=True)
    ]


def drawing_places(folder: Path, paths: Sequence[str]) -> list[Path]:
    """Where each picture is to be drawn: ``folder``/NAME.png; a name that comes twice gets a number.

    Raises RequestError for a folder that cannot be made, or that holds such a file: nothing there is written over.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--out {folder} cannot be made: {error.strerror}") from None
    names: set[str] = set()
    places = []
    for path in paths:
        stem, tries = Path(path).stem, count(2)
        name = stem
        while name in names:
            name = f"{stem}-{next(tries)}"
        names.add(name)
        places.append(folder / f"{name}.png")
    there = next((path for path in places if path.exists()), None)
    if there is not None:
        raise RequestError(f"{there} is there already: give --out an empty folder")
    return places


def draw(found: Sequence[Predicted], places: Sequence[Path], classes: Sequence[str]) -> int:
    """Each picture that could be read with its boxes, as PNG at its place; returns how many."""
    readable = [(one, place) for one, place in zip(found, places, strict=True) if one.error is None]
    for one, place in readable:
        picture = draw_detections(read_image(one.path, 3, one.exif), one.boxes, one.labels, one.scores, classes)
        with written_whole(place) as file:
            picture.save(file, format="PNG")
    return len(readable)


def summary(one: Predicted, classes: Sequence[str]) -> str:
    """A picture's line: how many of each class, the most frequent first, and the best score of each."""
    counts = Counter(one.labels.tolist())
    parts = [
        f"{number} {printable(classes[label])} (best {100 * float(one.scores[one.labels == label].max()):.0f} %)"
        for label, number in counts.most_common()
    ]
    return f"{printable(str(one.path))}: {', '.join(parts) or 'nothing'}"


def _nothing(path: str, error: str) -> Predicted:
    return Predicted(path, np.empty((0, 4), np.float32), np.empty(0, np.int64), np.empty(0, np.float32), error=error)
