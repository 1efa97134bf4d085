"""Interleaved timing, speed ratios within rounds, peak memory of a fresh process."""

import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnext.bench.measure import MIB, Candidate, Timing, compute_speed_ratio, measure_peak_memory, time_interleaved
from resnext.errors import RequestError, WorkError

SECONDS = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=9)


def allocate(size: int) -> Callable[[], object]:
    """Return work that allocates ``size`` MiB for a moment; making it allocates 200 MiB."""
    bytearray(b"x" * (200 * MIB))
    return lambda: bytearray(b"x" * (size * MIB))


def test_each_round_runs_every_arm_once_and_starts_with_the_next() -> None:
    ran: list[str] = []
    arms = [Candidate(name, lambda name=name: ran.append(name), 1) for name in "abc"]
    timings = time_interleaved(arms, rounds=3, warmup=0)
    assert "".join(ran) == "abc" + "bca" + "cab"
    assert [t.name for t in timings] == ["a", "b", "c"]
    assert all(len(t.seconds) == 3 for t in timings)


@pytest.mark.parametrize(("settle", "expected"), [(0.0, {0.002}), (0.01, {0.001})])
def test_threads_of_another_engine_that_still_wait_actively_are_not_measured(
    settle: float, expected: set[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, busy_until = 0.0, {"a": 0.0, "b": 0.0}  # a fake clock, and until when the threads of each engine wait

    def work(name: str) -> None:
        nonlocal now
        other = "b" if name == "a" else "a"
        now += 0.002 if now < busy_until[other] else 0.001
        busy_until[name] = now + 0.003

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    arms = [Candidate(name, partial(work, name), 1) for name in "ab"]
    for timing in time_interleaved(arms, rounds=4, settle=settle):
        assert {round(seconds, 6) for seconds in timing.seconds} == expected


def test_work_much_longer_than_the_time_to_settle_is_not_run_twice() -> None:
    ran: list[str] = []
    arms = [Candidate(name, lambda name=name: (ran.append(name), time.sleep(0.001)), 1) for name in "ab"]
    time_interleaved(arms, rounds=2, warmup=0, settle=1e-6)
    assert "".join(ran) == "aabb" + "ba", "before its first turn nothing is known"


def test_the_warm_up_is_run_and_not_counted_and_progress_hears_of_all() -> None:
    ran: list[str] = []
    heard: list[tuple[int, int, str]] = []
    timing = time_interleaved(
        [Candidate("a", lambda: ran.append("a"), 2)], 2, warmup=3, progress=lambda *x: heard.append(x)
    )[0]
    assert len(ran) == 5
    assert len(timing.seconds) == 2
    assert heard[0] == (0, 5, "a")
    assert heard[-1] == (5, 5, "")


@given(SECONDS, st.integers(1, 64))
def test_a_timing_s_figures_are_numpy_s(seconds: list[float], images: int) -> None:
    timing = Timing("a", images, tuple(seconds))
    low, middle, high = np.percentile(seconds, [25, 50, 75])
    assert timing.best == pytest.approx(max(images / np.array(seconds)))
    assert timing.median == pytest.approx(images / middle)
    assert timing.spread == pytest.approx((high - low) / middle, abs=1e-9)


@given(st.lists(st.tuples(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3)), min_size=1, max_size=9))
def test_a_ratio_is_paired_within_rounds(pairs: list[tuple[float, float]]) -> None:
    mine, theirs = zip(*pairs, strict=True)
    middle, low, high = compute_speed_ratio(Timing("mine", 2, mine), Timing("theirs", 4, theirs))
    assert middle == pytest.approx(statistics.median(t / m / 2 for m, t in pairs))
    assert low <= middle <= high


def test_a_machine_that_slows_down_between_rounds_leaves_the_ratio_as_it_is() -> None:
    drift = (1.0, 1.5, 2.0, 3.0)
    assert compute_speed_ratio(Timing("a", 1, drift), Timing("b", 1, tuple(2 * s for s in drift))) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize("rounds", [0, -1])
def test_less_than_one_round_is_refused(rounds: int) -> None:
    with pytest.raises(RequestError, match="at least 1"):
        time_interleaved([Candidate("a", lambda: None, 1)], rounds)


def test_two_arms_of_one_name_are_refused() -> None:
    with pytest.raises(RequestError, match="same name"):
        time_interleaved([Candidate("a", lambda: None, 1)] * 2, 1)


def test_peak_memory_counts_the_work_and_not_its_preparation() -> None:
    assert measure_peak_memory(allocate, 64) == pytest.approx(128, abs=24)  # b"x" * n, and its copy


def test_peak_memory_of_work_that_fails_says_why() -> None:
    with pytest.raises(WorkError, match="memory of allocate could not be measured: TypeError"):
        measure_peak_memory(allocate, "many")
