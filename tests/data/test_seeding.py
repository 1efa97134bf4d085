"""Seeds: stable, without collisions, and uniform in every bit."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from resnext.data.seeding import ORDER_KEY, _splitmix64, derive_seed
from resnext.errors import RequestError

KEYS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5).map(tuple)


def naive(keys: tuple[int, ...]) -> int:
    """The same chain in numpy's wrapping uint64."""

    def step(z: np.uint64) -> np.uint64:
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

    with np.errstate(over="ignore"):
        state = step(np.uint64(len(keys)))
        for key in keys:
            state = step(state ^ step(np.int64(key).view(np.uint64)))
    return int(state >> np.uint64(1))


def test_the_finaliser_gives_the_published_values_of_splitmix64() -> None:
    assert _splitmix64(0) == 0xE220A8397B1DCDAF
    assert _splitmix64(1234567) == 6457827717110365317
    assert _splitmix64(1234567 + 0x9E3779B97F4A7C15) == 3203168211198807973


def test_seeds_never_change() -> None:
    """Another value would change every run that anyone wants to repeat."""
    assert derive_seed(0, 0, 0) == 7987879876239971491
    assert derive_seed(1, 2, 3) == 5992091912978933115
    assert derive_seed(0, 0, ORDER_KEY) == 8380411462695815696
    assert derive_seed(7, 5, -2, 11) == 270827995269444678


@given(KEYS)
def test_seeds_equal_the_naive_chain_and_have_63_bits(keys: tuple[int, ...]) -> None:
    assert derive_seed(*keys) == naive(keys)
    assert 0 <= derive_seed(*keys) < 2**63


@given(KEYS, KEYS)
def test_other_keys_give_another_seed(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    assert (derive_seed(*one) == derive_seed(*other)) == (one == other)


def test_a_cube_of_small_triples_has_no_collision() -> None:
    side = range(-1, 39)
    assert len({derive_seed(*keys) for keys in product(side, repeat=3)}) == 40**3


def test_numpy_integers_are_integers() -> None:
    assert derive_seed(np.int64(1), np.uint8(2), np.int32(3)) == derive_seed(1, 2, 3)


def test_every_bit_is_uniform() -> None:
    n = 20_000
    seeds = np.array([derive_seed(0, epoch, index) for epoch in range(20) for index in range(n // 20)], dtype=np.int64)
    ones = np.array([((seeds >> bit) & 1).sum() for bit in range(63)])
    statistic = ((ones - n / 2) ** 2 / (n / 4)).sum()
    assert chi2.sf(statistic, 63) > 1e-3
    assert chi2.cdf(statistic, 63) > 1e-3


def test_one_changed_bit_of_a_key_changes_half_of_the_seed() -> None:
    flips = [
        (derive_seed(3, epoch, index) ^ derive_seed(3, epoch, index ^ (1 << bit))).bit_count()
        for epoch, index, bit in product(range(10), range(50), range(12))
    ]
    assert np.mean(flips) == pytest.approx(31.5, abs=0.2)


@pytest.mark.parametrize("key", [2**63, -(2**63) - 1, 10**30])
def test_a_key_beyond_64_bits_is_refused(key: int) -> None:
    with pytest.raises(RequestError, match=str(key)):
        derive_seed(key, 0, 0)
