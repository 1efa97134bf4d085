import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, precision_recall_fscore_support

from resnext.evaluation.calibration import compute_calibration
from resnext.evaluation.metrics import compute_class_scores, compute_interval95, compute_mean_class_error
from tests.evaluation.conftest import make_evaluation


@settings(max_examples=80)
@given(st.integers(1, 60_000), st.data())
def test_the_interval_is_scipys_wilson_interval(n: int, data: st.DataObject) -> None:
    count = data.draw(st.one_of(st.integers(0, n), st.sampled_from([0, n])))
    expected = binomtest(count, n).proportion_ci(0.95, method="wilson")
    assert compute_interval95(count, n) == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-10)


def test_the_interval_of_nothing_is_everything_and_of_nonsense_an_error() -> None:
    assert compute_interval95(0, 0) == (0.0, 100.0)
    for count in (-1, 6):
        with pytest.raises(ValueError, match="is not a share"):
            compute_interval95(count, 5)


@settings(max_examples=40)
@given(st.data())
def test_class_scores_are_sklearns(data: st.DataObject) -> None:
    k = data.draw(st.integers(2, 6))
    pairs = data.draw(st.lists(st.tuples(st.integers(0, k - 1), st.integers(0, k - 1)), min_size=1, max_size=30))
    label, predicted = map(list, zip(*pairs, strict=True))
    result = make_evaluation(label, predicted, tuple(f"c{i}" for i in range(k)))
    assert np.array_equal(result.confusion, confusion_matrix(label, predicted, labels=range(k)))
    scores = compute_class_scores(result.confusion, result.classes)
    oracle = precision_recall_fscore_support(label, predicted, labels=range(k), zero_division=np.nan)
    for name, column in zip(("precision", "recall", "f1", "images"), oracle, strict=True):
        for score, expected in zip(scores, column, strict=True):
            value = getattr(score, name)
            assert math.isnan(expected) if value is None else value == pytest.approx(float(expected), abs=1e-15)
    present = [score for score in scores if score.images]
    assert all(score.error == pytest.approx(1 - score.recall) for score in present)  # type: ignore[operator]
    if set(predicted) <= set(label) and len(set(label)) > 1:  # sklearn warns otherwise
        expected = 100 * (1 - balanced_accuracy_score(label, predicted))
        assert compute_mean_class_error(scores) == pytest.approx(expected)


def test_a_class_without_images_has_no_error() -> None:
    scores = compute_class_scores(make_evaluation([0, 0], [0, 1], ("a", "b", "c")).confusion, ("a", "b", "c"))
    assert [score.error for score in scores] == [0.5, None, None]
    assert [score.precision for score in scores] == [1.0, 0.0, None]
    assert [score.f1 for score in scores] == [pytest.approx(2 / 3), 0.0, None]
    assert compute_mean_class_error(scores) == 50.0
    assert compute_mean_class_error([]) is None


def slow_calibration(probability: list[float], correct: list[bool], bins: int) -> tuple[float, float]:
    """ECE and MCE by the definition, one image at a time."""
    ece, gaps = 0.0, []
    for i in range(bins):
        inside = [j for j, p in enumerate(probability) if i / bins < p <= (i + 1) / bins or (i == 0 and p == 0)]
        if inside:
            accuracy = sum(correct[j] for j in inside) / len(inside)
            gap = abs(accuracy - sum(probability[j] for j in inside) / len(inside))
            ece += len(inside) / len(probability) * gap
            gaps.append(gap)
    return ece, max(gaps)


edges = st.integers(0, 15).map(lambda i: i / 15)


@settings(max_examples=80)
@given(st.lists(st.tuples(st.one_of(st.floats(0, 1), edges), st.booleans()), min_size=1, max_size=40))
def test_calibration_is_the_definition(rows: list[tuple[float, bool]]) -> None:
    probability, correct = map(list, zip(*rows, strict=True))
    result = compute_calibration(np.array(probability), np.array(correct))
    ece, widest = slow_calibration(probability, correct, 15)
    assert result.ece == pytest.approx(ece, abs=1e-12)
    assert result.max_gap == pytest.approx(widest, abs=1e-12)
    assert result.count.sum() == len(rows)


def test_a_perfectly_calibrated_network_has_no_gap() -> None:
    probability = np.repeat([0.25, 0.75], 4)
    result = compute_calibration(probability, np.array([1, 0, 0, 0, 1, 1, 1, 0], dtype=bool))
    assert (result.ece, result.max_gap) == (0.0, 0.0)
    sure_and_wrong = compute_calibration(np.ones(3), np.zeros(3, dtype=bool))
    assert (sure_and_wrong.ece, sure_and_wrong.max_gap) == (1.0, 1.0)


def test_calibration_of_nothing_is_not_a_number() -> None:
    result = compute_calibration(np.empty(0), np.empty(0, dtype=bool))
    assert math.isnan(result.ece)
    assert math.isnan(result.max_gap)
