"""The metrics of the server, in Prometheus' text format."""

import platform
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from resnext.version import __version__

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64)


class ModelState(NamedTuple):
    """The state of one model at this moment."""

    name: str
    queued: int  # images that are queued or being computed
    predicted_wait: float  # seconds
    dropped: int  # images that nobody waited for any more


class ServiceState(NamedTuple):
    """The state of the server at this moment."""

    is_ready: bool
    waiting_pictures: int  # for decoding
    body_bytes: int  # held
    pixels: int  # being decoded
    models: list[ModelState]


class Metrics:
    """Counters and histograms of one server, in a registry of their own."""

    def __init__(self, read_state: Callable[[], ServiceState]) -> None:
        self.registry = CollectorRegistry()
        options: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("resnext_requests", "Answered requests", ["route", "status"], **options)
        self.request_seconds = Histogram(
            "resnext_request_seconds", "From headers to answer", ["route"], buckets=SECONDS, **options
        )
        self.problems = Counter("resnext_problems", "Refused or failed requests", ["reason"], **options)
        self.body_bytes = Counter("resnext_body_bytes", "Bytes of request bodies", **options)
        self.pixels = Counter("resnext_decoded_pixels", "Pixels of decoded pictures", **options)
        self.decode_seconds = Histogram("resnext_decode_seconds", "Decoding a picture", buckets=SECONDS, **options)
        self.images = Counter("resnext_images", "Images by outcome", ["model", "outcome"], **options)
        self.queue_seconds = Histogram(
            "resnext_queue_seconds", "Waiting of the slowest image of a request", ["model"], buckets=SECONDS, **options
        )
        self.network_seconds = Histogram(
            "resnext_network_seconds", "Computing a batch", ["model"], buckets=SECONDS, **options
        )
        self.batch_images = Histogram(
            "resnext_batch_images", "Images in a batch", ["model"], buckets=BATCHES, **options
        )
        self.connections = Gauge("resnext_connections", "Open connections", **options)
        self.evicted = Gauge("resnext_evicted_connections", "Idle connections closed to make room", **options)
        ProcessCollector(registry=self.registry)
        self.registry.register(_StateCollector(read_state))

    def watch_connections(self, count_open: Callable[[], int], count_evicted: Callable[[], int]) -> None:
        """Report the connections, as these functions count them."""
        self.connections.set_function(count_open)
        self.evicted.set_function(count_evicted)

    def record_request(self, route: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self.requests.labels(route, str(status)).inc()
        self.request_seconds.labels(route).observe(seconds)

    def record_problem(self, reason: str) -> None:
        """Count a request that was refused or failed."""
        self.problems.labels(reason).inc()

    def record_decoding(self, pixels: int, seconds: float) -> None:
        """Count a decoded picture."""
        self.pixels.inc(pixels)
        self.decode_seconds.observe(seconds)

    def record_batch(self, model: str, count: int, seconds: float) -> None:
        """Count a computed batch. Called in worker threads."""
        self.batch_images.labels(model).observe(count)
        self.network_seconds.labels(model).observe(seconds)

    def record_answer(self, model: str, answered: int, refused: int, queue_seconds: float) -> None:
        """Count the images of an answered request."""
        self.images.labels(model, "answered").inc(answered)
        self.images.labels(model, "refused").inc(refused)
        self.queue_seconds.labels(model).observe(queue_seconds)

    def format(self) -> bytes:
        """Return all metrics as text."""
        return generate_latest(self.registry)


class _StateCollector(Collector):
    """What is read when it is asked for: queues, readiness, versions."""

    def __init__(self, read_state: Callable[[], ServiceState]) -> None:
        self.read_state = read_state

    def describe(self) -> Iterator[Metric]:
        """Describe nothing in advance: the registry then does not collect while it is built."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield the current values."""
        state = self.read_state()
        versions = {"version": __version__, "python": platform.python_version()}
        yield InfoMetricFamily("resnext_build", "Versions", value=versions)
        yield GaugeMetricFamily("resnext_ready", "1 if /readyz answers 200", value=float(state.is_ready))
        waiting = state.waiting_pictures
        yield GaugeMetricFamily("resnext_waiting_pictures", "Pictures that wait for decoding", value=waiting)
        yield GaugeMetricFamily("resnext_bytes_in_flight", "Bytes of bodies held", value=state.body_bytes)
        yield GaugeMetricFamily("resnext_pixels_in_flight", "Pixels being decoded", value=state.pixels)
        queued = GaugeMetricFamily("resnext_queued_images", "Images queued or being computed", labels=["model"])
        wait = GaugeMetricFamily("resnext_predicted_wait_seconds", "Wait of the next image", labels=["model"])
        dropped = CounterMetricFamily("resnext_dropped_images", "Images that nobody waited for", labels=["model"])
        for model in state.models:
            queued.add_metric([model.name], model.queued)
            wait.add_metric([model.name], model.predicted_wait)
            dropped.add_metric([model.name], model.dropped)
        yield from (queued, wait, dropped)
