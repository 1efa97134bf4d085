"""Pooled numbers are counts over images, and the interval knows groups."""

import numpy as np
import pytest
from scipy import stats

from resnext.cross_validation.held_out import HeldOut
from resnext.cross_validation.summary import (
    CrossvalSummary,
    compute_accuracy_interval,
    describe_interval,
    describe_leaks,
    describe_networks,
    summarize,
)
from resnext.data.near_duplicates import NearDuplicate
from resnext.data.preprocessing import Preprocessing
from resnext.evaluation.evaluator import Evaluation

FOLD = np.array([1, 2, 3, 1, 2, 3, 1])
LABEL = np.array([0, 0, 0, 1, 1, 1, 1])
PREDICTED = np.array([0, 1, 0, 1, 1, 0, 1])


def make_summary(groups: list[str] | None = None, duplicates: tuple[NearDuplicate, ...] = ()) -> CrossvalSummary:
    n = len(LABEL)
    probability = np.full(n, 0.8)
    evaluation = Evaluation(
        name="seven", dataset_size=n, classes=("a", "b"), paths=tuple(f"{i}.png" for i in range(n)),
        index=np.arange(n), label=LABEL, predicted=PREDICTED, rank=(LABEL != PREDICTED).astype(int),
        probability=probability, probability_of_label=probability, losses=-np.log(probability),
    )  # fmt: skip
    preprocessing = Preprocessing(image_size=8, resize=8, mean=(0.5,), std=(0.5,), channels=1)
    held_out = HeldOut(evaluation, np.full((n, 2), 0.5), FOLD, np.zeros((n, 8, 8, 1), np.uint8), preprocessing)
    return summarize(held_out, groups, [True, False], duplicates)


def test_each_image_counts_once_in_the_fold_that_held_it_out() -> None:
    summary = make_summary()
    assert (summary.images, summary.right) == (7, 5)
    assert [(s.fold, s.trained, s.images, s.right) for s in summary.scores] == [
        (1, 4, 3, 3),
        (2, 5, 2, 1),
        (3, 5, 2, 1),
    ]
    assert summary.range == (50, 100)
    expected = stats.binomtest(5, 7).proportion_ci(0.95, method="wilson")
    assert summary.interval95 == pytest.approx((100 * expected.low, 100 * expected.high))
    assert (summary.label_issues, summary.strong_issues) == (2, 1)
    assert "4 to 5 images each" in describe_networks(summary)
    assert "independent" in describe_interval(summary)
    assert describe_leaks(summary) == ""
    assert summary.to_dict()["folds"][1] == {"fold": 2, "trained": 5, "held_out": 2, "right": 1}


def test_near_duplicates_are_conflicts_under_two_labels_and_leaks_under_one_in_two_folds() -> None:
    pairs = (NearDuplicate(0, 3, 0.99), NearDuplicate(0, 1, 0.98), NearDuplicate(3, 6, 0.97))
    summary = make_summary(duplicates=pairs)  # 3 and 6 are in one fold
    assert (summary.conflicts, summary.leaks) == (1, 2)
    assert "2 images have a near-duplicate in another fold" in describe_leaks(summary)


def test_images_of_a_group_widen_the_interval() -> None:
    random = np.random.default_rng(0)
    groups = [f"patient {number}" for number in range(20) for _ in range(10)]
    right = np.repeat(random.random(20) < 0.7, 10)  # all images of a patient are right, or none
    low, high = compute_accuracy_interval(right, None)
    wide_low, wide_high = compute_accuracy_interval(right, groups)
    share, n = right.mean(), 20
    by_group = 100 * 1.96 * np.sqrt(share * (1 - share) / n)  # as if each patient were one image
    assert high - low < 0.5 * (wide_high - wide_low)
    assert (wide_high - wide_low) / 2 == pytest.approx(by_group, rel=0.1)
    assert compute_accuracy_interval(right, groups) == (wide_low, wide_high)
    assert "groups (data.group)" in describe_interval(make_summary(groups=list("aabbccc")))


def test_an_interval_by_groups_is_never_narrower_than_that_of_independent_images() -> None:
    right = np.ones(12, bool)
    assert compute_accuracy_interval(right, list("aaaabbbbcccc")) == compute_accuracy_interval(right, None)
