"""Find labels that look wrong: images that a network which has not seen them gives another label.

The score of a label is the network's probability of it ("self-confidence", Northcutt et al. 2021, as in cleanlab).
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LabelIssue:
    """An image whose label looks wrong."""

    row: int
    label: int  # as given
    proposed: int  # the most probable class
    score: float  # probability of the given label: the lower, the more suspicious
    probability: float  # of the proposed class
    is_strong: bool  # whether the network is at least as sure as it usually is of images of the proposed class


def compute_self_confidence(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the probability of each image's given label, [N]. ``probabilities`` [N, K] are out-of-fold."""
    confidence: np.ndarray = probabilities[np.arange(len(labels)), labels]
    return confidence


def find_strong_issues(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Find labels that confident learning counts as wrong (Northcutt et al. 2021, the confident joint), bool [N].

    The threshold of a class is the mean probability of it among the images labelled so. An image counts if some class
    reaches its threshold, and neither the most probable class nor, if it is the only one, that class is the label.
    """
    classes = probabilities.shape[1]
    own, predicted = compute_self_confidence(labels, probabilities), probabilities.argmax(axis=1)
    counts = np.bincount(labels, minlength=classes)
    thresholds = np.bincount(labels, weights=own, minlength=classes) / np.maximum(counts, 1)
    thresholds[counts == 0] = np.inf  # no image shows how sure is usual
    reached = probabilities >= thresholds - 1e-6
    guess = np.where(reached.sum(axis=1) == 1, reached.argmax(axis=1), predicted)
    strong: np.ndarray = reached.any(axis=1) & (guess != labels) & (predicted != labels)
    return strong


def find_label_issues(labels: np.ndarray, probabilities: np.ndarray) -> list[LabelIssue]:
    """Find the images whose most probable class is not their label, the most suspicious first.

    Args:
        labels: Given label of each image, int64 [N].
        probabilities: Out-of-fold probabilities, [N, K].

    Returns:
        Issues sorted by score; equal scores in the order of the images.
    """
    scores, proposed = compute_self_confidence(labels, probabilities), probabilities.argmax(axis=1)
    strong = find_strong_issues(labels, probabilities)
    rows = np.flatnonzero(proposed != labels)
    return [
        LabelIssue(
            int(row), int(labels[row]), int(proposed[row]), float(scores[row]),
            float(probabilities[row, proposed[row]]), bool(strong[row]),
        )
        for row in rows[np.argsort(scores[rows], kind="stable")]
    ]  # fmt: skip
