"""Match a detector's classes to those of a data set by name, independent of order and category ids."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from resnext.data.classes import quote_names
from resnext.detection.data.dataset import DetectionDataset
from resnext.detection.evaluation.coco_eval import Detections
from resnext.detection.model.faster_rcnn import OBJECT_CLASSES, FasterRcnn
from resnext.detection.predictor import DetectPredictor
from resnext.detection.weights import make_class_name
from resnext.errors import RequestError, did_you_mean


class ClassMatch(NamedTuple):
    """The class of a data set that each class of a detector corresponds to."""

    labels: np.ndarray  # int64 [K]: the data set's label of each detector class; -1 without one
    note: str  # how they were matched and what is left out; empty for equal lists

    def relabel(self, found: Detections) -> Detections:
        """Convert detections to the data set's labels; drop those of classes that it does not have."""
        labels = self.labels[found.label]
        return found._replace(label=labels).select(labels >= 0)


def match_classes(model: FasterRcnn | DetectPredictor, dataset: DetectionDataset) -> ClassMatch:
    """Match the classes of ``model`` and ``dataset``; see ``find_labels`` for the rules.

    Raises RequestError for a class of the data set that has boxes and that the detector does not know.
    """
    classes = dataset.classes
    labels, how = find_labels(model, classes, dataset.category_ids)
    unknown = sorted(set(range(len(classes))) - set(labels.tolist()))
    boxes = np.bincount(dataset.labels[~dataset.crowd], minlength=len(classes))
    missing = [classes[k] for k in unknown if boxes[k] or len(unknown) == len(classes)]
    if missing:
        hint = did_you_mean(missing[0], model.classes)
        known = hint if "did you mean" in hint else f": it knows {_format_classes(model.classes)}"
        raise RequestError(
            f"{dataset.name} has {_format_classes(classes)}, but the detector does not know {quote_names(missing)}"
            f"{known}; train on it first (resnext detect train --init.weights ...)"
        )
    lacking = [name for name, label in zip(model.classes, labels.tolist(), strict=True) if label < 0]
    parts = [how] if how else []
    if lacking and not model.has_numbered_classes:  # without class names in the file, these are unused outputs
        parts.append(f"left out, as the data does not have them: {quote_names(lacking)}")
    if unknown:
        names = quote_names([classes[k] for k in unknown])
        parts.append(f"unknown to the detector, without boxes in the data: {names}")
    return ClassMatch(labels, "; ".join(parts))


def find_labels(
    model: FasterRcnn | DetectPredictor, names: Sequence[str], ids: Sequence[int]
) -> tuple[np.ndarray, str]:
    """Find the index in ``names`` (with category ids ``ids``) of each class of ``model`` (-1: none), and how.

    By name. A model without class names may also be matched by COCO's category ids, where ``ids`` are exactly COCO's,
    or by position, where the numbers of classes agree.
    """
    label_of = {name: label for label, name in enumerate(names)}
    labels = np.array([label_of.get(name, -1) for name in model.classes], np.int64)
    if tuple(names) == model.classes:
        return labels, ""
    found = len(set(labels[labels >= 0].tolist()))
    if model.has_numbered_classes and found < len(names):
        outputs = dict(zip(model.category_ids or (), model.classes, strict=False))
        if set(ids) == {id_ for id_, name in outputs.items() if name != make_class_name(id_)}:
            label_of_id = {id_: label for label, id_ in enumerate(ids)}
            return np.array([label_of_id.get(id_, -1) for id_ in outputs], np.int64), "classes matched by COCO's ids"
        if len(names) == len(model.classes):
            return np.arange(len(names)), "classes matched by position, as the detector's file has no class names"
    return labels, "classes matched by name"


def _format_classes(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > 3 else ""
    return f"{len(names)} {'class' if len(names) == 1 else 'classes'} ({', '.join(names[:3])}{more})"


def merge_classes(dataset: DetectionDataset) -> DetectionDataset:
    """Merge all classes into the single class of the rpn stage."""
    return replace(dataset, classes=OBJECT_CLASSES, category_ids=(1,), labels=np.zeros_like(dataset.labels))
