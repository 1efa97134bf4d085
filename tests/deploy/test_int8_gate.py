"""Tests of the bound on the loss of int8, with SciPy's distributions as oracles."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from resnext import RequestError
from resnext.deploy.int8_export import CONFIDENCE, CONFIDENCES
from resnext.deploy.int8_gate import (
    MAX_POINTS,
    PairedResult,
    compute_loss_bound,
    count_fewest_images,
    count_needed_images,
    parse_max_loss,
)

LEVELS = (0.95, *sorted(set(CONFIDENCES)))
SHORTFALL = 5e-5  # of the coverage of a bound of 99.7 %; the next test shows that the tries together have none


@st.composite
def draw_counts(draw: st.DrawFn) -> tuple[int, int, int]:
    n = draw(st.integers(1, 20_000))
    b = draw(st.integers(0, n))
    return b, draw(st.integers(0, n - b)), n


@pytest.mark.parametrize("confidence", LEVELS)
@pytest.mark.parametrize("n", [12, 40, 120])
def test_the_bound_covers_the_true_loss_as_often_as_it_says(n: int, confidence: float) -> None:
    """Every outcome of the trinomial is enumerated, so that no chance is left: losses up to half of all images."""
    b, c = (one[np.add.outer(np.arange(n + 1), np.arange(n + 1)) <= n] for one in np.indices((n + 1, n + 1)))
    bounds = np.array([compute_loss_bound(int(x), int(y), n, confidence) for x, y in zip(b, c, strict=True)])
    log_count = stats.multinomial(n, [1 / 3] * 3).logpmf(np.stack([b, c, n - b - c], 1)) + n * math.log(3)
    for p in np.geomspace(1e-3, 0.5, 16):
        for q in [*np.geomspace(1e-4, 0.45, 12)]:
            if q < p < 1 - q:
                chance = np.exp(log_count + b * np.log(p) + c * np.log(q) + (n - b - c) * np.log1p(-p - q))
                assert chance[bounds >= p - q].sum() >= confidence - SHORTFALL, (p, q)


def find_most_losses(gains: int, images: int, max_loss: float, confidence: float) -> int:
    """Return the largest number of losses that passes with this number of gains; -1 if none does."""
    low, high = -1, images - gains + 1
    while high - low > 1:
        middle = (low + high) // 2
        is_low = compute_loss_bound(middle, gains, images, confidence) <= max_loss
        low, high = (middle, high) if is_low else (low, middle)
    return low


@pytest.mark.parametrize("n", [50, 200, 1000, 10_000])
@pytest.mark.parametrize("confidences", [(CONFIDENCE,), CONFIDENCES])
def test_a_network_that_loses_more_than_allowed_passes_at_most_once_in_twenty(
    confidences: tuple[float, ...], n: int
) -> None:
    """The chance is exact, a sum over all outcomes; the tries may be as different as they like, so chances are added.

    The worst case is a loss just above what is allowed, and an allowed loss that is the bound of some outcome.
    """
    rates = [0.0, *np.geomspace(0.05, min(60, n / 8), 7) / n]  # share of gains
    gains = np.arange(stats.binom.ppf(1 - 1e-9, n, rates[-1]) + 1).astype(int)
    for b, c in ((0, 0), (1, 0), (3, 0), (2, 1), (6, 2), (12, 4), (40, 30)):
        for allowed in {compute_loss_bound(b, c, n, confidence) for confidence in confidences}:
            most = {one: [find_most_losses(int(gain), n, allowed, one) for gain in gains] for one in set(confidences)}
            for q in rates:
                p = q + allowed
                if p + q < 1 and allowed <= MAX_POINTS / 100:
                    chance = {
                        one: stats.binom.pmf(gains, n, q) @ stats.binom.cdf(np.array(losses), n - gains, p / (1 - q))
                        for one, losses in most.items()
                    }
                    assert sum(chance[one] for one in confidences) <= 1 - CONFIDENCE + 1e-8, (b, c, q)


@pytest.mark.parametrize("n", [50, 359, 10_000])
@pytest.mark.parametrize("b", [0, 1, 7])
def test_without_gains_the_bound_is_that_of_clopper_and_pearson(n: int, b: int) -> None:
    exact = stats.binomtest(b, n, alternative="less").proportion_ci(0.95, "exact").high
    assert compute_loss_bound(b, 0, n) == pytest.approx(exact, rel=1e-9)


def test_with_many_changes_the_bound_nears_that_of_the_normal_distribution() -> None:
    b, c, n = 5500, 4500, 1_000_000
    normal = (b - c) / n + stats.norm.ppf(0.95) * math.sqrt(b + c - (b - c) ** 2 / n) / n
    assert compute_loss_bound(b, c, n) == pytest.approx(normal, rel=0.01)


@given(draw_counts(), st.floats(0.8, 0.999))
def test_the_bound_is_above_the_loss_and_grows_with_losses_and_confidence(
    counts: tuple[int, int, int], confidence: float
) -> None:
    b, c, n = counts
    bound = compute_loss_bound(b, c, n, confidence)
    assert max(0, (b - c) / n) <= bound <= 1
    assert compute_loss_bound(b, c, n, (1 + confidence) / 2) >= bound - 1e-12
    assert compute_loss_bound(b, c, 2 * n, confidence) <= max(bound, 1e-12) + 1e-12 or b <= c
    if b + c < n and c <= n / 10 and b <= n / 2:
        assert compute_loss_bound(b + 1, c, n, confidence) >= bound - 1e-12


@given(draw_counts(), st.floats(0.001, 0.2))
def test_the_number_of_images_said_to_be_needed_is_the_first_that_passes(
    counts: tuple[int, int, int], max_loss: float
) -> None:
    b, c, n = counts
    result = PairedResult(n, n - c, b, c) if b <= n - c else PairedResult(n, b, b, c)
    needed = count_needed_images(result, max_loss, 0.95)
    if needed is None:
        assert result.loss >= max_loss or (max_loss - result.loss) < 1e-2
        return

    def bound(m: int) -> float:
        return compute_loss_bound(b * m / n, c * m / n, m)

    assert bound(needed) <= max_loss
    assert needed == 1 or bound(needed - 1) > max_loss


@pytest.mark.parametrize("max_loss", [0.005, 0.01, 0.2])
def test_the_fewest_images_are_those_of_an_unchanged_network(max_loss: float) -> None:
    fewest = count_fewest_images(max_loss, 0.95)
    assert compute_loss_bound(0, 0, fewest) <= max_loss < compute_loss_bound(0, 0, fewest - 1)
    assert fewest == count_needed_images(PairedResult(7, 5, 0, 0), max_loss, 0.95)


@pytest.mark.parametrize("points", [0, -1, 50.1, 100, float("nan"), float("inf")])
def test_a_loss_that_is_no_share_is_refused(points: float) -> None:
    with pytest.raises(RequestError, match="--max-loss"):
        parse_max_loss(points)


@pytest.mark.parametrize("values", [(10, 5, 6, 0), (10, 5, 0, 6), (0, 0, 0, 0), (10, 5, -1, 0)])
def test_impossible_counts_are_refused(values: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="impossible"):
        PairedResult(*values)
