"""Match detections to boxes with COCOeval; precision-recall curves, the best score threshold, image ranking."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from resnext.detection.data.dataset import DetectionDataset

UNMATCHED, IGNORED = -1, -2  # match of a detection: no box; not counted


@dataclass(frozen=True, eq=False)
class PrecisionRecallCurves:
    """Interpolated precision [K, 101] of each class at recall 0, 0.01, ..., 1; NaN without boxes."""

    recall: np.ndarray  # [101]
    precision50: np.ndarray  # at IoU 0.50
    precision75: np.ndarray
    precision: np.ndarray  # mean over IoU .50, .55, ..., .95


class Threshold(NamedTuple):
    """A score threshold and the resulting precision, recall and F1 over the data set at IoU 0.5."""

    score: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, eq=False)
class Matches:
    """Matches of detections and counts per image at IoU 0.5, with detections from a score threshold on.

    ``box`` and ``kept`` have one row per detection, the others one per image. A detection that matches a crowd, or is
    beyond the number that counts for its class and image, is neither right nor false (``box`` is IGNORED).
    """

    box: np.ndarray  # int64 [n]: row of the matched box in the data set, UNMATCHED or IGNORED; also of those not kept
    kept: np.ndarray  # bool [n]
    boxes: np.ndarray  # int64 [N]: ground-truth boxes
    matched: np.ndarray  # int64 [N]
    missed: np.ndarray  # int64 [N]
    false: np.ndarray  # int64 [N]
    overlap: np.ndarray  # float64 [N]: mean IoU of the matched pairs; 0 without

    @property
    def f1(self) -> np.ndarray:
        """float64 [N]: 2·matched / (2·matched + missed + false); 1 without boxes and detections."""
        whole = 2 * self.matched + self.missed + self.false
        return np.where(whole == 0, 1.0, 2 * self.matched / np.maximum(whole, 1))

    def rank_images(self) -> np.ndarray:
        """Rank images from best to worst: by F1, fewer mistakes, more matches, higher IoU, then data order."""
        mistakes = self.missed + self.false
        return np.lexsort((np.arange(len(self.boxes)), -self.overlap, -self.matched, mistakes, -self.f1))


def extract_curves(coco: Any, order: np.ndarray) -> PrecisionRecallCurves:
    """Extract the curves from a finished COCOeval, whose index of class k is ``order[k]``."""
    values = coco.eval["precision"][:, :, order, 0, -1].transpose(0, 2, 1)  # [IoU, class, recall]
    values = np.where(values < 0, np.nan, values)
    return PrecisionRecallCurves(np.asarray(coco.params.recThrs), values[0], values[5], values.mean(axis=0))


def find_best_threshold(coco: Any, boxes: int) -> Threshold | None:
    """Find the score with the highest F1 over all classes and images at IoU 0.5; the highest of equal ones.

    None where no detection is right. Matching goes by descending score, so a threshold does not change the matches
    above it.
    """
    scores, right = [], []
    for one in _select_all_areas(coco):
        counted = ~one["dtIgnore"][0].astype(bool)
        scores.append(np.asarray(one["dtScores"], np.float64)[counted])
        right.append(one["dtMatches"][0][counted] > 0)
    score, hit = np.concatenate([np.empty(0), *scores]), np.concatenate([np.empty(0, bool), *right])
    if not hit.any():
        return None
    down = np.argsort(-score, kind="stable")
    score, found = score[down], np.cumsum(hit[down])
    last = np.append(score[1:] != score[:-1], True)  # equal scores are kept together
    kept = np.arange(1, len(score) + 1)
    f1 = np.where(last, 2 * found / (kept + boxes), -1)
    at = int(np.argmax(f1))
    return Threshold(float(score[at]), float(found[at] / kept[at]), float(found[at] / boxes), float(f1[at]))


def match_detections(
    coco: Any, dataset: DetectionDataset, image: np.ndarray, score: np.ndarray, threshold: Threshold | None
) -> Matches:
    """Match detections of these images and scores; ids in ``coco`` are row numbers plus one."""
    box, overlap = np.full(len(image), IGNORED, np.int64), np.zeros(len(image))
    for one in _select_all_areas(coco):
        rows = np.asarray(one["dtIds"], np.int64) - 1
        found = one["dtMatches"][0].astype(np.int64) - 1
        box[rows] = np.where(one["dtIgnore"][0].astype(bool), IGNORED, np.where(found >= 0, found, UNMATCHED))
        overlap[rows] = _find_overlaps(coco, one)
    kept = np.zeros(len(image), bool) if threshold is None else score.astype(np.float64) >= threshold.score
    right = kept & (box >= 0)
    counts = np.bincount(dataset.map_boxes_to_images()[~dataset.crowd], minlength=len(dataset))
    matched = np.bincount(image[right], minlength=len(dataset))
    false = np.bincount(image[kept & (box == UNMATCHED)], minlength=len(dataset))
    sums = np.bincount(image, np.where(right, overlap, 0), minlength=len(dataset))
    return Matches(box, kept, counts, matched, counts - matched, false, sums / np.maximum(matched, 1))


def _select_all_areas(coco: Any) -> list[dict[str, Any]]:
    """Select COCOeval's results per class and image for boxes of all areas."""
    everything = coco.params.areaRng[0]
    return [one for one in coco.evalImgs if one is not None and one["aRng"] == everything]


def _find_overlaps(coco: Any, one: dict[str, Any]) -> np.ndarray:
    """Find the IoU of each detection with its matched box; 0 without."""
    ious = coco.ious[one["image_id"], one["category_id"]]
    ids = [box["id"] for box in coco._gts[one["image_id"], one["category_id"]]]  # the order of the columns
    where = {box: column for column, box in enumerate(ids)}
    found = one["dtMatches"][0].astype(np.int64)
    return np.array([ious[row, where[int(box)]] if box > 0 else 0.0 for row, box in enumerate(found)], np.float64)
