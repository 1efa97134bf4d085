"""Read and write detections in COCO's results format."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from resnext.detection.data.dataset import DetectionDataset
from resnext.detection.data.image_name_index import ImageNameIndex
from resnext.detection.evaluation.coco_eval import Detections, sort_detections
from resnext.detection.model.faster_rcnn import OBJECT_CLASSES
from resnext.errors import RequestError, did_you_mean
from resnext.files import atomic_write

MAX_BYTES = 1 << 30  # bytes of a file
MAX_RESULTS = 5_000_000  # detections in a file
MAX_COORDINATE = 1e9  # pixels


def write_coco_results(path: Path, dataset: DetectionDataset, detections: Detections) -> None:
    """Write ``[{image_id, category_id, bbox: [x, y, width, height], score}, ...]`` atomically, one result per line.

    Where the annotations have no ids (VOC), names are written instead. Numbers have nine digits, which preserve
    float32 exactly. Raises WorkError where writing fails.
    """
    own = dataset.has_generated_ids
    images = [json.dumps(value) for value in (dataset.files if own else dataset.image_ids.tolist())]
    categories = [json.dumps(value) for value in (dataset.classes if own else dataset.category_ids)]
    # The category's name, so that 1 is not taken for the first class.
    last = ',"category":"object"' if dataset.classes == OBJECT_CLASSES else ""
    boxes = detections.boxes.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    columns = (detections.image.tolist(), detections.label.tolist(), boxes.tolist(), detections.score.tolist())
    with atomic_write(path, "w") as file:
        file.write("[")
        for row, (image, label, box, score) in enumerate(zip(*columns, strict=True)):
            place = ",".join(f"{value:.9g}" for value in box)
            ids = f'"image_id":{images[image]},"category_id":{categories[label]}'
            file.write(",\n" if row else "\n")
            file.write(f'{{{ids},"bbox":[{place}],"score":{score:.9g}{last}}}')
        file.write("\n]\n")


def read_coco_results(path: Path | str, dataset: DetectionDataset, counts: dict[str, int] | None = None) -> Detections:
    """Read detections on ``dataset`` from a file in COCO's results format.

    ``file_name`` and ``category`` of a result, where given, must agree with the data set's ids. Names in place of ids
    are looked up; results of a class that the data does not have are then left out, and ``counts`` gets their number.
    Other keys are ignored. Raises RequestError for the first invalid result.
    """
    path = Path(path)
    values = _load_results(path)
    ids = _IdLookup(dataset)
    image, label = np.empty(len(values), np.int64), np.empty(len(values), np.int64)
    boxes, score = np.empty((len(values), 4)), np.empty(len(values))
    for row, value in enumerate(values):
        try:
            boxes[row], score[row] = _parse_box_and_score(value)
            image[row], label[row] = ids.find_image(value), ids.find_label(value)
        except (_InvalidResultError, RequestError) as wrong:
            raise RequestError(f"{path}: result {row} {wrong}") from None
    boxes[:, 2:] += boxes[:, :2]
    whole = Detections(image, label, boxes.astype(np.float32), score.astype(np.float32))
    left_out = int(np.count_nonzero(label < 0))
    if left_out and left_out == len(label):
        raise RequestError(f"{path}: no result has a class of {dataset.name}, whose classes are {ids.known}")
    if left_out and counts is not None:
        counts["results left out, as the data does not have their class"] = left_out
    return sort_detections([whole.select(label >= 0)])


class _InvalidResultError(Exception):
    """A result is invalid; the message continues a sentence that starts with the result's number."""


def _load_results(path: Path) -> list[Any]:
    try:
        if not path.is_file():
            raise RequestError(f"{path} does not exist; expected a file of detections")
        if path.stat().st_size > MAX_BYTES:
            raise RequestError(f"{path} is larger than the {MAX_BYTES:,} bytes that are read as detections")
        data = path.read_bytes()
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror or error}") from None
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        raise RequestError(f"{path} is not a JSON file") from None
    if not isinstance(values, list):
        hint = "; it contains annotations" if isinstance(values, dict) and "annotations" in values else ""
        raise RequestError(f"{path} is not a list of results in COCO's results format{hint}")
    if len(values) > MAX_RESULTS:
        raise RequestError(f"{path} contains {len(values):,} results; at most {MAX_RESULTS:,} are read")
    return values


class _IdLookup:
    """Looks up ids and names of results. Raises _InvalidResultError, or RequestError for an ambiguous image."""

    def __init__(self, dataset: DetectionDataset) -> None:
        self.dataset = dataset
        self.places = {int(id_): place for place, id_ in enumerate(dataset.image_ids)}
        self.labels = {id_: label for label, id_ in enumerate(dataset.category_ids)}
        self.label_of = {name: label for label, name in enumerate(dataset.classes)}
        self.names = ImageNameIndex(dataset.files, dataset.name)
        self.found: dict[str, int] = {}  # the image of each name
        self.path_of: dict[int, str] = {}  # the name that was given for each image
        shown = zip(dataset.category_ids[:12], dataset.classes, strict=False)
        self.known = ", ".join(name if dataset.has_generated_ids else f"{id_} {name}" for id_, name in shown)

    def find_image(self, value: dict[str, Any]) -> int:
        """Find the index of a result's image in the data set."""
        id_, path = value["image_id"], value.get("file_name")
        if self.dataset.has_generated_ids and not isinstance(id_, str):
            id_ = path  # numeric ids mean nothing where the data has no ids
            if not isinstance(path, str):
                raise self._make_missing_name_error("image_id", value, "file_name")
        if isinstance(id_, str):
            return self._find_named_image(id_)
        place = self.places.get(id_) if _is_integer(id_) else None
        if place is None:
            raise _InvalidResultError(f"has the image_id {_format_value(id_)}, which {self.dataset.name} does not have")
        if isinstance(path, str) and self.found.get(path) != place:
            if not self.names.can_be(path, place):
                raise self._make_mismatch_error("image_id", value, "file_name", self.dataset.files[place])
            self.found[path] = place
        return place

    def _find_named_image(self, path: str) -> int:
        if path not in self.found:
            place, stated = self.names.find(path), f"has the image_id {_format_value(path)}"
            if place is None:
                raise _InvalidResultError(f"{stated}, which {self.dataset.name} does not have")
            other = self.path_of.setdefault(place, path)
            if other != path:
                raise _InvalidResultError(f"{stated}, but {_format_value(other)} already matched the same image")
            self.found[path] = place
        return self.found[path]

    def find_label(self, value: dict[str, Any]) -> int:
        """Find the label of a result's class; -1 for a class name that the data set does not have."""
        id_, name = value["category_id"], value.get("category")
        if isinstance(value["image_id"], str) and isinstance(name, str):
            id_ = name  # the file was written without the ids of a data set
        elif self.dataset.has_generated_ids and not isinstance(id_, str):
            id_ = name
            if not isinstance(name, str):
                raise self._make_missing_name_error("category_id", value, "category")
        if isinstance(id_, str):
            return self.label_of.get(id_, -1)
        label = self.labels.get(id_) if _is_integer(id_) else None
        if label is None:
            raise _InvalidResultError(f"has the category_id {_format_value(id_)}; {self.dataset.name} has {self.known}")
        stated = self.dataset.classes[label]
        if isinstance(name, str) and name != stated:
            raise self._make_mismatch_error("category_id", value, "category", stated)
        return label

    def _make_mismatch_error(self, key: str, value: dict[str, Any], name_key: str, stated: str) -> _InvalidResultError:
        return _InvalidResultError(
            f"has the {key} {value[key]} and {name_key} {_format_value(value[name_key])}, but {value[key]} is "
            f"{_format_value(stated)} in {self.dataset.name}: it was written with other ids (resnext detect predict "
            "--annotations FILE writes those of a data set)"
        )

    def _make_missing_name_error(self, key: str, value: dict[str, Any], name_key: str) -> _InvalidResultError:
        problem = f"has the {key} {_format_value(value[key])}, but {self.dataset.name} has no ids"
        return _InvalidResultError(f"{problem}: give the name there, or in {name_key}")


def _parse_box_and_score(value: Any) -> tuple[list[float], float]:
    """Parse x, y, width, height and the score. Raises _InvalidResultError, also where an id is missing."""
    if not isinstance(value, dict):
        raise _InvalidResultError("is not an object with image_id, category_id, bbox and score")
    for key in ("image_id", "category_id", "bbox", "score"):
        if key not in value:
            raise _InvalidResultError(f"has no {key}{did_you_mean(key, [str(k)[:40] for k in value][:50])}")
    box, score = value["bbox"], value["score"]
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_coordinate, box)) and min(box[2:]) >= 0):
        raise _InvalidResultError(f"has the bbox {_format_value(box)}, not x, y, width and height in pixels")
    if not _is_coordinate(score):
        raise _InvalidResultError(f"has the score {_format_value(score)}, not a number")
    return box, score


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_coordinate(value: Any) -> bool:
    """Return whether it is a number in the valid range of coordinates."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -MAX_COORDINATE <= value <= MAX_COORDINATE


def _format_value(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
