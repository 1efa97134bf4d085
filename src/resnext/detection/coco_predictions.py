"""Convert predictions to COCO's results format and to a table of all images.

COCO's results format is a list of detections that refer to images and categories by the ids of an annotation file.
Without such a file, image and class names are written in place of ids. ``resnext detect evaluate --detections`` looks
them up; pycocotools' ``loadRes`` rejects them, so nothing mistakes them for ids.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from resnext.data.classes import quote_names
from resnext.detection.data.coco import list_categories, load_json, read_images
from resnext.detection.data.dataset import describe_wrong_size
from resnext.detection.data.image_name_index import ImageNameIndex
from resnext.detection.predict import DetectPrediction
from resnext.detection.predictor import DetectPredictor
from resnext.errors import RequestError

if TYPE_CHECKING:
    from resnext.detection.model.faster_rcnn import FasterRcnn

Id = int | str  # a string is a name in place of an id


class ResultIds(NamedTuple):
    """Ids or names that stand for images and classes in a results file."""

    images: Sequence[Id]  # of each image
    categories: Sequence[Id]  # of each of the detector's classes
    names: Sequence[str]  # of each category
    sizes: np.ndarray | None = None  # int64 [N, 2]: width, height of each image in the annotations


def use_names_as_ids(paths: Sequence[str | None], model: "FasterRcnn | DetectPredictor") -> ResultIds:
    """Use image paths as ids (``image 0`` without one), and the detector's category ids, else its class names."""
    names = [f"image {number}" if path is None else path for number, path in enumerate(paths)]
    return ResultIds(names, model.category_ids or model.classes, model.classes)


def read_annotation_ids(file: Path, paths: Sequence[str], model: "FasterRcnn | DetectPredictor") -> ResultIds:
    """Look up the ids of images and classes in a COCO file, classes by name. Its annotations are not read.

    A class that is not in the file keeps its name. Raises RequestError for an image that is not in the file, for two
    paths that match the same image, and where no class of the detector is in the file.
    """
    from resnext.detection.evaluation.class_matching import find_labels

    content = load_json(file, required_keys=("images", "categories"))
    image_ids, files, sizes = read_images(content["images"], file)
    category_ids, classes = list_categories(content["categories"], file)
    images = ImageNameIndex(files, str(file))
    taken: dict[int, str] = {}
    places = [images.find(os.path.abspath(path)) for path in paths]
    missing = [path for path, place in zip(paths, places, strict=True) if place is None]
    if missing:
        raise RequestError(
            f"{len(missing)} of the {len(paths)} images are not in {file}: {quote_names(missing)}; "
            f"it has {len(files)}, such as {files[0]!r}"
        )
    known = [place for place in places if place is not None]
    for path, place in zip(paths, known, strict=True):
        if taken.setdefault(place, path) != path:
            raise RequestError(f"{path} and {taken[place]} both match the image {files[place]!r} of {file}")
    labels = find_labels(model, classes, category_ids)[0].tolist()
    if max(labels) < 0:
        raise RequestError(f"{file} has none of the detector's classes, only {quote_names(classes)}")
    pairs = list(zip(model.classes, labels, strict=True))
    categories = [category_ids[label] if label >= 0 else own for own, label in pairs]
    names = [classes[label] if label >= 0 else own for own, label in pairs]
    return ResultIds([image_ids[place] for place in known], categories, names, sizes[known])


def mark_wrong_sizes(found: Sequence[DetectPrediction], ids: ResultIds) -> list[DetectPrediction]:
    """Return the predictions, with an error in place of each whose image size differs from the annotations."""
    checked = list(found)
    for i, stated in enumerate([] if ids.sizes is None else ids.sizes.tolist()):
        size = found[i].size
        if size is not None and size != tuple(stated) and min(stated) >= 1:
            checked[i] = replace(found[i], error=describe_wrong_size(size, stated))
    return checked


def to_coco_results(found: Sequence[DetectPrediction], ids: ResultIds) -> list[dict[str, Any]]:
    """Convert to COCO's results format: one row per detection, with file and class names besides the ids.

    ``bbox`` is [x, y, width, height] in pixels. Images without detections are only in ``to_image_table``.
    """
    return [
        {
            "image_id": image,
            "category_id": ids.categories[int(label)],
            "bbox": [round(float(v), 3) for v in (box[0], box[1], box[2] - box[0], box[3] - box[1])],
            "score": round(float(score), 6),
            **({} if one.path is None else {"file_name": one.path}),
            "category": ids.names[int(label)],
        }
        for image, one in zip(ids.images, found, strict=True)
        if one.error is None
        for box, label, score in zip(one.boxes, one.labels, one.scores, strict=True)
    ]


def to_image_table(found: Sequence[DetectPrediction], ids: ResultIds) -> dict[str, Any]:
    """List all images and categories as COCO files do, with the number of detections or the error of each image."""
    images = []
    for id_, one in zip(ids.images, found, strict=True):
        row: dict[str, Any] = {"id": id_, "file_name": one.path}
        if one.size is not None:
            row |= {"width": one.size[0], "height": one.size[1]}
        images.append(row | ({"detections": len(one.labels)} if one.error is None else {"error": one.error}))
    categories = [{"id": id_, "name": name} for id_, name in zip(ids.categories, ids.names, strict=True)]
    return {"images": images, "categories": categories}
