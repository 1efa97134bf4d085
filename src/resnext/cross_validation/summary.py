"""The pooled numbers of a cross-validation, and sentences on what they mean. No torch here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from resnext.data.near_duplicates import NearDuplicate
from resnext.evaluation.metrics import compute_interval95, to_percent

if TYPE_CHECKING:
    from resnext.cross_validation.held_out import HeldOut

SUMMARY_FORMAT = "resnext-crossval-summary"
RESAMPLES = 4999  # of the bootstrap
BATCH_VALUES = 20_000_000  # drawn at a time


@dataclass(frozen=True)
class FoldScore:
    """How many of a fold's held-out images are right."""

    fold: int
    trained: int  # images that its network was trained on
    images: int  # held out
    right: int

    @property
    def accuracy(self) -> float:
        """Percent."""
        return to_percent(self.right, self.images)


@dataclass(frozen=True)
class CrossvalSummary:
    """The pooled numbers: each image counts once, as its fold's network judged it without having seen it."""

    images: int
    right: int
    interval95: tuple[float, float]  # of the accuracy, percent
    groups: int | None  # number of groups; None without data.group
    scores: tuple[FoldScore, ...]
    label_issues: int  # images that are given another label
    strong_issues: int
    conflicts: int  # pairs of near-duplicates under two labels
    leaks: int  # images with a near-duplicate of the same label in another fold

    @property
    def accuracy(self) -> float:
        """Percent."""
        return to_percent(self.right, self.images)

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest accuracy of a fold, percent."""
        values = [score.accuracy for score in self.scores]
        return min(values), max(values)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of summary.json."""
        return {
            "format": SUMMARY_FORMAT,
            "version": 1,
            "images": self.images,
            "right": self.right,
            "accuracy": self.accuracy,
            "accuracy_interval95": list(self.interval95),
            "interval_method": "Wilson" if self.groups is None else "bootstrap over groups, at least Wilson's",
            "groups": self.groups,
            "fold_accuracy_range": list(self.range),
            "folds": [
                {"fold": one.fold, "trained": one.trained, "held_out": one.images, "right": one.right}
                for one in self.scores
            ],
            "labels_to_look_at": self.label_issues,
            "labels_to_look_at_first": self.strong_issues,
            "near_duplicates_under_two_labels": self.conflicts,
            "near_duplicates_in_other_folds": self.leaks,
            "units": "accuracies in percent",
        }


def summarize(
    held_out: "HeldOut", groups: Sequence[str] | None, strong: Sequence[bool], duplicates: Sequence[NearDuplicate]
) -> CrossvalSummary:
    """Pool the numbers; ``strong`` tells of each label that looks wrong whether it is a strong case."""
    evaluation, fold = held_out.evaluation, held_out.fold
    right = evaluation.predicted == evaluation.label
    scores = [
        FoldScore(
            number, int(np.sum(fold != number)), int(np.sum(fold == number)), int(np.sum(right[fold == number]))
        )
        for number in np.unique(fold).tolist()
    ]  # fmt: skip
    labels = evaluation.label
    leaking = {
        row
        for pair in duplicates
        if labels[pair.first] == labels[pair.second] and fold[pair.first] != fold[pair.second]
        for row in (pair.first, pair.second)
    }
    return CrossvalSummary(
        images=evaluation.n,
        right=int(right.sum()),
        interval95=compute_accuracy_interval(right, groups),
        groups=None if groups is None else len(set(groups)),
        scores=tuple(scores),
        label_issues=len(strong),
        strong_issues=sum(strong),
        conflicts=sum(bool(labels[pair.first] != labels[pair.second]) for pair in duplicates),
        leaks=len(leaking),
    )


def compute_accuracy_interval(right: np.ndarray, groups: Sequence[str] | None) -> tuple[float, float]:
    """Compute a 95 % interval of the accuracy in percent.

    Without groups it is Wilson's, for independent images. With groups it is the percentile interval of a bootstrap
    over groups, whose images are alike, but at least as wide as Wilson's. ``right`` is bool [N].
    """
    low, high = compute_interval95(int(right.sum()), len(right))
    if groups is None:
        return low, high
    from scipy.stats import bootstrap

    of_image = np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(of_image)
    if len(sizes) < 2:
        return low, high
    counts = np.bincount(of_image, weights=right)
    found = bootstrap(
        (counts, sizes),
        lambda part, whole, axis: part.sum(axis=axis) / whole.sum(axis=axis),
        paired=True, vectorized=True, n_resamples=RESAMPLES, batch=max(1, BATCH_VALUES // len(sizes)),
        method="percentile", random_state=0,
    ).confidence_interval  # fmt: skip
    return min(low, 100 * float(found.low)), max(high, 100 * float(found.high))


def describe_interval(summary: CrossvalSummary) -> str:
    """Explain in plain words what the interval covers, and what it does not."""
    if summary.groups is None:
        how = (
            f"The interval says how exactly {summary.images:,} images measure the share: of such intervals, 19 in 20 "
            "hold it. It counts the images as independent; several of one patient, slide or scene are not, and "
            "data.group takes that into account."
        )
    else:
        how = (
            f"The interval comes from drawing the {summary.groups:,} groups (data.group) again and again, since images "
            "of a group are alike: of such intervals, about 19 in 20 hold the share."
        )
    return f"{how} It does not cover images of another kind, such as those of another camera or place."


def describe_networks(summary: CrossvalSummary) -> str:
    """Explain whose result the pooled number is."""
    count = len(summary.scores)
    trained = [score.trained for score in summary.scores]
    most, least = max(trained), min(trained)
    images = f"{most:,}" if most == least else f"{least:,} to {most:,}"
    return (
        f"Each image was judged once, by the one of {count} networks that had not seen it. They were trained on "
        f"{images} images each; a network trained on all images is usually a little better."
    )


def describe_leaks(summary: CrossvalSummary) -> str:
    """Warn of near-duplicates in different folds; empty if there are none."""
    if not summary.leaks:
        return ""
    return (
        f"{summary.leaks:,} images have a near-duplicate in another fold, so their answers were partly known and the "
        "share may look better than it is: remove the copies, or keep them together by data.group."
    )
