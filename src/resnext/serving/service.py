"""The models behind the routes: decode pictures, queue them, and gather what the networks say.

Every route, of whatever convention, does the same three things::

    model = service.find_model(name)                                  # ProblemError 404
    async with receive_body(request, service, model) as body:         # bodies.py; ProblemError 408, 413, 429, 503
        answer = await answer_while_connected(request, service.classify(model, [picture, ...]))

``classify(model, images) -> Answer`` takes for each image the bytes of a JPEG, PNG, WEBP or GIF file, or prepared
pixels, uint8 [S, S, C] (what ``Predictor.prepare`` gives). ``answer.results`` has for each image, in order, a
``ClassifiedImage`` (``logits``, ``probabilities``, ``cam``, ``size``, ``pixels``), or the ``ProblemError`` of this
image; ``answer.times`` has seconds. ``detect(model, images)`` gives ``DetectedImage`` instead. Both raise
``ProblemError``: 429 if the queue is too long, 500 if the network failed, 503 if the server is stopping or the model
is not ready.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from resnext.detection.export.engines import Detections
from resnext.errors import did_you_mean
from resnext.evaluation.predict import compute_softmax
from resnext.serving.admission import BodyBudget, DecodeLoad, PixelBudget, check_wait
from resnext.serving.batcher import Job
from resnext.serving.decoding import DecodedPicture, Decoders, count_decoders, decode_picture
from resnext.serving.limits import Limits
from resnext.serving.metrics import Metrics, ModelState, ServiceState
from resnext.serving.pictures import read_picture_header
from resnext.serving.problems import ProblemError
from resnext.serving.served_model import ClassifierRow, ServedModel

Picture = bytes | np.ndarray  # the bytes of an image file, or prepared pixels, uint8 [S, S, C]


@dataclass(frozen=True, eq=False)
class ClassifiedImage:
    """What a classifier says of one image."""

    size: tuple[int, int]  # width and height of the upright image; of the input for prepared pixels
    pixels: np.ndarray  # uint8 [S, S, C]: what the network saw; the image itself for input "picture"
    logits: np.ndarray  # float32 [K]
    cam: np.ndarray | None  # class activation maps, float32 [K, h, w], signed

    @property
    def probabilities(self) -> np.ndarray:
        """Softmax of the logits, float64 [K]."""
        return compute_softmax(self.logits)


@dataclass(frozen=True, eq=False)
class DetectedImage:
    """The objects found in one image."""

    size: tuple[int, int]  # width and height of the upright image, to which the boxes refer
    detections: Detections


@dataclass
class Times:
    """Seconds of a request; of the slowest image where there are several."""

    decode: float = 0.0
    queue: float = 0.0  # waiting for a decoder and for the network
    network: float = 0.0  # of the batch the image was in
    total: float = 0.0


@dataclass
class Answer:
    """The results of a request, one for each image in order."""

    results: list[ClassifiedImage | DetectedImage | ProblemError]
    times: Times


@dataclass
class _Gathering:
    """The images of one request on their way."""

    deadline: float
    undecoded: int  # images that are not decoded yet
    jobs: list[Job[np.ndarray, ClassifierRow | Detections]] = field(default_factory=list)
    times: Times = field(default_factory=Times)


class Service:
    """All models, and what they share: limits, the decoding threads and the metrics.

    It must be used on one event loop, except for ``add_model``: models can be added while it runs.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.models: dict[str, ServedModel] = {}
        self.metrics = Metrics(self.read_state)
        self.body_budget = BodyBudget(self.limits)
        self.pixel_budget = PixelBudget(self.limits)
        self.decoders = Decoders(self.limits.small_size)
        self.decode_load = DecodeLoad(count_decoders())
        self.is_ready = False  # all models are loaded
        self.is_stopping = False

    def add_model(self, model: ServedModel) -> None:
        """Prepare a model, which takes seconds to minutes, and serve it. May be called in any thread."""
        model.start(_deliver, lambda count, seconds: self.metrics.record_batch(model.name, count, seconds))
        self.models[model.name] = model

    def find_model(self, name: str | None = None) -> ServedModel:
        """Return the model of a name, by default the first. Raises ProblemError: 404, or 503 until it is loaded."""
        if name is None:
            if not self.models:
                raise ProblemError(503, "the server is starting: no model is loaded yet", "starting", retry_after=2)
            return next(iter(self.models.values()))
        found = self.models.get(name)
        if found is None:
            if not self.is_ready:
                raise ProblemError(
                    503, "the server is starting: the model may not be loaded yet", "starting", retry_after=2
                )
            raise ProblemError(404, f"there is no model {name[:100]!r}{did_you_mean(name, self.models)}", "model")
        return found

    def read_state(self) -> ServiceState:
        """Return what the metrics say of this moment."""
        waiting = self.decode_load.waiting
        models = [
            ModelState(model.name, model.batcher.load, model.batcher.predict_wait(waiting), model.batcher.dropped)
            for model in self.models.values()
            if model.batcher is not None
        ]
        return ServiceState(self.find_fault() is None, waiting, self.body_budget.used, self.pixel_budget.used, models)

    def find_fault(self) -> str | None:
        """Say why the server is not ready; None if it is."""
        if self.is_stopping:
            return "the server is stopping"
        if not self.is_ready:
            return "the models are being loaded"
        faults = [(model.name, model.find_fault()) for model in self.models.values()]
        return next((f"model {name}: {fault}" for name, fault in faults if fault is not None), None)

    def check_admission(self, model: ServedModel) -> None:
        """Raise ProblemError if a new request for the model must be refused now: 503 or 429."""
        if self.is_stopping:
            raise ProblemError(503, "the server is stopping", "stopping", retry_after=5)
        if model.batcher is None or (fault := model.batcher.find_fault()) is not None:
            fault = "it is being loaded" if model.batcher is None else fault
            raise ProblemError(503, f"model {model.name} cannot answer: {fault}", "fault", retry_after=5)
        decode = self.decode_load
        check_wait(max(decode.predict_wait(), model.batcher.predict_wait(decode.waiting)), self.limits)

    async def classify(self, model: ServedModel, images: Sequence[Picture], *, deadline: float | None = None) -> Answer:
        """Classify images.

        Args:
            model: A classifier, of ``find_model``.
            images: For each image the bytes of a file, or prepared pixels, uint8 [S, S, C].
            deadline: The time (``time.monotonic``) after which nobody waits for the answer.

        Raises:
            ProblemError: The whole request failed. The problem of a single image is its result instead.
        """
        if model.task != "classification":
            raise ProblemError(422, f"model {model.name} is for {model.task}, not for classification", "task")
        return await self._answer(model, images, deadline)

    async def detect(self, model: ServedModel, images: Sequence[Picture], *, deadline: float | None = None) -> Answer:
        """Find objects in images; arguments and errors are those of ``classify``."""
        if model.task != "detection":
            raise ProblemError(422, f"model {model.name} is for {model.task}, not for detection", "task")
        return await self._answer(model, images, deadline)

    async def _answer(self, model: ServedModel, images: Sequence[Picture], deadline: float | None) -> Answer:
        start = time.monotonic()
        if len(images) > self.limits.images:
            raise ProblemError(
                413, f"the request has {len(images)} images; at most {self.limits.images} are accepted", "images"
            )
        self.check_admission(model)
        state = _Gathering(min(start + self.limits.answer_seconds, deadline or float("inf")), len(images))
        self.decode_load.waiting += len(images)  # at once, so that those who ask in the same moment see them
        work = [asyncio.ensure_future(self._process(model, image, state)) for image in images]
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + state.deadline - start):
                results = await asyncio.gather(*work)
        except TimeoutError:
            waited = time.monotonic() - start
            raise ProblemError(
                503, f"the answer took more than {waited:.0f} seconds", "timeout", retry_after=5
            ) from None
        finally:
            for task in work:
                task.cancel()
            for job in state.jobs:
                job.cancel()
            self.decode_load.waiting -= state.undecoded
            state.undecoded = 0
        state.times.total = time.monotonic() - start
        refused = sum(isinstance(result, ProblemError) for result in results)
        self.metrics.record_answer(model.name, len(results) - refused, refused, state.times.queue)
        return Answer(list(results), state.times)

    async def _process(
        self, model: ServedModel, image: Picture, state: _Gathering
    ) -> ClassifiedImage | DetectedImage | ProblemError:
        """Take one image through decoding and the network; return its own problem, raise that of the request."""
        if isinstance(image, np.ndarray):
            self._count_decoded(state)
            return await self._compute(model, DecodedPicture((image.shape[1], image.shape[0]), image), state)
        try:
            header = read_picture_header(image, self.limits)
        except ProblemError as problem:
            return problem
        start = time.monotonic()
        try:
            async with self.pixel_budget.reserve(header.pixels):
                decoded = await self.decoders.run(decode_picture, model, image, header, self.limits, size=header.pixels)
                self._count_decoded(state)
                self.decode_load.record(decoded.seconds)
                self.metrics.record_decoding(header.pixels, decoded.seconds)
                state.times.decode = max(state.times.decode, decoded.seconds)
                if model.takes_pictures:  # the whole picture is held until the network has seen it
                    waited = time.monotonic() - start - decoded.seconds
                    return await self._compute(model, decoded, state, waited)
            return await self._compute(model, decoded, state, time.monotonic() - start - decoded.seconds)
        except ProblemError as problem:
            if problem.status in (415, 422):
                return problem
            raise

    def _count_decoded(self, state: _Gathering) -> None:
        state.undecoded -= 1
        self.decode_load.waiting -= 1

    async def _compute(
        self, model: ServedModel, decoded: DecodedPicture, state: _Gathering, waited: float = 0.0
    ) -> ClassifiedImage | DetectedImage | ProblemError:
        """Queue one image and wait for its result."""
        assert model.batcher is not None
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        job: Job[np.ndarray, Any] = Job(decoded.pixels, state.deadline, done)
        state.jobs.append(job)
        try:
            model.batcher.submit([job])
        except RuntimeError as error:
            raise ProblemError(503, f"model {model.name} cannot answer: {error}", "fault", retry_after=5) from None
        await done
        if job.error is not None:
            raise ProblemError(500, f"model {model.name} failed: {job.error}", "engine")
        if job.result is None:
            raise ProblemError(503, "the image waited too long in the queue", "timeout", retry_after=5)
        state.times.queue = max(state.times.queue, waited + job.wait_seconds)
        state.times.network = max(state.times.network, job.compute_seconds)
        if isinstance(job.result, ClassifierRow):
            if not np.isfinite(job.result.logits).all():
                return ProblemError(500, "the network's output is not finite", "engine")
            return ClassifiedImage(decoded.size, decoded.pixels, *job.result)
        return DetectedImage(decoded.size, job.result)

    def begin_stop(self) -> None:
        """Refuse new requests from now on; may be called in a signal handler."""
        self.is_stopping = True

    def stop(self, timeout: float) -> bool:
        """Finish all queues; return whether that was done in time."""
        end = time.monotonic() + timeout
        ended = [model.stop(max(0.0, end - time.monotonic())) for model in self.models.values()]
        return all(ended)


def _deliver(jobs: Sequence[Job[np.ndarray, Any]]) -> None:
    """Wake the requests of a batch: one call of the event loop for all of them. Called in a worker thread."""
    futures = [job.token for job in jobs if isinstance(job.token, asyncio.Future)]
    if not futures:
        return  # a probe
    with suppress(RuntimeError):  # the loop is closed: the server has stopped without waiting for answers
        futures[0].get_loop().call_soon_threadsafe(_wake, futures)


def _wake(futures: Sequence["asyncio.Future[None]"]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)
