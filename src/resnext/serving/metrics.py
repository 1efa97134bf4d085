"""The metrics of the server, in Prometheus' text format."""

import platform
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from resnext.serving.problems import ProblemError
from resnext.version import __version__

if TYPE_CHECKING:
    from resnext.serving.deadline import Connections
    from resnext.serving.service import Service, Times

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters and histograms of one server, in a registry of their own."""

    def __init__(self, service: "Service") -> None:
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
        self.registry.register(_StateCollector(service))

    def watch_connections(self, connections: "Connections") -> None:
        """Report the connections of the server's protocol."""
        self.connections.set_function(lambda: len(connections.opened))
        self.evicted.set_function(lambda: connections.evicted)

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

    def record_times(self, model: str, times: "Times", results: Sequence[object]) -> None:
        """Count the images of an answered request."""
        failed = sum(isinstance(result, ProblemError) for result in results)
        self.images.labels(model, "answered").inc(len(results) - failed)
        self.images.labels(model, "refused").inc(failed)
        self.queue_seconds.labels(model).observe(times.queue)

    def format(self) -> bytes:
        """Return all metrics as text."""
        return generate_latest(self.registry)


class _StateCollector(Collector):
    """What is read when it is asked for: queues, readiness, versions."""

    def __init__(self, service: "Service") -> None:
        self.service = service

    def describe(self) -> Iterator[Metric]:
        """Describe nothing in advance: the registry then does not collect while it is built."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield the current values."""
        service = self.service
        yield InfoMetricFamily(
            "resnext_build", "Versions", value={"version": __version__, "python": platform.python_version()}
        )
        yield GaugeMetricFamily("resnext_ready", "1 if /readyz answers 200", value=float(service.find_fault() is None))
        yield GaugeMetricFamily(
            "resnext_waiting_pictures", "Pictures that wait for decoding", value=service.decode_load.waiting
        )
        yield GaugeMetricFamily("resnext_bytes_in_flight", "Bytes of bodies held", value=service.body_budget.used)
        yield GaugeMetricFamily("resnext_pixels_in_flight", "Pixels being decoded", value=service.pixel_budget.used)
        queued = GaugeMetricFamily("resnext_queued_images", "Images queued or being computed", labels=["model"])
        wait = GaugeMetricFamily("resnext_predicted_wait_seconds", "Wait of the next image", labels=["model"])
        dropped = GaugeMetricFamily("resnext_dropped_images", "Images that nobody waited for", labels=["model"])
        for model in service.models.values():
            if model.batcher is not None:
                queued.add_metric([model.name], model.batcher.load)
                wait.add_metric([model.name], model.batcher.predict_wait(service.decode_load.waiting))
                dropped.add_metric([model.name], model.batcher.dropped)
        yield from (queued, wait, dropped)
