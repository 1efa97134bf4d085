"""Wrong labels are found and ranked as cleanlab does it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnext.cross_validation.label_issues import compute_self_confidence, find_label_issues, find_strong_issues

cleanlab_filter = pytest.importorskip("cleanlab.filter", reason="cleanlab is the oracle here")
cleanlab_rank = pytest.importorskip("cleanlab.rank")


def draw(seed: int, classes: int, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels of 90 images, every class among them, and probabilities that mostly agree with them."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(90) % classes)
    logits = random.normal(size=(90, classes)) + sharpness * np.eye(classes)[labels] * random.integers(0, 2, (90, 1))
    return labels, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 6), sharpness=st.floats(0, 6))
def test_selection_and_ranking_are_those_of_cleanlab(seed: int, classes: int, sharpness: float) -> None:
    labels, probabilities = draw(seed, classes, sharpness)
    scores = cleanlab_rank.get_label_quality_scores(labels, probabilities, method="self_confidence")
    np.testing.assert_allclose(compute_self_confidence(labels, probabilities), scores, rtol=1e-12)
    expected = cleanlab_filter.find_label_issues(
        labels, probabilities, filter_by="predicted_neq_given", return_indices_ranked_by="self_confidence", n_jobs=1
    )
    assert [issue.row for issue in find_label_issues(labels, probabilities)] == expected.tolist()
    strong = cleanlab_filter.find_label_issues(labels, probabilities, filter_by="confident_learning", n_jobs=1)
    np.testing.assert_array_equal(find_strong_issues(labels, probabilities), strong)


def test_an_issue_says_what_the_network_proposes() -> None:
    probabilities = np.array([[0.9, 0.1], [0.97, 0.03], [0.2, 0.8], [0.6, 0.4]])
    issues = find_label_issues(np.array([0, 1, 1, 1]), probabilities)
    assert [(issue.row, issue.label, issue.proposed, issue.score) for issue in issues] == [
        (1, 1, 0, 0.03),
        (3, 1, 0, 0.4),
    ]
    assert [issue.is_strong for issue in issues] == [True, False]


def test_a_class_without_images_does_not_matter() -> None:
    labels, probabilities = np.array([0, 0, 2]), np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.2, 0.1, 0.7]])
    assert [issue.row for issue in find_label_issues(labels, probabilities)] == [1]
    assert not find_strong_issues(labels, probabilities).any()
