"""Whether a network that says 90 % is right nine times out of ten."""

import math
from dataclasses import dataclass

import numpy as np

BINS = 15


@dataclass(frozen=True, eq=False)
class Calibration:
    """Reliability in equal-width bins of the predicted class's probability; shares of empty bins are not a number."""

    edges: np.ndarray  # [bins + 1], from 0 to 1
    count: np.ndarray  # int64 [bins]
    accuracy: np.ndarray  # share of the bin's images that are right
    confidence: np.ndarray  # mean probability in the bin

    @property
    def ece(self) -> float:
        """Expected calibration error: the gap |accuracy - confidence|, a mean over images (Guo 2017, Eq. 3)."""
        n = int(self.count.sum())
        filled = self.count > 0
        gaps = self.count[filled] * np.abs(self.accuracy - self.confidence)[filled]
        return math.fsum(gaps) / n if n else math.nan

    @property
    def max_gap(self) -> float:
        """Maximum calibration error: the widest gap of any bin that holds images."""
        filled = self.count > 0
        return float(np.abs(self.accuracy - self.confidence)[filled].max()) if filled.any() else math.nan


def calibration(probability: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Calibration:
    """Bins (i/bins, (i+1)/bins] of the predicted class's ``probability``; the first also takes 0.

    ``correct`` says of each image whether that class was the true one.
    """
    if bins < 1:
        raise ValueError(f"{bins} bins cannot be filled")
    edges = np.arange(bins + 1) / bins
    which = np.clip(np.searchsorted(edges, probability, side="left") - 1, 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    right = np.bincount(which, weights=correct.astype(np.float64), minlength=bins)
    total = np.bincount(which, weights=probability, minlength=bins)
    with np.errstate(invalid="ignore"):
        return Calibration(edges, count, right / count, total / count)
