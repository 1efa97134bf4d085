"""Detections of a data set, and their evaluation with COCO's metrics (pycocotools)."""

import contextlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from resnext.detection.data.dataset import DetectionDataset
from resnext.detection.evaluation import matching
from resnext.errors import RequestError, WorkError

STATS = (  # in the order of COCOeval.stats
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)
MAX_DETECTIONS = 100  # detections per class and image that COCO's metrics count
MIN_MAX_DETECTIONS = 10  # one of the metrics is the recall with ten
ROW_COLUMNS = 7  # numbers per detection: image, label, four of the box, score


class Detections(NamedTuple):
    """Detections in all images, one row per detection. Results are in the order of ``sort_detections``."""

    image: np.ndarray  # int64 [n], image index in the data set
    label: np.ndarray  # int64 [n], index into the data set's classes
    boxes: np.ndarray  # float32 [n, 4]: x1, y1, x2, y2 in pixels of the image at its annotated size
    score: np.ndarray  # float32 [n]

    @property
    def n(self) -> int:
        """Number of detections (``len`` of a NamedTuple is its number of fields)."""
        return len(self.image)

    def to_rows(self) -> Tensor:
        """Convert to float64 [n, 7], exactly inverted by ``from_rows``; for ``World.all_gather_rows``."""
        columns = (self.image[:, None], self.label[:, None], self.boxes, self.score[:, None])
        return torch.from_numpy(np.concatenate([column.astype(np.float64) for column in columns], axis=1))

    @classmethod
    def from_rows(cls, rows: Tensor) -> "Detections":
        """Convert rows of ``to_rows`` to sorted detections, for any order of rows."""
        values = rows.detach().cpu().numpy().reshape(-1, ROW_COLUMNS)
        image, label = (values[:, i].astype(np.int64) for i in (0, 1))
        return sort_detections([cls(image, label, values[:, 2:6].astype(np.float32), values[:, 6].astype(np.float32))])

    @classmethod
    def from_image(cls, index: int, boxes: Tensor, labels: Tensor, scores: Tensor) -> "Detections":
        """Make the detections of one image from boxes [n, 4], labels [n] and scores [n]."""
        label, box, score = (value.detach().cpu().numpy() for value in (labels, boxes, scores))
        image = np.full(len(label), index, np.int64)
        return cls(image, label.astype(np.int64), box.astype(np.float32).reshape(-1, 4), score.astype(np.float32))

    def select(self, rows: np.ndarray) -> "Detections":
        """Select detections by a mask or by indices [k]."""
        return Detections(*(column[rows] for column in self))


def sort_detections(parts: Iterable[Detections]) -> Detections:
    """Concatenate and sort by image, score (highest first), label and box, independent of the input's order."""
    none = Detections(np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 4), np.float32), np.empty(0, "f4"))
    columns = zip(none, *parts, strict=True)
    whole = Detections(*(np.concatenate(column).astype(column[0].dtype) for column in columns))
    x1, y1, x2, y2 = whole.boxes.T
    return whole.select(np.lexsort((y2, x2, y1, x1, whole.label, -whole.score, whole.image)))


class ClassResult(NamedTuple):
    """Results of one class, from 0 to 1; None where the class has no box."""

    name: str
    images: int  # with a box of the class
    boxes: int  # without crowds
    detections: int
    ap: float | None
    ap50: float | None
    ap75: float | None
    ar100: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class DetectionEvaluation:
    """COCO's twelve metrics, results per class, curves, and the match of each box and detection.

    Metrics are from 0 to 1; None where the data has no boxes for them (-1 in COCOeval).
    """

    name: str
    classes: tuple[str, ...]
    n: int  # images
    boxes: int  # ground-truth boxes without crowds
    detections: Detections  # sorted by sort_detections
    max_detections: int  # per class and image that count; 100 in COCO's own metrics
    images_over_limit: int  # images with more boxes of a class than max_detections, which cannot all be found
    ap: float | None  # mean over IoU .50, .55, ..., .95 and the classes
    ap50: float | None
    ap75: float | None
    ap_small: float | None  # of boxes below 32² pixels
    ap_medium: float | None
    ap_large: float | None  # above 96² pixels
    ar1: float | None  # recall with one detection per class and image, mean over IoUs and classes
    ar10: float | None
    ar100: float | None  # with ``max_detections``
    ar_small: float | None
    ar_medium: float | None
    ar_large: float | None
    per_class: tuple[ClassResult, ...]
    curves: matching.PrecisionRecallCurves
    threshold: matching.Threshold | None  # the score with the best F1 at IoU 0.5; None where nothing is found
    matches: matching.Matches  # at IoU 0.5 and that score


def evaluate_detections(
    dataset: DetectionDataset, detections: Detections, max_detections: int = MAX_DETECTIONS
) -> DetectionEvaluation:
    """Evaluate ``detections``, in any order, on all images of ``dataset`` with COCO's metrics.

    The best ``max_detections`` per class and image count, 100 in COCO's rules. Raises RequestError without pycocotools
    or without images, WorkError for an invalid detection.
    """
    if len(dataset) == 0:
        raise RequestError(f"{dataset.name} has no images to evaluate")
    if max_detections < MIN_MAX_DETECTIONS:
        raise RequestError(f"max_detections must be at least {MIN_MAX_DETECTIONS}, not {max_detections}")
    check_detections(dataset, detections)
    detections = sort_detections([detections])
    coco = _run_coco_eval(dataset, detections, max_detections)
    order = np.argsort(np.argsort(dataset.category_ids))  # COCOeval sorts by id; order[k] is its index of class k
    stats = {name: _replace_missing(value) for name, value in zip(STATS, _compute_stats(coco), strict=True)}
    boxes = int(np.count_nonzero(~dataset.crowd))
    threshold = matching.find_best_threshold(coco, boxes)
    return DetectionEvaluation(
        name=dataset.name,
        classes=dataset.classes,
        n=len(dataset),
        boxes=boxes,
        detections=detections,
        max_detections=max_detections,
        images_over_limit=count_images_over_limit(dataset, max_detections),
        per_class=_evaluate_classes(dataset, detections, coco, order),
        curves=matching.extract_curves(coco, order),
        threshold=threshold,
        matches=matching.match_detections(coco, dataset, detections.image, detections.score, threshold),
        **stats,
    )


def count_images_over_limit(dataset: DetectionDataset, max_per_class: int, max_per_image: int | None = None) -> int:
    """Count the images with more boxes than ``max_per_class`` of one class or ``max_per_image`` in all, no crowds."""
    owners, labels = dataset.map_boxes_to_images()[~dataset.crowd], dataset.labels[~dataset.crowd]
    pairs, counts = np.unique(owners * len(dataset.classes) + labels, return_counts=True)
    beyond = set((pairs[counts > max_per_class] // len(dataset.classes)).tolist())
    if max_per_image is not None:
        beyond |= set(np.flatnonzero(np.bincount(owners) > max_per_image).tolist())
    return len(beyond)


def describe_images_over_limit(
    dataset: DetectionDataset, max_per_class: int, max_per_image: int | None, advice: str
) -> str:
    """Return a warning where images have more boxes than detections are given or counted; else empty."""
    images = count_images_over_limit(dataset, max_per_class, max_per_image)
    if not images:
        return ""
    has = f"{images:,} image of {dataset.name} has" if images == 1 else f"{images:,} images of {dataset.name} have"
    by_class = max_per_image is None or max_per_image > max_per_class
    what = f"{max_per_class:,} detections of a class" if by_class else f"{max_per_image:,} detections"
    return f"{has} more boxes than the {what} that count per image, so not all can be found; {advice}"


def check_detections(dataset: DetectionDataset, detections: Detections) -> None:
    """Raise WorkError for the first detection with an invalid image, class, box or score."""
    image, label, boxes, score = detections
    for wrong, what in (
        ((image < 0) | (image >= len(dataset)), f"an image that is not among the {len(dataset)} of {dataset.name}"),
        ((label < 0) | (label >= len(dataset.classes)), f"a class that is not among the {len(dataset.classes)}"),
        (~np.isfinite(boxes).all(axis=1) | ~np.isfinite(score), "a box or score that is not finite"),
        ((boxes[:, 2:] < boxes[:, :2]).any(axis=1), "a box whose right or lower edge is before the other"),
    ):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            known = 0 <= image[row] < len(dataset)
            where = f" in {dataset.files[image[row]]}" if known else ""
            box = ", ".join(f"{value:g}" for value in boxes[row])
            raise WorkError(f"detection {row}{where} (label {label[row]}, box {box}, score {score[row]:g}) has {what}")


def check_pycocotools() -> None:
    """Raise RequestError without pycocotools, so that this fails before training, not after an epoch."""
    if find_spec("pycocotools") is None:
        raise RequestError("evaluating detections needs pycocotools: pip install 'resnext[detect]'")


def _run_coco_eval(dataset: DetectionDataset, detections: Detections, max_detections: int) -> Any:
    """Run COCOeval. Ids of its boxes are row numbers of the data set and of ``detections``, plus one."""
    check_pycocotools()
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = dataset.to_coco_dict()
    with contextlib.redirect_stdout(io.StringIO()):
        both = []
        for boxes in (truth["annotations"], _make_result_rows(dataset, detections)):
            coco = COCO()
            coco.dataset = truth | {"annotations": boxes}
            coco.createIndex()
            both.append(coco)
        evaluation = COCOeval(*both, iouType="bbox")
        evaluation.params.maxDets = [1, 10, max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _compute_stats(coco: Any) -> list[float]:
    """Compute the metrics of STATS; COCOeval.summarize supports AP at 100 detections only."""
    precision, recall = coco.eval["precision"], coco.eval["recall"]  # [IoU, 101, class, area, most], [IoU, class, ...]
    parts = [precision[..., 0, -1], precision[0, ..., 0, -1], precision[5, ..., 0, -1]]
    parts += [precision[..., area, -1] for area in (1, 2, 3)]
    parts += [recall[..., 0, most] for most in (0, 1, -1)]
    parts += [recall[..., area, -1] for area in (1, 2, 3)]
    return [float(part[part > -1].mean()) if (part > -1).any() else -1.0 for part in parts]


def _make_result_rows(dataset: DetectionDataset, detections: Detections) -> list[dict[str, Any]]:
    """Make the rows that COCO.loadRes would make; it fails for an empty list."""
    box = detections.boxes.astype(np.float64)
    size = box[:, 2:] - box[:, :2]
    ids, categories = dataset.image_ids[detections.image], np.asarray(dataset.category_ids)[detections.label]
    columns = (ids, categories, np.concatenate([box[:, :2], size], axis=1), size.prod(axis=1), detections.score)
    return [
        {"id": row, "image_id": i, "category_id": c, "bbox": b, "area": area, "score": score, "iscrowd": 0}
        for row, (i, c, b, area, score) in enumerate(zip(*(x.tolist() for x in columns), strict=True), start=1)
    ]


def _evaluate_classes(
    dataset: DetectionDataset, detections: Detections, coco: Any, order: np.ndarray
) -> tuple[ClassResult, ...]:
    precision, recall = coco.eval["precision"], coco.eval["recall"]  # [IoU, 101, class, area, most], [IoU, class, ...]
    image = dataset.map_boxes_to_images()
    results = []
    for k, name in enumerate(dataset.classes):
        own, at = (dataset.labels == k) & ~dataset.crowd, order[k]
        scores = (precision[:, :, at, 0, -1], precision[0, :, at, 0, -1], precision[5, :, at, 0, -1])
        ap, ap50, ap75, ar100 = (_replace_missing(values.mean()) for values in (*scores, recall[:, at, 0, -1]))
        found = int(np.count_nonzero(detections.label == k))
        images, boxes = len(np.unique(image[own])), int(own.sum())
        results.append(ClassResult(name, images, boxes, found, ap, ap50, ap75, ar100))
    return tuple(results)


def _replace_missing(value: float) -> float | None:
    """Replace COCOeval's -1 for no boxes by None."""
    return None if value < 0 else float(value)
