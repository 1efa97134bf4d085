"""Simulate the input pipeline: how many cores, which storage and how many shards keep the devices busy.

This is an event simulation of ``data/loader.py``. Each process gives its batches to its workers in turn, at most two
per worker ahead. A worker reads, decodes and augments its images one by one. Batches arrive in order, and a step starts
when every device has its batch. Cores and storage are shared equally among their current users.
"""

import heapq
import json
import math
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from itertools import count

import numpy as np

from resnext.errors import RequestError

PREFETCH = 2  # batches per worker ahead, the default of DataLoader
BATCH_PIECES = 16  # parts in which a batch is read and decoded, if storage is simulated
MAX_DEVICES = 32  # that are simulated
CORE_MARGIN = 1.1  # times the fewest cores: used to find the bandwidth, since waiting for storage occupies workers
WORKERS_PER_CORE = 1.25  # workers per core, since some always wait for their turn
MAX_WORKERS = 256  # the maximum of data.workers
MAX_IDLE = 0.02  # share of idle time up to which devices count as busy
BANDWIDTH_PATTERN = re.compile(
    r"(?P<number>\d+(?:\.\d*)?(?:e\d{1,2})?)\s*(?P<prefix>[kMGT]?)(?P<binary>i?)(?P<unit>B|bit|b)(?:/s|ps)"
)
PREFIXES = {"": 0, "k": 1, "M": 2, "G": 3, "T": 4}


@dataclass(frozen=True)
class ImageSample:
    """Measured images: file size of each, and seconds of one core to decode and augment it."""

    sizes: tuple[int, ...]  # bytes
    seconds: tuple[float, ...]

    @property
    def mean_bytes(self) -> float:
        """Mean file size in bytes."""
        return sum(self.sizes) / len(self.sizes)

    @property
    def mean_seconds(self) -> float:
        """Mean seconds of one core per image."""
        return sum(self.seconds) / len(self.seconds)

    def scale(self, mean_seconds: float, mean_bytes: float) -> "ImageSample":
        """Scale to other means with the same relative spread."""
        slower, larger = mean_seconds / self.mean_seconds, mean_bytes / self.mean_bytes
        return ImageSample(tuple(round(b * larger) for b in self.sizes), tuple(s * slower for s in self.seconds))


@dataclass(frozen=True)
class Pipeline:
    """An input pipeline and the devices it feeds. Raises RequestError for impossible values."""

    step_seconds: float  # computation of one step
    batch: int  # images per device and step
    workers: int  # loading processes per device; 0: the training process loads
    cores: float  # per host, for the loading processes
    devices: int = 1  # per host
    hosts: int = 1
    bandwidth: float = math.inf  # bytes per second of the storage, shared by all hosts
    latency: float = 0.0  # seconds per read
    read_bytes: float | None = None  # size of a sequential read; None: one read per image

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("workers", 0), ("devices", 1), ("hosts", 1)):
            if getattr(self, name) < least:
                raise RequestError(f"{name} of a pipeline must be at least {least}, not {getattr(self, name)}")
        for name in ("cores", "bandwidth"):
            if not getattr(self, name) > 0:
                raise RequestError(f"{name} must be above 0, not {getattr(self, name)}")
        if not self.step_seconds >= 0 or not self.latency >= 0:
            raise RequestError("the time of a step and of a read cannot be negative")

    @property
    def demand(self) -> float:
        """Images per second that the devices can process."""
        return self.hosts * self.devices * self.batch / self.step_seconds if self.step_seconds else math.inf


@dataclass(frozen=True)
class SimulationResult:
    """Result of a simulation, measured after its warm-up."""

    images_per_second: float
    idle: float  # share of the time that devices wait
    core_use: float  # share of the cores' time that is used
    bytes_per_second: float
    images: int  # over the whole simulation


@dataclass(frozen=True)
class Requirements:
    """The fewest cores and the lowest bandwidth that keep the devices busy, and the resulting throughput."""

    cores: int  # per host, for loading; each training process needs one more
    workers: int  # per training process
    bandwidth: float  # bytes per second, with a tenth more cores
    readers: int  # loading processes over all hosts
    flow: SimulationResult


@cache
def load_image_sample() -> ImageSample:
    """Load the sample of 250 ImageNet files that ``tools/measure_feed.py`` measured with the paper's augmentation."""
    values = json.loads(files("resnext.planning").joinpath("decoding.json").read_text(encoding="utf-8"))
    return ImageSample(tuple(values["bytes"]), tuple(ms / 1000 for ms in values["milliseconds"]))


def parse_bandwidth(text: str) -> float:
    """Parse ``2GB/s``, ``500 MiB/s`` or ``10Gbit/s`` to bytes per second. Raises RequestError."""
    match = BANDWIDTH_PATTERN.fullmatch(text.strip())
    value = float(match["number"]) if match else 0.0
    if not match or not 0 < value < math.inf:
        raise RequestError(f"{text!r} is not a bandwidth; write 2GB/s, 500MiB/s or 10Gbit/s")
    base = 1024.0 if match["binary"] else 1000.0
    return value * base ** PREFIXES[match["prefix"]] / (1 if match["unit"] == "B" else 8)


def simulate(
    pipeline: Pipeline,
    images: ImageSample,
    steps: int | None = None,
    *,
    skip: int | None = None,
    epoch_ends: bool = False,
    seed: int = 0,
) -> SimulationResult:
    """Simulate ``steps`` steps and measure those after the first ``skip``; the result depends on the seed only.

    With ``epoch_ends`` the epoch ends after these steps and workers load nothing beyond; otherwise it continues. Of
    many hosts, which are all alike, as many are simulated as have MAX_DEVICES devices, with their share of the storage.
    """
    ahead = PREFETCH * max(pipeline.workers, 1)
    skip = 4 * ahead if skip is None else skip  # until all prefetch queues are full
    steps = skip + max(8 * ahead, 48) if steps is None else steps
    assert 0 <= skip < steps
    hosts = max(1, min(pipeline.hosts, MAX_DEVICES // pipeline.devices))
    times = pipeline.hosts / hosts
    part = replace(pipeline, hosts=hosts, bandwidth=pipeline.bandwidth / times)
    found = _Simulation(part, images, steps, epoch_ends, seed).run(skip)
    return replace(
        found,
        images_per_second=times * found.images_per_second,
        bytes_per_second=times * found.bytes_per_second,
        images=round(times * found.images),
    )


def find_requirements(
    pipeline: Pipeline,
    images: ImageSample,
    *,
    idle: float = MAX_IDLE,
    seed: int = 0,
    report: Callable[[str], None] = lambda _: None,
) -> Requirements:
    """Find the fewest cores that keep the devices idle for less than ``idle``, then the lowest bandwidth.

    Cores and workers of ``pipeline`` are ignored; ``report`` is told what is simulated. Raises RequestError if its
    storage is too slow.
    """

    def busy(candidate: Pipeline) -> bool:
        rate = "" if candidate.bandwidth == math.inf else f", {candidate.bandwidth / 1e9:.3g} GB/s"
        report(f"simulating {candidate.cores:g} cores per host{rate}")
        return simulate(candidate, images, seed=seed).idle < idle

    bytes_needed = pipeline.demand * images.mean_bytes
    need = pipeline.demand * images.mean_seconds / pipeline.hosts  # if cores never wait
    if pipeline.bandwidth < bytes_needed * (1 - idle):
        raise RequestError(
            f"storage of {pipeline.bandwidth / 1e9:.3g} GB/s cannot feed {pipeline.demand:,.0f} images of "
            f"{images.mean_bytes / 1e3:.0f} kB per second, which need {bytes_needed / 1e9:.3g} GB/s"
        )
    if set_cores(pipeline, images, math.ceil(need)).workers > MAX_WORKERS:
        raise RequestError(
            f"{pipeline.demand:,.0f} images per second need {need:.0f} cores per host and more than {MAX_WORKERS} "
            "workers per device; use more hosts"
        )
    least = max(1, math.floor(need * (1 - 2 * idle)))
    cores = _find_least(lambda c: busy(set_cores(pipeline, images, c)), least)
    best = set_cores(pipeline, images, cores)
    roomy = set_cores(pipeline, images, math.ceil(CORE_MARGIN * cores))
    percent = _find_least(lambda p: busy(replace(roomy, bandwidth=bytes_needed * p / 100)), 95)
    readers = best.workers * best.devices * best.hosts
    return Requirements(cores, best.workers, bytes_needed * percent / 100, readers, simulate(best, images, seed=seed))


def set_cores(pipeline: Pipeline, images: ImageSample, cores: int) -> Pipeline:
    """Set the number of cores, with enough workers to keep them busy while others read or wait."""
    reads = 1.0 if pipeline.read_bytes is None else images.mean_bytes / pipeline.read_bytes
    waiting = reads * pipeline.latency / images.mean_seconds  # reading workers per computing one
    return replace(
        pipeline, cores=cores, workers=math.ceil(WORKERS_PER_CORE * cores * (1 + waiting) / pipeline.devices)
    )


def find_even_shard_count(readers: int, idle: float = MAX_IDLE) -> int:
    """Find the smallest shard count from which on every count splits evenly enough over the readers."""
    rounds = math.ceil((1 - 1 / readers) / idle - 1e-9) if readers > 1 else 1
    return readers * (rounds - 1) + 1


def _find_least(enough: Callable[[int], bool], low: int) -> int:
    """Find the smallest whole number from ``low`` on for which the monotonic predicate ``enough`` holds."""
    step, high = max(1, low // 16), low
    while not enough(high):
        low, high, step = high + 1, high + step, step * 2
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


class _SharedResource:
    """A resource that serves all jobs at once, each with at most ``max_speed`` or its equal share of ``capacity``.

    ``clock`` counts the work done for a single job since the start; a job ends when the clock reaches its end.
    """

    def __init__(self, capacity: float, most: float) -> None:
        self.capacity, self.max_speed = capacity, most
        self.jobs: list[tuple[float, int, Callable[[], None]]] = []
        self.clock, self.time, self.done = 0.0, 0.0, 0.0
        self.numbers = count()

    @property
    def speed(self) -> float:
        return min(self.max_speed, self.capacity / len(self.jobs))

    def add(self, now: float, work: float, then: Callable[[], None]) -> None:
        self._advance(now)
        heapq.heappush(self.jobs, (self.clock + work, next(self.numbers), then))

    def next_finish(self) -> float:
        return self.time + max(0.0, self.jobs[0][0] - self.clock) / self.speed if self.jobs else math.inf

    def finish_next(self, now: float) -> Callable[[], None]:
        self._advance(now)
        end, _, then = heapq.heappop(self.jobs)
        self.clock = max(self.clock, end)
        return then

    def measure_done(self, now: float) -> float:
        """Return all work done until ``now``."""
        self._advance(now)
        return self.done

    def _advance(self, now: float) -> None:
        if self.jobs and now > self.time:
            passed = (now - self.time) * self.speed
            self.clock += passed
            self.done += passed * len(self.jobs)
        self.time = now


class _Simulation:
    """The event loop: processes all events in order of time."""

    def __init__(self, pipeline: Pipeline, images: ImageSample, steps: int, ends: bool, seed: int) -> None:
        self.p, self.steps, self.seed = pipeline, steps, seed
        self.batches: float = steps if ends else math.inf  # of the epoch
        self.sizes, self.seconds = np.array(images.sizes, dtype=float), np.array(images.seconds)
        self.now, self.images = 0.0, 0
        self.timers: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers = count()
        self.storage = _SharedResource(pipeline.bandwidth, pipeline.bandwidth)
        self.cores = [_SharedResource(pipeline.cores, 1.0) for _ in range(pipeline.hosts)]
        self.ranks = [
            _Rank(self, h * pipeline.devices + d, self.cores[h])
            for h in range(pipeline.hosts)
            for d in range(pipeline.devices)
        ]
        self.waiting = 0
        self.ends: list[tuple[float, float, float]] = []  # per step: end time, core seconds, bytes

    def run(self, skip: int) -> SimulationResult:
        for rank in self.ranks:
            rank.start()
        self._request_batches()
        while len(self.ends) < self.steps:
            shared = min([self.storage, *self.cores], key=_SharedResource.next_finish)
            if self.timers and self.timers[0][0] <= shared.next_finish():
                self.now, _, then = heapq.heappop(self.timers)
            else:
                self.now = shared.next_finish()
                then = shared.finish_next(self.now)
            then()
        return self._make_result(skip)

    def schedule(self, seconds: float, then: Callable[[], None]) -> None:
        heapq.heappush(self.timers, (self.now + seconds, next(self.numbers), then))

    def make_pieces(self, rank: int, batch: int) -> list[tuple[float, float, float]]:
        """Split a batch into pieces: (bytes, read latency, core seconds); one piece if storage is not simulated."""
        drawn = np.random.default_rng([self.seed, rank, batch]).integers(len(self.sizes), size=self.p.batch)
        stored = self.p.latency > 0 or self.p.bandwidth < math.inf
        parts = np.array_split(drawn, min(BATCH_PIECES, len(drawn)) if stored else 1)
        return [
            (float(self.sizes[part].sum()), self._compute_wait(part), float(self.seconds[part].sum())) for part in parts
        ]

    def _compute_wait(self, part: np.ndarray) -> float:
        reads = len(part) if self.p.read_bytes is None else self.sizes[part].sum() / self.p.read_bytes
        return float(self.p.latency * reads)

    def note_batch(self) -> None:
        """Note that a device has its batch; the last device starts the step."""
        self.waiting -= 1
        self.images += self.p.batch
        if not self.waiting:
            self.schedule(self.p.step_seconds, self._finish_step)

    def _finish_step(self) -> None:
        self.ends.append(
            (self.now, sum(c.measure_done(self.now) for c in self.cores), self.storage.measure_done(self.now))
        )
        if len(self.ends) < self.steps:
            self._request_batches()

    def _request_batches(self) -> None:
        self.waiting = len(self.ranks)
        for rank in self.ranks:
            rank.request_batch()

    def _make_result(self, skip: int) -> SimulationResult:
        start = self.ends[skip - 1] if skip else (0.0, 0.0, 0.0)
        seconds, cores, read = (end - begin for begin, end in zip(start, self.ends[-1], strict=True))
        steps = self.steps - skip
        return SimulationResult(
            images_per_second=steps * self.p.batch * len(self.ranks) / seconds if seconds else math.inf,
            idle=max(0.0, 1 - steps * self.p.step_seconds / seconds) if seconds else 0.0,
            core_use=cores / (seconds * self.p.cores * self.p.hosts) if seconds else 0.0,
            bytes_per_second=read / seconds if seconds else 0.0,
            images=self.images,
        )


class _Rank:
    """The training process of one device and its workers: a DataLoader and the loop around it."""

    def __init__(self, simulation: _Simulation, number: int, cores: _SharedResource) -> None:
        self.simulation, self.number, self.cores = simulation, number, cores
        self.workers = int(min(simulation.p.workers, simulation.batches))
        self.queues: list[deque[int]] = [deque() for _ in range(max(1, self.workers))]
        self.ready: set[int] = set()
        self.sent, self.wanted, self.is_waiting = 0, 0, False

    def start(self) -> None:
        for _ in range(PREFETCH * self.workers):
            self._send_batch()

    def request_batch(self) -> None:
        """Request the next batch for the training loop."""
        self.is_waiting = True
        if not self.workers:
            self._send_batch()
        self._take_batch()

    def _take_batch(self) -> None:
        if self.is_waiting and self.wanted in self.ready:
            self.ready.remove(self.wanted)
            self.wanted += 1
            self.is_waiting = False
            if self.workers:
                self._send_batch()
            self.simulation.note_batch()

    def _send_batch(self) -> None:
        """Queue the next batch at the worker whose turn it is; an idle worker starts at once."""
        if self.sent < self.simulation.batches:
            queue = self.queues[self.sent % len(self.queues)]
            queue.append(self.sent)
            self.sent += 1
            if len(queue) == 1:
                self._load_batch(queue)

    def _load_batch(self, queue: deque[int]) -> None:
        pieces = iter(self.simulation.make_pieces(self.number, queue[0]))

        def read() -> None:
            piece = next(pieces, None)
            if piece is None:
                self.ready.add(queue.popleft())
                if queue:
                    self._load_batch(queue)
                self._take_batch()
                return
            size, wait, seconds = piece
            s = self.simulation

            def decode() -> None:
                self.cores.add(s.now, seconds, read)

            def transfer() -> None:
                s.storage.add(s.now, size, decode)

            if s.p.bandwidth == math.inf:
                s.storage.done += size
                s.schedule(wait, decode) if wait else decode()
            else:
                s.schedule(wait, transfer) if wait else transfer()

        read()
