"""Calibration: do predicted probabilities match the share of correct predictions?"""

import math
from dataclasses import dataclass

import numpy as np

BINS = 15


@dataclass(frozen=True, eq=False)
class Calibration:
    """Accuracy and confidence in equal-width bins of the predicted class's probability; NaN in empty bins."""

    edges: np.ndarray  # [bins + 1], from 0 to 1
    count: np.ndarray  # int64 [bins]
    accuracy: np.ndarray  # share of the bin's images that are predicted correctly
    confidence: np.ndarray  # mean probability in the bin

    @property
    def ece(self) -> float:
        """Expected calibration error: mean of |accuracy - confidence| over images (Guo 2017, Eq. 3)."""
        n = int(self.count.sum())
        filled = self.count > 0
        gaps = self.count[filled] * np.abs(self.accuracy - self.confidence)[filled]
        return math.fsum(gaps) / n if n else math.nan

    @property
    def max_gap(self) -> float:
        """Maximum calibration error: the largest gap of all bins that hold images."""
        filled = self.count > 0
        return float(np.abs(self.accuracy - self.confidence)[filled].max()) if filled.any() else math.nan


def compute_calibration(probability: np.ndarray, correct: np.ndarray) -> Calibration:
    """Sort images into bins (i/BINS, (i+1)/BINS] of the predicted class's ``probability``; the first includes 0.

    ``correct`` tells for each image whether the prediction is the true class.
    """
    edges = np.arange(BINS + 1) / BINS
    which = np.clip(np.searchsorted(edges, probability, side="left") - 1, 0, BINS - 1)
    count = np.bincount(which, minlength=BINS)
    right = np.bincount(which, weights=correct.astype(np.float64), minlength=BINS)
    total = np.bincount(which, weights=probability, minlength=BINS)
    with np.errstate(invalid="ignore"):
        return Calibration(edges, count, right / count, total / count)
