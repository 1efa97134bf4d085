import signal
import threading
import time
from collections.abc import Callable, Sequence

import pytest

from resnext.serving.batcher import Batcher, Job, measure_seconds


class Recorder:
    """Collects what is delivered; ``compute`` squares numbers, and can be held by ``gate``."""

    def __init__(self) -> None:
        self.delivered: list[list[Job]] = []
        self.batches: list[list[int]] = []
        self.condition = threading.Condition()
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()

    def compute(self, values: list[int]) -> list[int]:
        self.begun.set()
        assert self.gate.wait(30)
        self.batches.append(list(values))
        return [value * value for value in values]

    def deliver(self, jobs: Sequence[Job]) -> None:
        with self.condition:
            self.delivered.append(list(jobs))
            self.condition.notify_all()

    def wait(self, count: int) -> None:
        with self.condition:
            assert self.condition.wait_for(lambda: sum(map(len, self.delivered)) >= count, 30)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def start(recorder: Recorder, compute: Callable | None = None, **options) -> Batcher:
    batcher: Batcher = Batcher(compute or recorder.compute, recorder.deliver, **options)
    batcher.start()
    return batcher


def hold(recorder: Recorder, batcher: Batcher) -> Job:
    """Submit a job, and hold its batch in the engine."""
    recorder.gate.clear()
    first = Job(0)
    batcher.submit([first])
    assert recorder.begun.wait(30)
    return first


def test_every_job_gets_its_own_result(recorder):
    batcher = start(recorder, sizes=(1, 2, 4, 8), streams=3)
    jobs = [Job(value) for value in range(500)]
    for job in jobs:
        batcher.submit([job])
    recorder.wait(500)
    assert [job.result for job in jobs] == [value * value for value in range(500)]
    assert batcher.load == 0
    assert batcher.stop(10)


def test_a_lone_image_is_computed_at_once(recorder):
    batcher = start(recorder, sizes=(8,), seconds={8: 1.0})
    job = Job(3)
    batcher.submit([job])
    recorder.wait(1)
    assert job.result == 9


def test_batches_form_while_the_engine_is_busy_and_have_allowed_sizes_only(recorder):
    batcher = start(recorder, sizes=(1, 2, 4))
    hold(recorder, batcher)
    batcher.submit([Job(value) for value in range(1, 12)])
    recorder.gate.set()
    recorder.wait(12)
    assert recorder.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10], [11]]


@pytest.mark.parametrize(
    ("seconds", "sizes"),
    [
        ({1: 1.0, 8: 1.1}, [1, 7]),  # a batch of 8 costs as much as one image: it is padded
        ({1: 1.0, 8: 9.0}, [1] * 8),  # batches are slower than one by one
        ({1: 1.0, 4: 3.0, 8: 7.9}, [1, 4, 3]),
    ],
)
def test_sizes_are_those_that_compute_most_images_in_a_second(recorder, seconds, sizes):
    batcher = start(recorder, seconds=seconds)
    hold(recorder, batcher)
    batcher.submit([Job(value) for value in range(7)])
    recorder.gate.set()
    recorder.wait(8)
    assert [len(batch) for batch in recorder.batches] == sizes


def test_two_idle_streams_share_what_is_queued():
    recorder, both = Recorder(), threading.Barrier(2, timeout=30)

    def compute(values: list[int]) -> list[int]:
        both.wait()  # passes only if two batches run at the same time
        return recorder.compute(values)

    batcher = start(recorder, compute, sizes=(1, 2, 4), streams=2)
    while batcher._idle < 2:
        time.sleep(0.001)
    batcher.submit([Job(value) for value in range(4)])
    recorder.wait(4)
    assert sorted(map(len, recorder.batches)) == [2, 2]


def test_cancelled_and_expired_jobs_are_dropped_uncomputed(recorder):
    batcher = start(recorder, sizes=(1, 2, 4))
    hold(recorder, batcher)
    left, late, kept = Job(1), Job(2, deadline=time.monotonic() - 1), Job(3)
    batcher.submit([left, late, kept])
    left.cancel()
    recorder.gate.set()
    recorder.wait(4)
    assert recorder.batches == [[0], [3]]
    assert (left.result, left.error, late.result, late.error, kept.result) == (None, None, None, None, 9)
    assert batcher.dropped == 2


def test_a_failure_is_that_of_its_batch_alone(recorder):
    def compute(values: list[int]) -> list[int]:
        if 13 in values:
            raise ValueError("unlucky")
        return recorder.compute(values)

    batcher = start(recorder, compute, sizes=(1,))
    jobs = [Job(value) for value in (12, 13, 14)]
    batcher.submit(jobs)
    recorder.wait(3)
    assert [job.result for job in jobs] == [144, None, 196]
    assert str(jobs[1].error) == "unlucky"
    assert batcher.find_fault() is None


def test_too_few_results_are_a_failure(recorder):
    batcher = start(recorder, lambda values: [], sizes=(1,))
    job = Job(1)
    batcher.submit([job])
    recorder.wait(1)
    assert "0 results for 1 images" in str(job.error)


def test_failure_after_failure_is_a_fault_until_a_batch_succeeds(recorder):
    broken = True

    def compute(values: list[int]) -> list[int]:
        if broken:
            raise ValueError
        return recorder.compute(values)

    batcher = start(recorder, compute, sizes=(1,))
    batcher.submit([Job(1) for _ in range(3)])
    recorder.wait(3)
    assert batcher.find_fault() == "the last 3 batches failed"
    broken = False
    batcher.submit([Job(1)])
    recorder.wait(4)
    assert batcher.find_fault() is None


def test_a_broken_model_tries_its_probe_until_it_works(recorder, monkeypatch):
    """Nobody sends images to a model that is not ready, so it must find out by itself."""
    monkeypatch.setattr("resnext.serving.batcher.PROBE_SECONDS", 0.01)
    broken, tries = True, []

    def compute(values: list[int]) -> list[int]:
        tries.append(list(values))
        if broken:
            raise ValueError
        return recorder.compute(values)

    batcher = start(recorder, compute, sizes=(1, 2), streams=2, probe=7)
    batcher.submit([Job(1) for _ in range(6)])
    recorder.wait(6)
    while tries.count([7]) < 3:
        time.sleep(0.001)
    assert "batches failed" in str(batcher.find_fault())
    broken = False
    while batcher.find_fault() is not None:
        time.sleep(0.001)
    count = len(tries)
    time.sleep(0.1)
    assert len(tries) <= count + 1  # a whole model is not probed; the other stream may just have been about to
    job = Job(3)
    batcher.submit([job])
    while job.result is None:
        time.sleep(0.001)
    assert job.result == 9
    assert batcher.stop(30)


def test_a_dead_worker_fails_the_queue_and_is_named(recorder):
    def compute(values: list[int]) -> list[int]:
        recorder.compute(values)
        raise SystemExit("gone")

    batcher = start(recorder, compute, sizes=(1,), name="cats")
    first = hold(recorder, batcher)
    second = Job(2)
    batcher.submit([second])
    recorder.gate.set()
    recorder.wait(2)
    assert "worker thread cats-stream-0 ended: SystemExit: gone" in str(batcher.find_fault())
    assert "ended" in str(first.error)
    assert "ended" in str(second.error)
    with pytest.raises(RuntimeError, match="ended"):
        batcher.submit([Job(3)])


def test_a_hung_batch_is_a_fault(recorder, monkeypatch):
    monkeypatch.setattr("resnext.serving.batcher.HANG_SECONDS", -1.0)
    batcher = start(recorder, sizes=(1,))
    assert batcher.find_fault() is None
    hold(recorder, batcher)
    assert "has been computing for" in str(batcher.find_fault())
    recorder.gate.set()
    recorder.wait(1)
    assert batcher.find_fault() is None


def test_stopping_finishes_the_queue_and_takes_no_more(recorder):
    batcher = start(recorder, sizes=(1, 2))
    hold(recorder, batcher)
    jobs = [Job(value) for value in range(9)]
    batcher.submit(jobs)
    assert not batcher.stop(0.01)
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit([Job(1)])
    recorder.gate.set()
    assert batcher.stop(30)
    assert [job.result for job in jobs] == [value * value for value in range(9)]


def test_the_predicted_wait_counts_queued_running_and_expected_images(recorder):
    batcher = start(recorder, seconds={1: 0.5, 2: 0.8}, streams=1)
    assert batcher.predict_wait() == 0
    hold(recorder, batcher)
    batcher.submit([Job(1), Job(2)])
    assert batcher.load == 3
    assert batcher.predict_wait(ahead=2) == pytest.approx(5 * 0.4)
    recorder.gate.set()
    recorder.wait(3)


def test_the_rate_follows_the_engine(recorder):
    batcher = start(recorder, seconds={1: 100.0})
    for count in range(40):
        batcher.submit([Job(1)])
        recorder.wait(count + 1)
    assert batcher.seconds_per_image < 1


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs POSIX signals")
def test_workers_leave_signals_to_the_main_thread(recorder):
    masks = []

    def compute(values: list[int]) -> list[int]:
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        return values

    batcher = start(recorder, compute, sizes=(1,))
    batcher.submit([Job(1)])
    recorder.wait(1)
    assert {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD} <= masks[0]
    assert not {signal.SIGSEGV, signal.SIGFPE} & masks[0]
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_measured_seconds_are_the_shortest_of_three_runs():
    times = iter([0, 5, 5, 6, 6, 8, 8, 9, 9, 10, 10, 11])  # runs of 5, 1 and 2 seconds; then of 1, 1 and 1
    assert measure_seconds(lambda size: None, (1, 4), budget=100, clock=lambda: next(times)) == {1: 1, 4: 1}
