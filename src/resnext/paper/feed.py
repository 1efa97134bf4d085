"""The input pipeline, simulated: how many cores, what storage and how many shards keep the devices busy.

It is the loader of ``data/loader.py``, event by event: each process hands its batches to W workers in turn, two to each
ahead; a worker reads, decodes and augments one image after the other; batches come in order; and a step begins when
every device has its batch. Cores and storage are shared fairly by whoever uses them.
"""

import heapq
import json
import math
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from itertools import count

import numpy as np

from resnext.errors import RequestError

PREFETCH = 2  # batches a worker has ahead, as a DataLoader has them
PIECES = 16  # a batch is read and decoded in so many, where storage plays a part
ROOM = 1.1  # times the least cores: the storage is judged with some to spare, as waiting for it takes workers
SPARE = 1.25  # workers for each core: some always wait for their turn
MOST_WORKERS = 256  # as data.workers allows
IDLE = 0.02  # of the devices' time, that counts as kept busy
BANDWIDTH = re.compile(
    r"(?P<number>\d+(?:\.\d*)?(?:e\d{1,2})?)\s*(?P<prefix>[kMGT]?)(?P<binary>i?)(?P<unit>B|bit|b)(?:/s|ps)"
)
PREFIXES = {"": 0, "k": 1, "M": 2, "G": 3, "T": 4}


@dataclass(frozen=True)
class Images:
    """Images as they were measured one by one: file size, and seconds of one core to decode and augment it."""

    sizes: tuple[int, ...]  # bytes
    seconds: tuple[float, ...]

    @property
    def mean_bytes(self) -> float:
        """Of a file."""
        return sum(self.sizes) / len(self.sizes)

    @property
    def mean_seconds(self) -> float:
        """Of one core."""
        return sum(self.seconds) / len(self.seconds)

    def scaled(self, mean_seconds: float, mean_bytes: float) -> "Images":
        """The same spread around other means."""
        slower, larger = mean_seconds / self.mean_seconds, mean_bytes / self.mean_bytes
        return Images(tuple(round(b * larger) for b in self.sizes), tuple(s * slower for s in self.seconds))


@dataclass(frozen=True)
class Pipeline:
    """What feeds what. Sizes that make no sense raise RequestError."""

    step_seconds: float  # of computation
    batch: int  # images a device and step
    workers: int  # loading processes of each device's process; 0 loads in that process itself
    cores: float  # of each host, for the loading processes
    devices: int = 1  # of each host
    hosts: int = 1
    bandwidth: float = math.inf  # bytes a second, of a storage that all hosts share
    latency: float = 0.0  # seconds of a read
    read_bytes: float | None = None  # of a sequential read; None: every image is a read of its own

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("workers", 0), ("devices", 1), ("hosts", 1)):
            if getattr(self, name) < least:
                raise RequestError(f"a pipeline has {name} of {least} or more, not {getattr(self, name)}")
        for name in ("cores", "bandwidth"):
            if not getattr(self, name) > 0:
                raise RequestError(f"{name} must be above 0, not {getattr(self, name)}")
        if not self.step_seconds >= 0 or not self.latency >= 0:
            raise RequestError("a step and a read cannot take less than no time")

    @property
    def demand(self) -> float:
        """Images a second that the devices could take."""
        return self.hosts * self.devices * self.batch / self.step_seconds if self.step_seconds else math.inf


@dataclass(frozen=True)
class Flow:
    """What a simulation saw after its warm-up."""

    images_per_second: float
    idle: float  # share of the time that devices waited
    core_use: float  # share of the cores
    bytes_per_second: float
    images: int  # of the whole simulation, every one of them once


@dataclass(frozen=True)
class Plan:
    """The least that keeps the devices busy, and what flows then."""

    cores: int  # of each host, for loading; the training processes need one each besides
    workers: int  # of each process
    bandwidth: float  # bytes a second, with a tenth more cores
    readers: int  # loading processes of all hosts
    flow: Flow


@cache
def measured_images() -> Images:
    """250 ImageNet files under the paper's augmentation, as ``tools/measure_feed.py`` measured them on one core."""
    values = json.loads(files("resnext.paper").joinpath("decoding.json").read_text(encoding="utf-8"))
    return Images(tuple(values["bytes"]), tuple(ms / 1000 for ms in values["milliseconds"]))


def parse_bandwidth(text: str) -> float:
    """``2GB/s``, ``500 MiB/s`` or ``10Gbit/s`` as bytes a second. Raises RequestError."""
    match = BANDWIDTH.fullmatch(text.strip())
    value = float(match["number"]) if match else 0.0
    if not match or not 0 < value < math.inf:
        raise RequestError(f"{text!r} is no bandwidth: write one such as 2GB/s, 500MiB/s or 10Gbit/s")
    base = 1024 if match["binary"] else 1000
    return value * base ** PREFIXES[match["prefix"]] / (1 if match["unit"] == "B" else 8)


def simulate(
    pipeline: Pipeline,
    images: Images,
    steps: int | None = None,
    *,
    skip: int | None = None,
    ends: bool = False,
    seed: int = 0,
) -> Flow:
    """Runs ``steps`` steps and reports on those after the first ``skip``; the same answer for the same seed.

    With ``ends`` the epoch ends with them, and workers load nothing beyond; else it goes on, as a long one does.
    """
    ahead = PREFETCH * max(pipeline.workers, 1)
    skip = 4 * ahead if skip is None else skip  # until the devices that are ahead have all they may have
    steps = skip + max(8 * ahead, 48) if steps is None else steps
    assert 0 <= skip < steps
    return _Simulation(pipeline, images, steps, ends, seed).run(skip)


def plan(pipeline: Pipeline, images: Images, *, idle: float = IDLE, seed: int = 0) -> Plan:
    """The least cores that leave the devices idle for less than ``idle``, and with ROOM the least bandwidth.

    What the pipeline says of cores and workers is not used. Raises RequestError where its storage cannot do it.
    """

    def busy(candidate: Pipeline) -> bool:
        return simulate(candidate, images, seed=seed).idle < idle

    bytes_needed = pipeline.demand * images.mean_bytes
    need = pipeline.demand * images.mean_seconds / pipeline.hosts  # cores that never wait
    if pipeline.bandwidth < bytes_needed * (1 - idle):
        raise RequestError(
            f"storage of {pipeline.bandwidth / 1e9:.3g} GB/s cannot feed {pipeline.demand:,.0f} images of "
            f"{images.mean_bytes / 1e3:.0f} kB a second, which are {bytes_needed / 1e9:.3g} GB/s"
        )
    if with_cores(pipeline, images, math.ceil(need)).workers > MOST_WORKERS:
        raise RequestError(
            f"{pipeline.demand:,.0f} images a second take {need:.0f} cores a host and more than {MOST_WORKERS} "
            "workers a device: use more hosts"
        )
    least = max(1, math.floor(need * (1 - 2 * idle)))
    cores = _least(lambda c: busy(with_cores(pipeline, images, c)), least)
    best = with_cores(pipeline, images, cores)
    roomy = with_cores(pipeline, images, math.ceil(ROOM * cores))
    percent = _least(lambda p: busy(replace(roomy, bandwidth=bytes_needed * p / 100)), 95)
    readers = best.workers * best.devices * best.hosts
    return Plan(cores, best.workers, bytes_needed * percent / 100, readers, simulate(best, images, seed=seed))


def throughput(pipeline: Pipeline, images: Images, cores: Sequence[int], *, seed: int = 0) -> list[Flow]:
    """The flow for each number of cores."""
    return [simulate(replace(pipeline, cores=c), images, seed=seed) for c in cores]


def with_cores(pipeline: Pipeline, images: Images, cores: int) -> Pipeline:
    """As many cores, and workers that keep them all busy while others read or wait for their turn."""
    reads = 1.0 if pipeline.read_bytes is None else images.mean_bytes / pipeline.read_bytes
    waiting = reads * pipeline.latency / images.mean_seconds  # workers in a read for each that computes
    return replace(pipeline, cores=cores, workers=math.ceil(SPARE * cores * (1 + waiting) / pipeline.devices))


def uneven(shards: int, readers: int) -> float:
    """Share of the time that readers of whole shards stand still at the end of an epoch, waiting for the slowest."""
    assert shards >= 1
    assert readers >= 1
    return 1 - shards / (readers * -(-shards // readers))


def even_from(readers: int, idle: float = IDLE) -> int:
    """The number of shards from which on every number of them is even enough; ``readers`` of them always are."""
    rounds = math.ceil((1 - 1 / readers) / idle - 1e-9) if readers > 1 else 1
    return readers * (rounds - 1) + 1


def _least(enough: Callable[[int], bool], low: int) -> int:
    """The least whole number from ``low`` on that is enough, taken to be monotonous."""
    step, high = max(1, low // 16), low
    while not enough(high):
        low, high, step = high + 1, high + step, step * 2
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


class _Shared:
    """A resource that serves all its jobs at once, each at ``most`` or at its fair share of ``capacity``.

    The clock of the jobs: it runs at the speed of one of them, so a job ends when it shows the job's end.
    """

    def __init__(self, capacity: float, most: float) -> None:
        self.capacity, self.most = capacity, most
        self.jobs: list[tuple[float, int, Callable[[], None]]] = []
        self.clock, self.time, self.done = 0.0, 0.0, 0.0
        self.numbers = count()

    @property
    def speed(self) -> float:
        return min(self.most, self.capacity / len(self.jobs))

    def add(self, now: float, work: float, then: Callable[[], None]) -> None:
        self._advance(now)
        heapq.heappush(self.jobs, (self.clock + work, next(self.numbers), then))

    def next(self) -> float:
        return self.time + max(0.0, self.jobs[0][0] - self.clock) / self.speed if self.jobs else math.inf

    def finish(self, now: float) -> Callable[[], None]:
        self._advance(now)
        end, _, then = heapq.heappop(self.jobs)
        self.clock = max(self.clock, end)
        return then

    def amount(self, now: float) -> float:
        """All work done until now."""
        self._advance(now)
        return self.done

    def _advance(self, now: float) -> None:
        if self.jobs and now > self.time:
            passed = (now - self.time) * self.speed
            self.clock += passed
            self.done += passed * len(self.jobs)
        self.time = now


class _Simulation:
    """Everything that happens, in the order of time."""

    def __init__(self, pipeline: Pipeline, images: Images, steps: int, ends: bool, seed: int) -> None:
        self.p, self.steps, self.seed = pipeline, steps, seed
        self.batches: float = steps if ends else math.inf  # of the epoch
        self.sizes, self.seconds = np.array(images.sizes, dtype=float), np.array(images.seconds)
        self.now, self.images = 0.0, 0
        self.timers: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers = count()
        self.storage = _Shared(pipeline.bandwidth, pipeline.bandwidth)
        self.cores = [_Shared(pipeline.cores, 1.0) for _ in range(pipeline.hosts)]
        self.ranks = [
            _Rank(self, h * pipeline.devices + d, self.cores[h])
            for h in range(pipeline.hosts)
            for d in range(pipeline.devices)
        ]
        self.waiting = 0
        self.ends: list[tuple[float, float, float]] = []  # of steps: time, seconds of cores, bytes

    def run(self, skip: int) -> Flow:
        for rank in self.ranks:
            rank.start()
        self._want()
        while len(self.ends) < self.steps:
            shared = min([self.storage, *self.cores], key=_Shared.next)
            if self.timers and self.timers[0][0] <= shared.next():
                self.now, _, then = heapq.heappop(self.timers)
            else:
                self.now = shared.next()
                then = shared.finish(self.now)
            then()
        return self._flow(skip)

    def after(self, seconds: float, then: Callable[[], None]) -> None:
        heapq.heappush(self.timers, (self.now + seconds, next(self.numbers), then))

    def pieces(self, rank: int, batch: int) -> list[tuple[float, float, float]]:
        """Bytes, waiting for reads, and seconds of a core of a batch's images; without storage one piece is exact."""
        drawn = np.random.default_rng([self.seed, rank, batch]).integers(len(self.sizes), size=self.p.batch)
        stored = self.p.latency > 0 or self.p.bandwidth < math.inf
        parts = np.array_split(drawn, min(PIECES, len(drawn)) if stored else 1)
        return [(float(self.sizes[part].sum()), self._waits(part), float(self.seconds[part].sum())) for part in parts]

    def _waits(self, part: np.ndarray) -> float:
        reads = len(part) if self.p.read_bytes is None else self.sizes[part].sum() / self.p.read_bytes
        return float(self.p.latency * reads)

    def taken(self) -> None:
        """Another device has its batch; the last one starts the step of all."""
        self.waiting -= 1
        self.images += self.p.batch
        if not self.waiting:
            self.after(self.p.step_seconds, self._step_ends)

    def _step_ends(self) -> None:
        self.ends.append((self.now, sum(c.amount(self.now) for c in self.cores), self.storage.amount(self.now)))
        if len(self.ends) < self.steps:
            self._want()

    def _want(self) -> None:
        self.waiting = len(self.ranks)
        for rank in self.ranks:
            rank.want()

    def _flow(self, skip: int) -> Flow:
        start = self.ends[skip - 1] if skip else (0.0, 0.0, 0.0)
        seconds, cores, read = (end - begin for begin, end in zip(start, self.ends[-1], strict=True))
        steps = self.steps - skip
        return Flow(
            images_per_second=steps * self.p.batch * len(self.ranks) / seconds if seconds else math.inf,
            idle=max(0.0, 1 - steps * self.p.step_seconds / seconds) if seconds else 0.0,
            core_use=cores / (seconds * self.p.cores * self.p.hosts) if seconds else 0.0,
            bytes_per_second=read / seconds if seconds else 0.0,
            images=self.images,
        )


class _Rank:
    """One device's process and its workers: a DataLoader and the loop around it."""

    def __init__(self, simulation: _Simulation, number: int, cores: _Shared) -> None:
        self.simulation, self.number, self.cores = simulation, number, cores
        self.workers = int(min(simulation.p.workers, simulation.batches))
        self.queues: list[deque[int]] = [deque() for _ in range(max(1, self.workers))]
        self.ready: set[int] = set()
        self.sent, self.wanted, self.waits = 0, 0, False

    def start(self) -> None:
        for _ in range(PREFETCH * self.workers):
            self._send()

    def want(self) -> None:
        """The loop asks for its next batch."""
        self.waits = True
        if not self.workers:
            self._send()
        self._take()

    def _take(self) -> None:
        if self.waits and self.wanted in self.ready:
            self.ready.remove(self.wanted)
            self.wanted += 1
            self.waits = False
            if self.workers:
                self._send()
            self.simulation.taken()

    def _send(self) -> None:
        """The next batch to the worker whose turn it is, which starts if it has nothing else to do."""
        if self.sent < self.simulation.batches:
            queue = self.queues[self.sent % len(self.queues)]
            queue.append(self.sent)
            self.sent += 1
            if len(queue) == 1:
                self._load(queue)

    def _load(self, queue: deque[int]) -> None:
        pieces = iter(self.simulation.pieces(self.number, queue[0]))

        def read() -> None:
            piece = next(pieces, None)
            if piece is None:
                self.ready.add(queue.popleft())
                if queue:
                    self._load(queue)
                self._take()
                return
            size, wait, seconds = piece
            s = self.simulation

            def decode() -> None:
                self.cores.add(s.now, seconds, read)

            def transfer() -> None:
                s.storage.add(s.now, size, decode)

            if s.p.bandwidth == math.inf:
                s.storage.done += size
                s.after(wait, decode) if wait else decode()
            else:
                s.after(wait, transfer) if wait else transfer()

        read()
