"""Metrics from counts: confidence intervals of errors, scores per class."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


def to_percent(part: int, whole: int) -> float:
    """Return ``part`` of ``whole`` in percent; NaN if ``whole`` is 0."""
    return 100 * part / whole if whole else math.nan


def from_percent(percent: float, whole: int) -> int:
    """Return the count that ``percent`` of ``whole`` means: the inverse of ``to_percent``."""
    return round(percent * whole / 100)


def compute_interval95(count: int, n: int) -> tuple[float, float]:
    """Compute Wilson's 95 % interval of a share in percent (Wilson 1927); valid near 0 and for few images too."""
    if not 0 <= count <= n:
        raise ValueError(f"{count} of {n} is not a share")
    if n == 0:
        return 0.0, 100.0
    z = NormalDist().inv_cdf(0.975)
    share, weight = count / n, z * z / n
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / n + weight / (4 * n))
    low = 0.0 if count == 0 else max(0.0, middle - half)
    high = 1.0 if count == n else min(1.0, middle + half)
    return 100 * low, 100 * high


@dataclass(frozen=True)
class ClassScore:
    """The scores of one class. A share of nothing (no images, never predicted) is None, not zero."""

    name: str
    images: int
    predicted: int
    correct: int

    @property
    def recall(self) -> float | None:
        """Share of the class's images that were predicted correctly."""
        return self.correct / self.images if self.images else None

    @property
    def error(self) -> float | None:
        """1 - recall."""
        return (self.images - self.correct) / self.images if self.images else None

    @property
    def precision(self) -> float | None:
        """Share of the images predicted as this class that belong to it."""
        return self.correct / self.predicted if self.predicted else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall."""
        total = self.images + self.predicted
        return 2 * self.correct / total if total else None


def compute_class_scores(confusion: np.ndarray, classes: tuple[str, ...]) -> list[ClassScore]:
    """Compute the scores of each class from the confusion matrix [K, K] (rows: true classes)."""
    images, predicted, correct = confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal()
    return [
        ClassScore(name, int(i), int(p), int(c))
        for name, i, p, c in zip(classes, images, predicted, correct, strict=True)
    ]


def compute_mean_class_error(scores: list[ClassScore]) -> float | None:
    """Compute the unweighted mean of the class errors in percent, without classes that have no images."""
    errors = [score.error for score in scores if score.error is not None]
    return 100 * math.fsum(errors) / len(errors) if errors else None
