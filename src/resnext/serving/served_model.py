"""A model as it is served: its predictor, its queue, and its name."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from resnext.detection.export.engines import Detections
from resnext.serving.batcher import Batcher, Delivery, Report, measure_seconds
from resnext.serving.predictors import ClassifierPredictor, DetectorPredictor

WARM_UP_IMAGE = (480, 640, 3)  # of a detector


class ClassifierRow(NamedTuple):
    """What a classifier's network computed for one image."""

    logits: np.ndarray  # float32 [K]
    cam: np.ndarray | None  # float32 [K, h, w]


class ServedModel:
    """A model with its queue.

    Args:
        name: The name in addresses and answers.
        predictor: A ``ClassifierPredictor`` or a ``DetectorPredictor``.
        task: "classification" or "detection".
        sizes: The sizes of a batch that a classifier is prepared for; others are padded.
        streams: How many batches run at the same time.
        architecture: The name of the network.
    """

    def __init__(
        self,
        name: str,
        predictor: ClassifierPredictor | DetectorPredictor,
        task: str = "classification",
        *,
        sizes: Sequence[int] = (1, 2, 4, 8),
        streams: int = 1,
        architecture: str = "",
    ) -> None:
        self.name, self.task, self.architecture = name, task, architecture
        self.predictor: Any = predictor
        self.streams = streams
        self.takes_pictures = task == "detection" or getattr(predictor, "input", "pixels") == "picture"
        self.sizes = [1] if self.takes_pictures else list(sizes)
        self.classes: tuple[str, ...] = tuple(predictor.classes or ())
        self.batcher: Batcher[np.ndarray, ClassifierRow | Detections] | None = None

    def start(self, deliver: "Delivery[np.ndarray, ClassifierRow | Detections]", report: Report | None = None) -> None:
        """Prepare the engine for every size of a batch, and start the queue. Takes seconds to minutes."""
        compute: Callable[[list[np.ndarray]], Sequence[ClassifierRow | Detections]]
        compute = self._detect if self.task == "detection" else self._classify
        image = self._make_image()
        if self.task != "detection":
            self.predictor.warm_up(self.sizes)
        first = compute([image])[0]
        if not self.classes and isinstance(first, ClassifierRow):
            self.classes = tuple(f"class {index}" for index in range(len(first.logits)))
        seconds = measure_seconds(lambda size: compute([image] * size), self.sizes)
        self.batcher = Batcher(
            compute, deliver, seconds=seconds, streams=self.streams, report=report, probe=image, name=self.name
        )
        self.batcher.start()

    def _make_image(self) -> np.ndarray:
        """Return a black image of the kind that the predictor takes."""
        if self.task == "detection":
            return np.zeros(WARM_UP_IMAGE, np.uint8)
        p = self.predictor.preprocessing
        return np.zeros((p.image_size, p.image_size, p.channels), np.uint8)

    def _classify(self, images: list[np.ndarray]) -> list[ClassifierRow]:
        count = len(images)
        if self.takes_pictures:
            batch = images[0][None]
        else:
            size = min(size for size in self.sizes if size >= count)
            batch = np.zeros((size, *images[0].shape), np.uint8)
            np.stack(images, out=batch[:count])
        outputs = self.predictor.infer(batch)
        cam = outputs.cam
        return [ClassifierRow(outputs.logits[i], None if cam is None else cam[i]) for i in range(count)]

    def _detect(self, images: list[np.ndarray]) -> list[Detections]:
        return [self.predictor.detect(image) for image in images]

    def find_fault(self) -> str | None:
        """Say why the model cannot answer; None if it can."""
        return "it is being loaded" if self.batcher is None else self.batcher.find_fault()

    def stop(self, timeout: float) -> bool:
        """Finish the queue; return whether it was finished in time."""
        return self.batcher is None or self.batcher.stop(timeout)


def list_sizes(largest: int) -> list[int]:
    """List the sizes of batches up to ``largest``: the powers of two, and ``largest`` itself."""
    sizes = [1]
    while sizes[-1] * 2 <= largest:
        sizes.append(sizes[-1] * 2)
    return sizes if sizes[-1] == largest else [*sizes, largest]
