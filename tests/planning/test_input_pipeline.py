import contextlib
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnext.errors import RequestError
from resnext.planning import input_pipeline
from resnext.planning.input_pipeline import (
    ImageSample,
    Pipeline,
    find_even_shard_count,
    find_requirements,
    load_image_sample,
    parse_bandwidth,
    set_cores,
    simulate,
)

EQUAL = ImageSample((100_000,), (0.01,))
MIXED = ImageSample((50_000, 100_000, 150_000, 80_000), (0.004, 0.012, 0.008, 0.02))


def test_images_that_cost_nothing_leave_the_devices_their_own_speed() -> None:
    free = ImageSample((1,), (0.0,))
    flow = simulate(Pipeline(0.1, 32, 2, cores=1, devices=4), free)
    assert flow.images_per_second == pytest.approx(4 * 32 / 0.1)
    assert flow.idle == pytest.approx(0)


@pytest.mark.parametrize(("workers", "cores"), [(1, 1), (4, 2), (2, 8), (8, 8)])
def test_devices_without_work_take_what_cores_or_workers_decode(workers: int, cores: int) -> None:
    flow = simulate(Pipeline(0.0, 8, workers, cores=cores), EQUAL)
    assert flow.images_per_second == pytest.approx(min(workers, cores) / 0.01, rel=0.03)
    assert flow.core_use == pytest.approx(min(workers, cores) / cores, rel=0.03)
    assert flow.idle == 1


def test_slow_storage_gives_its_bandwidth() -> None:
    flow = simulate(Pipeline(0.01, 8, 4, cores=64, devices=2, bandwidth=2e6), EQUAL)
    assert flow.images_per_second == pytest.approx(2e6 / 100_000, rel=0.03)
    assert flow.bytes_per_second == pytest.approx(2e6, rel=0.03)


def test_hosts_share_the_storage_but_not_the_cores() -> None:
    one = Pipeline(0.0, 4, 4, cores=2)
    assert simulate(replace(one, hosts=3), EQUAL).images_per_second == pytest.approx(3 * 2 / 0.01, rel=0.03)
    stored = replace(one, hosts=3, bandwidth=5e6)  # a host that is ahead may have no more batches, and reads nothing
    assert simulate(stored, EQUAL).images_per_second == pytest.approx(5e6 / 100_000, rel=0.1)


def test_reads_that_wait_cost_workers_and_not_cores() -> None:
    """With 10 ms latency and 10 ms of a core, each of 4 workers loads an image in 20 ms."""
    slow = Pipeline(0.0, 8, 4, cores=4, latency=0.01)
    flow = simulate(slow, EQUAL)
    assert flow.images_per_second == pytest.approx(4 / 0.02, rel=0.03)
    assert flow.core_use == pytest.approx(0.5, rel=0.03)


def test_long_sequential_reads_wait_less() -> None:
    one_by_one = Pipeline(0.0, 8, 4, cores=4, latency=0.01)
    in_shards = replace(one_by_one, read_bytes=1e6)  # 10 images a read
    assert simulate(in_shards, EQUAL).images_per_second == pytest.approx(4 / 0.011, rel=0.03)


def test_loading_in_the_process_itself_never_overlaps() -> None:
    flow = simulate(Pipeline(0.08, 8, 0, cores=4), EQUAL)
    assert flow.images_per_second == pytest.approx(8 / (0.08 + 8 * 0.01))
    assert flow.idle == pytest.approx(0.5)


def test_one_worker_is_worked_out_by_hand() -> None:
    """Batches of 0.02 s, steps of 0.03 s, an epoch of 3: the steps end at 0.05, 0.08 and 0.11 s."""
    flow = simulate(Pipeline(0.03, 2, 1, cores=1), EQUAL, steps=3, skip=0, epoch_ends=True)
    assert flow.images_per_second == pytest.approx(6 / 0.11)
    assert flow.idle == pytest.approx(1 - 0.09 / 0.11)
    assert flow.core_use == pytest.approx(0.06 / 0.11)
    assert flow.bytes_per_second == pytest.approx(600_000 / 0.11)


def test_a_batch_waits_for_its_worker_though_another_is_free() -> None:
    """Worker k mod 2 loads batch k in 0.02 s, and a step takes 0.005 s: a loop over batches instead of events."""
    free, now = [0.0, 0.0], 0.0
    for k in range(4):
        free[k % 2] += 0.02
        now = max(now, free[k % 2]) + 0.005
    flow = simulate(Pipeline(0.005, 2, 2, cores=2), EQUAL, steps=4, skip=0, epoch_ends=True)
    assert 4 * 2 / flow.images_per_second == pytest.approx(now)


pipelines = st.builds(
    Pipeline,
    step_seconds=st.floats(0, 0.2), batch=st.integers(1, 20), workers=st.integers(0, 5), cores=st.integers(1, 6),
    devices=st.integers(1, 3), hosts=st.integers(1, 2), bandwidth=st.sampled_from([math.inf, 1e6, 2e7]),
    latency=st.sampled_from([0.0, 0.003]), read_bytes=st.sampled_from([None, 1e6]),
)  # fmt: skip


@settings(max_examples=40)
@given(pipelines, st.integers(1, 25), st.booleans(), st.integers(0, 3))
def test_every_image_comes_once_and_no_bound_is_passed(p: Pipeline, steps: int, ends: bool, seed: int) -> None:
    flow = simulate(p, MIXED, steps, skip=0, epoch_ends=ends, seed=seed)
    assert flow.images == steps * p.batch * p.devices * p.hosts
    assert flow.images_per_second <= p.demand * (1 + 1e-9)
    assert 0 <= flow.idle <= 1
    assert flow.core_use <= 1 + 1e-9
    assert p.bandwidth == math.inf or flow.bytes_per_second <= p.bandwidth * (1 + 1e-9)
    assert flow == simulate(p, MIXED, steps, skip=0, epoch_ends=ends, seed=seed)


@settings(max_examples=10)
@given(st.integers(1, 12), st.integers(1, 6))
def test_more_cores_never_slow_equal_images_down(cores: int, more: int) -> None:
    p = Pipeline(0.02, 8, 12, cores=cores)
    few, many = simulate(p, EQUAL), simulate(replace(p, cores=cores + more), EQUAL)
    assert few.images_per_second <= 1.001 * many.images_per_second


def test_the_seed_decides_which_images_come() -> None:
    p = Pipeline(0.0, 8, 2, cores=2)
    assert simulate(p, MIXED, seed=1) == simulate(p, MIXED, seed=1) != simulate(p, MIXED, seed=2)


def test_the_plan_is_the_least_that_is_enough() -> None:
    asked = Pipeline(0.05, 16, 1, cores=1, devices=2)
    found = find_requirements(asked, MIXED)
    need, flow = asked.demand * MIXED.mean_seconds, asked.demand * MIXED.mean_bytes
    assert need * 0.95 <= found.cores <= need * 1.2
    assert found.readers == 2 * found.workers
    assert found.flow.idle < 0.02
    assert simulate(set_cores(asked, MIXED, found.cores - 1), MIXED).idle >= 0.02
    assert 0.95 * flow <= found.bandwidth <= 4 * flow


def test_a_plan_for_slow_reads_has_more_workers_and_hardly_more_cores() -> None:
    asked = Pipeline(0.05, 16, 1, cores=1, devices=2)
    near, far = find_requirements(asked, MIXED), find_requirements(replace(asked, latency=0.02), MIXED)
    assert far.workers > 2 * near.workers
    assert far.cores <= near.cores + 2


def test_storage_that_cannot_do_it_is_named() -> None:
    says = r"0\.01 GB/s cannot feed 320 images of 100 kB per second, which need 0\.032 GB/s"
    with pytest.raises(RequestError, match=says):
        find_requirements(Pipeline(0.1, 32, 1, cores=1, bandwidth=1e7), EQUAL)
    with pytest.raises(RequestError, match="256 workers"):
        find_requirements(Pipeline(0.001, 64, 1, cores=1), EQUAL)


@settings(max_examples=40)
@given(st.integers(1, 60), st.sampled_from([0.02, 0.05, 0.1]))
def test_from_some_number_on_every_number_of_shards_is_even(readers: int, idle: float) -> None:
    def imbalance(shards: int) -> float:
        """Return the share of an epoch that readers wait for the one with the most shards."""
        hands = [len(range(reader, shards, readers)) for reader in range(readers)]
        return 1 - sum(hands) / (readers * max(hands))

    least = find_even_shard_count(readers, idle)
    assert all(imbalance(n) <= idle + 1e-9 for n in range(least, least + 3 * readers))
    assert least == 1 or imbalance(least - readers) > idle


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2GB/s", 2e9), ("500 MB/s", 5e8), ("10Gbit/s", 1.25e9), ("10Gb/s", 1.25e9), ("1GiB/s", 2**30),
        ("1.5e9B/s", 1.5e9), ("100Mbps", 1.25e7), ("0.5TB/s", 5e11),
    ],
)  # fmt: skip
def test_bandwidths_are_read_as_people_write_them(text: str, value: float) -> None:
    assert parse_bandwidth(text) == pytest.approx(value)


@pytest.mark.parametrize(
    "text", ["", "2", "2GB", "GB/s", "0GB/s", "-1GB/s", "2XB/s", "nanGB/s", "1e999GB/s", "2 GB /s", "2gb/s"]
)
def test_what_is_no_bandwidth_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="is not a bandwidth"):
        parse_bandwidth(text)


@given(st.text(max_size=20))
def test_any_text_is_a_bandwidth_or_a_refusal(text: str) -> None:
    with contextlib.suppress(RequestError):
        assert 0 < parse_bandwidth(text) < math.inf


@pytest.mark.parametrize(
    "changes",
    [{"batch": 0}, {"workers": -1}, {"devices": 0}, {"hosts": 0}, {"cores": 0}, {"bandwidth": 0.0}, {"latency": -1.0},
     {"step_seconds": -0.1}, {"step_seconds": math.nan}, {"cores": math.nan}],
)  # fmt: skip
def test_pipelines_that_cannot_be_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(RequestError):
        replace(Pipeline(0.1, 32, 2, cores=2), **changes)  # type: ignore[arg-type]


def test_the_packages_images_are_the_measured_ones() -> None:
    images = load_image_sample()
    assert len(images.sizes) == len(images.seconds) == 250
    assert 90_000 < images.mean_bytes < 120_000
    assert min(images.seconds) > 0
    scaled = images.scale(0.02, 50_000)
    assert scaled.mean_seconds == pytest.approx(0.02)
    assert scaled.mean_bytes == pytest.approx(50_000, rel=1e-4)


def test_some_of_many_hosts_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    many = Pipeline(0.05, 16, 6, cores=6, devices=2, hosts=24, bandwidth=0.6e9)
    some = simulate(many, MIXED)
    monkeypatch.setattr(input_pipeline, "MAX_DEVICES", 48)
    every = simulate(many, MIXED)
    assert every.images > some.images * 0.9
    assert some.images_per_second == pytest.approx(every.images_per_second, rel=0.02)
    assert some.bytes_per_second == pytest.approx(every.bytes_per_second, rel=0.03)
    assert some.core_use == pytest.approx(every.core_use, rel=0.03)
