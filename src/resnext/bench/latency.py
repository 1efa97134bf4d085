"""Measure how long one image takes on this machine's inference engines, in interleaved rounds."""

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np

from resnext.bench.measure import Candidate, time_interleaved
from resnext.choices import LATENCY_PRECISIONS, EngineChoice, LatencyPrecision
from resnext.deploy.engines import list_engines
from resnext.deploy.network_engine import get_expected_image_size
from resnext.deploy.predictor import Predictor
from resnext.errors import RequestError
from resnext.model.network import Network
from resnext.speed.untimed import SETTLE_SECONDS

SECONDS_PER_NETWORK = 1.5  # of timed rounds
ROUNDS = (7, 60)  # at least, at most


@dataclass(frozen=True)
class Latency:
    """Seconds of one image (batch 1) on the engine that was chosen for the network."""

    milliseconds: float  # median over the rounds
    engine: str  # in words: "fp32 on openvino folded"


@dataclass(frozen=True)
class LatencyRequest:
    """What latency is measured with."""

    engine: EngineChoice = "auto"
    precision: LatencyPrecision = "fp32"
    image_size: int | None = None  # pixels; None: that of the network

    def check(self) -> None:
        """Raise RequestError for an engine that is unknown or not installed, or a precision it does not have."""
        if self.precision not in LATENCY_PRECISIONS:
            raise RequestError(f"latency is measured in {', '.join(LATENCY_PRECISIONS)}, not in {self.precision}")
        list_engines(self.engine, "fp32" if self.precision == "auto" else self.precision)


def measure_latencies(networks: Sequence[Network], request: LatencyRequest) -> list[Latency]:
    """Measure the latency of each network, in turn round after round, so that disturbances affect all alike.

    Each runs on the fastest engine that gives its results (``Predictor``), with images of random numbers. Raises
    RequestError for an engine that is not available.
    """
    request.check()
    with ExitStack() as held:
        candidates, engines = [], []
        for number, network in enumerate(networks):
            side = request.image_size or get_expected_image_size(network)
            predictor = held.enter_context(
                Predictor(network, engine=request.engine, precision=request.precision, image_size=side)
            )
            shape = (1, network.architecture.in_channels, side, side)
            image = np.random.default_rng(0).standard_normal(shape, np.float32)
            candidates.append(Candidate(str(number), partial(predictor, image), 1))
            engines.append(predictor.engine)
        timings = time_interleaved(candidates, _choose_rounds(candidates), warmup=2, settle=SETTLE_SECONDS)
    return [
        Latency(1000 * statistics.median(timing.seconds), engine)
        for timing, engine in zip(timings, engines, strict=True)
    ]


def _choose_rounds(candidates: Sequence[Candidate]) -> int:
    """Choose the number of rounds for which a network takes about SECONDS_PER_NETWORK."""
    start = time.perf_counter()
    for candidate in candidates:
        candidate.work()
    seconds = (time.perf_counter() - start) / max(len(candidates), 1)
    least, most = ROUNDS
    return max(least, min(most, round(SECONDS_PER_NETWORK / max(seconds, 1e-6))))
