"""A queue before an engine that forms batches without waiting for them to fill.

When a worker thread is free, it takes what is queued, up to a size from a small fixed set for which the engine was
compiled. One thread per stream of the engine; a batch belongs to one thread. There is no event loop in here.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

from resnext.serving.worker_threads import block_signals

Input = TypeVar("Input")
Result = TypeVar("Result")
SMOOTHING = 0.8  # weight of the past in the moving average of the seconds an image takes
MAX_FAILURES = 3  # batches in a row that may fail before the model counts as broken
HANG_SECONDS = 60.0  # one batch taking longer counts as hung
PROBE_SECONDS = 5.0  # after which a broken model tries its probe again


class Job(Generic[Input, Result]):
    """One image in the queue. ``result`` or ``error`` is set when it is delivered; both are None if it was dropped.

    Args:
        value: What the engine takes of the image.
        deadline: The time (``time.monotonic``) after which the image is not computed any more.
    """

    __slots__ = (
        "added",
        "compute_seconds",
        "deadline",
        "error",
        "is_cancelled",
        "result",
        "token",
        "value",
        "wait_seconds",
    )

    def __init__(self, value: Input, deadline: float = float("inf"), token: object = None) -> None:
        self.value: Input | None = value
        self.deadline = deadline
        self.token = token  # of the caller, who finds by it where the result belongs
        self.is_cancelled = False  # set by the caller; what is queued is then not computed
        self.result: Result | None = None
        self.error: Exception | None = None
        self.added = 0.0
        self.wait_seconds = 0.0  # in the queue
        self.compute_seconds = 0.0  # of the batch it was in

    def cancel(self) -> None:
        """Have the image dropped, unless its batch has begun."""
        self.is_cancelled = True


Delivery = Callable[[Sequence["Job[Input, Result]"]], None]
Report = Callable[[int, float], None]


class Batcher(Generic[Input, Result]):
    """Runs jobs in batches.

    Args:
        compute: Computes a batch in a worker thread: values to results of the same length. It may pad.
        deliver: Called in a worker thread, once for each batch, with its jobs, and with those that were dropped; a
            probe is a job without a token. It must not block or raise.
        sizes: The allowed sizes of a batch.
        streams: The number of worker threads.
        seconds: For each size, the measured seconds of a batch (``measure_seconds``), from which sizes are chosen. A
            batch may be padded to a size where that computes more images in a second.
        report: Called with the number of images and the seconds of each computed batch.
        probe: An image that a worker of a broken model queues by itself, since nobody sends any to it: the model is
            whole again when it is computed. Without one, only further jobs show that.
    """

    def __init__(
        self,
        compute: Callable[[list[Input]], Sequence[Result]],
        deliver: "Delivery[Input, Result]",
        *,
        sizes: Sequence[int] = (1,),
        streams: int = 1,
        seconds: Mapping[int, float] | None = None,
        report: Report | None = None,
        probe: Input | None = None,
        name: str = "model",
    ) -> None:
        self._compute, self._deliver, self._report = compute, deliver, report
        self._probe = probe
        self._seconds = dict(seconds or {size: float(size) for size in sizes})
        self.streams = streams
        largest = max(self._seconds)
        self.seconds_per_image = self._seconds[largest] / largest if seconds else 0.0
        self._condition = threading.Condition()
        self._queue: deque[Job[Input, Result]] = deque()
        self._running: dict[int, tuple[float, int]] = {}  # thread: start and number of images of its batch
        self._idle = 0
        self._is_stopping = False
        self._failures = 0
        self._fault: str | None = None
        self.dropped = 0  # jobs that were cancelled or expired in the queue
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-stream-{number}", daemon=True)
            for number in range(streams)
        ]

    def start(self) -> None:
        """Start the worker threads."""
        for thread in self._threads:
            thread.start()

    def submit(self, jobs: Sequence[Job[Input, Result]]) -> None:
        """Queue jobs, in order. Raises RuntimeError after ``stop``, or if no worker is alive."""
        now = time.monotonic()
        with self._condition:
            if self._is_stopping or self._fault is not None:
                raise RuntimeError(self._fault or "the queue is closed")
            for job in jobs:
                job.added = now
            self._queue.extend(jobs)
            self._condition.notify(len(jobs))

    @property
    def load(self) -> int:
        """Number of images that are queued or being computed."""
        with self._condition:
            return len(self._queue) + sum(count for _, count in self._running.values())

    def predict_wait(self, ahead: int = 0) -> float:
        """Predict the seconds until what is queued, running, and ``ahead`` of the queue is computed."""
        return (self.load + ahead) * self.seconds_per_image / self.streams

    def find_fault(self) -> str | None:
        """Say why the model cannot be relied on: a dead worker, a hung batch or failure after failure; else None."""
        with self._condition:
            if self._fault is not None:
                return self._fault
            if self._failures >= MAX_FAILURES:
                return f"the last {self._failures} batches failed"
            now = time.monotonic()
            slow = [now - start for start, _ in self._running.values() if now - start > HANG_SECONDS]
            return f"one batch has been computing for {max(slow):.0f} seconds" if slow else None

    def stop(self, timeout: float | None = None) -> bool:
        """Take no more jobs, finish those that are queued, and end the threads. Returns whether all ended in time."""
        with self._condition:
            self._is_stopping = True
            self._condition.notify_all()
        end = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(None if end is None else max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        block_signals()
        jobs: list[Job[Input, Result]] = []
        try:
            finished = 0.0
            while True:
                jobs, dropped, waited = self._take()
                if dropped:
                    self._deliver(dropped)
                if jobs:
                    finished = self._run(jobs, 0.0 if waited else finished)
                elif not dropped:
                    return
        except BaseException as error:  # not the failure of a batch: SystemExit, or an error of deliver
            self._die(error, jobs)

    def _take(self) -> "tuple[list[Job[Input, Result]], list[Job[Input, Result]], bool]":
        """Wait for jobs; return a batch, the jobs dropped before it, and whether there was a wait. Empty: the end."""
        waited = False
        with self._condition:
            while not self._queue:
                if self._is_stopping:
                    return [], [], waited
                is_broken = self._failures >= MAX_FAILURES and self._probe is not None
                self._idle += 1
                was_woken = self._condition.wait(PROBE_SECONDS if is_broken else None)
                self._idle -= 1
                waited = True
                if not was_woken and not self._queue:
                    self._queue.append(Job(self._probe))  # type: ignore[arg-type]  # it is set: the wait had an end
            now = time.monotonic()
            dropped = self._drop(now)
            share = -(-len(self._queue) // (self._idle + 1))  # leave work for the other idle streams
            jobs = [self._queue.popleft() for _ in range(self._choose_count(share))]
            for job in jobs:
                job.wait_seconds = now - job.added
            if jobs:
                self._running[threading.get_ident()] = (now, len(jobs))
        return jobs, dropped, waited

    def _drop(self, now: float) -> "list[Job[Input, Result]]":
        gone = [job for job in self._queue if job.is_cancelled or job.deadline < now]
        if gone:
            self.dropped += len(gone)
            self._queue = deque(job for job in self._queue if not (job.is_cancelled or job.deadline < now))
            for job in gone:
                job.value = None
        return gone

    def _choose_count(self, queued: int) -> int:
        """Return how many of the queued images make the batch with the most images in a second."""
        if not queued:
            return 0
        size = max(self._seconds, key=lambda n: (min(n, queued) / self._seconds[n], -abs(n - queued)))
        return min(size, queued)

    def _run(self, jobs: "list[Job[Input, Result]]", previous_end: float) -> float:
        """Compute a batch and deliver it; return the time of its end. Its failure is that of its jobs alone."""
        start = time.monotonic()
        try:
            results = self._compute([job.value for job in jobs])  # type: ignore[misc]  # set until it is computed
            if len(results) != len(jobs):
                raise RuntimeError(f"the engine gave {len(results)} results for {len(jobs)} images")
            for job, result in zip(jobs, results, strict=True):
                job.result = result
        except Exception as error:
            for job in jobs:
                job.error = error
        end = time.monotonic()
        for job in jobs:
            job.value, job.compute_seconds = None, end - start
        failed = jobs[0].error is not None
        with self._condition:
            self._running.pop(threading.get_ident(), None)
            self._failures = self._failures + 1 if failed else 0
            if not failed:
                self._update_rate((end - (previous_end or start)) / len(jobs))
        if self._report is not None and not failed:
            self._report(len(jobs), end - start)
        self._deliver(jobs)
        return end

    def _update_rate(self, seconds: float) -> None:
        known = self.seconds_per_image
        self.seconds_per_image = SMOOTHING * known + (1 - SMOOTHING) * seconds if known else seconds

    def _die(self, error: BaseException, jobs: "list[Job[Input, Result]]") -> None:
        """Record why this worker ended, and fail its jobs and the queue: the model is broken from now on."""
        name = threading.current_thread().name
        with self._condition:
            self._running.pop(threading.get_ident(), None)
            self._fault = f"the worker thread {name} ended: {type(error).__name__}: {error}"
            left = [job for job in jobs if job.result is None and job.error is None] + list(self._queue)
            self._queue.clear()
        for job in left:
            job.error = RuntimeError(self._fault)
        if left:
            self._deliver(left)


def measure_seconds(
    compute: Callable[[int], object],
    sizes: Sequence[int],
    budget: float = 0.2,
    clock: Callable[[], float] = time.monotonic,
) -> dict[int, float]:
    """Measure how long a batch of each size takes: the shortest of up to three runs within ``budget`` seconds a size.

    Args:
        compute: Computes one batch of a size. It was warmed up.
        sizes: The sizes.
        budget: Seconds after which a size is not run again.
        clock: Gives the time in seconds.
    """
    found = {}
    for size in sizes:
        runs: list[float] = []
        while len(runs) < 3 and sum(runs) < budget:
            start = clock()
            compute(size)
            runs.append(clock() - start)
        found[size] = max(min(runs), 1e-9)
    return found
