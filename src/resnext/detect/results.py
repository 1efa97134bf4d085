"""Detections as a file in COCO's results format, which every tool of the field reads and writes."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from resnext.detect.dataset import DetectionDataset
from resnext.detect.evaluator import Detections, in_order
from resnext.errors import RequestError, nearest
from resnext.files import written_whole

LARGEST = 1 << 30  # bytes of a file that is read
MOST = 5_000_000  # detections in it
FARTHEST = 1e9  # pixels


def write_results(path: Path, dataset: DetectionDataset, detections: Detections) -> None:
    """``[{image_id, category_id, bbox: [x, y, width, height], score}, ...]``, whole or not at all, one a line.

    Numbers have nine digits, from which ``read_results`` makes the same float32 again. Raises WorkError when the disk
    refuses.
    """
    ids, categories = dataset.image_ids[detections.image].tolist(), dataset.category_ids
    boxes = detections.boxes.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    rows = zip(ids, detections.label.tolist(), boxes.tolist(), detections.score.tolist(), strict=True)
    with written_whole(path, "w") as file:
        file.write("[")
        for row, (image, label, box, score) in enumerate(rows):
            place = ",".join(f"{value:.9g}" for value in box)
            file.write(",\n" if row else "\n")
            file.write(f'{{"image_id":{image},"category_id":{categories[label]},"bbox":[{place}],"score":{score:.9g}}}')
        file.write("\n]\n")


def read_results(path: Path | str, dataset: DetectionDataset) -> Detections:
    """The detections of a file in COCO's results format on ``dataset``; keys beside the four are not looked at.

    Raises RequestError naming the file and the first result that cannot be one of the data set.
    """
    path = Path(path)
    values = _list(path)
    images = {int(id): i for i, id in enumerate(dataset.image_ids)}
    labels = {id: k for k, id in enumerate(dataset.category_ids)}
    image, label = np.empty(len(values), np.int64), np.empty(len(values), np.int64)
    boxes, score = np.empty((len(values), 4)), np.empty(len(values))
    for row, value in enumerate(values):
        try:
            image[row], label[row], boxes[row], score[row] = _result(value, images, labels, dataset)
        except _Wrong as wrong:
            raise RequestError(f"{path}: result {row} {wrong}") from None
    boxes[:, 2:] += boxes[:, :2]
    return in_order([Detections(image, label, boxes.astype(np.float32), score.astype(np.float32))])


class _Wrong(Exception):
    """The end of a sentence that begins with the result."""


def _list(path: Path) -> list[Any]:
    try:
        there = path.is_file()
        size = path.stat().st_size if there else 0
        data = path.read_bytes() if there and size <= LARGEST else b""
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror or error}") from None
    if not there:
        raise RequestError(f"there is no file {path} of detections")
    if size > LARGEST:
        raise RequestError(f"{path} is larger than {LARGEST:,} bytes, so it is not read as detections")
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        raise RequestError(f"{path} is no JSON file") from None
    if not isinstance(values, list):
        hint = "; this is a data set" if isinstance(values, dict) and "annotations" in values else ""
        raise RequestError(f"{path} holds no list of results, as COCO's results format has it{hint}")
    if len(values) > MOST:
        raise RequestError(f"{path} holds {len(values):,} results; at most {MOST:,} are read")
    return values


def _result(
    value: Any, images: dict[int, int], labels: dict[int, int], dataset: DetectionDataset
) -> tuple[int, int, list[float], float]:
    """Image, class, x, y, width and height, score. Raises _Wrong."""
    if not isinstance(value, dict):
        raise _Wrong("is no object with image_id, category_id, bbox and score")
    for key in ("image_id", "category_id", "bbox", "score"):
        if key not in value:
            raise _Wrong(f"has no {key}{nearest(key, [str(k)[:40] for k in value][:50])}")
    image = images.get(value["image_id"]) if _is_whole(value["image_id"]) else None
    if image is None:
        raise _Wrong(f"is of image_id {_short(value['image_id'])}, which {dataset.name} does not have")
    label = labels.get(value["category_id"]) if _is_whole(value["category_id"]) else None
    if label is None:
        known = ", ".join(f"{id} {name}" for id, name in zip(dataset.category_ids[:12], dataset.classes, strict=False))
        raise _Wrong(f"is of category_id {_short(value['category_id'])}; {dataset.name} has {known}")
    box, score = value["bbox"], value["score"]
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_place, box)) and min(box[2:]) >= 0):
        raise _Wrong(f"has the bbox {_short(box)}, not x, y, width and height in pixels")
    if not _is_place(score):
        raise _Wrong(f"has the score {_short(score)}, not a number")
    return image, label, box, score


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_place(value: Any) -> bool:
    """Whether it is a number that a picture or score could have."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -FARTHEST <= value <= FARTHEST


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
