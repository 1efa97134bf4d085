"""Classify images, and report those that could not be read. torch is imported only for networks in memory."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from resnext.errors import RequestError
from resnext.evaluation.images import ImageInput
from resnext.evaluation.outputs import ImageClassifier, compute_outputs, is_image_classifier

if TYPE_CHECKING:
    from torch import Tensor

    from resnext.evaluation.classifier import Classifier


@dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction for one image: ``probabilities`` (float64 [K]), or the ``error`` that prevented it."""

    path: str | None  # None for an image in memory
    classes: tuple[str, ...]
    probabilities: np.ndarray | None = None
    error: str | None = None
    top_k: int = 1  # how many classes ``top`` returns by default
    maps: np.ndarray | None = None  # float32 [top_k, h, w]: class activation maps of the first ``top_k`` classes

    def top(self, count: int | None = None) -> list[tuple[str, float]]:
        """Return the ``count`` most probable classes with their probabilities; equal ones in class order."""
        if self.probabilities is None:
            return []
        count = self.top_k if count is None else count
        order = _sort_classes(self.probabilities)[:count]
        return [(self.classes[i], float(self.probabilities[i])) for i in order]


Row = tuple[np.ndarray, np.ndarray | None]  # logits [K], class activation maps [K, h, w]


def predict(
    model: "Classifier | ImageClassifier",
    images: ImageInput | Iterable[ImageInput],
    top_k: int = 1,
    *,
    explain: bool = False,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> list[Prediction]:
    """Classify images on the device of ``model``.

    Args:
        model: A network with class names and preprocessing, as ``load`` returns it, or a ``Predictor``.
        images: Paths, PIL images, arrays (uint8 [H, W, 3] or [H, W]), or the bytes of image files, also as open
            binary files; mixed, or a single one.
        top_k: How many classes ``Prediction.top()`` returns; ``Prediction.probabilities`` has all.
        explain: Whether to compute where the network looks: ``Prediction.maps``, for the first ``top_k`` classes.
        batch_size: Images per forward pass.
        progress: Called as ``progress(done)`` after each batch.

    Returns:
        One Prediction per image, in order. An image that cannot be read gets an ``error``; the others are predicted.

    Raises:
        RequestError: The weights have no preprocessing or no classifier, an item is not an image, or ``explain`` is
            impossible: the exported file, or the predictor, has no class activation maps.
    """
    if top_k < 1:
        raise RequestError(f"top_k must be at least 1, not {top_k}")
    if model.architecture.num_classes == 0:
        raise RequestError("the network has no classifier (num_classes 0), so it cannot classify images")
    classes = model.classes or tuple(f"class {i}" for i in range(model.architecture.num_classes))
    predictions = []
    for path, value in _compute_rows(model, images, explain, batch_size, progress):
        if isinstance(value, str):
            predictions.append(Prediction(path, classes, error=value, top_k=top_k))
            continue
        logits, cam = value
        if not np.isfinite(logits).all():
            predictions.append(Prediction(path, classes, error="the network's output is not finite", top_k=top_k))
            continue
        shares = compute_softmax(logits)
        maps = None if cam is None else cam[_sort_classes(shares)[:top_k]]
        predictions.append(Prediction(path, classes, shares, top_k=top_k, maps=maps))
    return predictions


def _compute_rows(
    model: "Classifier | ImageClassifier",
    images: ImageInput | Iterable[ImageInput],
    explain: bool,
    batch_size: int,
    progress: Callable[[int], None] | None,
) -> list[tuple[str | None, Row | str]]:
    """Compute logits, and maps if they are wanted, of each image; or why it could not be read."""
    if is_image_classifier(model):
        if explain and not model.has_cam:
            raise RequestError("this predictor has no class activation maps; export or build it with cam")
        classifier = model

        def infer_rows(inputs: list[np.ndarray]) -> list[Row]:
            outputs = classifier.infer_all(inputs)
            return _pair(outputs.logits, outputs.cam if explain else None)

        return compute_outputs(model.prepare, infer_rows, images, batch_size, progress)
    from resnext.evaluation import network_outputs
    from resnext.model.network import Network

    network = model
    if explain and not isinstance(network, Network):
        raise RequestError("class activation maps need a network of this package")

    def compute_rows(inputs: "Tensor") -> list[Row]:
        if explain and isinstance(network, Network):
            return _pair(*network_outputs.compute_network_cam(network, inputs))
        return _pair(network_outputs.compute_network_logits(network, inputs), None)

    return network_outputs.compute_network_outputs(network, compute_rows, images, batch_size, progress)


def _pair(logits: np.ndarray, cam: np.ndarray | None) -> list[Row]:
    return [(row, None if cam is None else cam[index]) for index, row in enumerate(logits)]


def _sort_classes(probabilities: np.ndarray) -> np.ndarray:
    """Return the indices of the classes, the most probable first; equal ones in class order."""
    return np.argsort(-probabilities, kind="stable")


def compute_softmax(logits: np.ndarray) -> np.ndarray:
    """Compute the softmax over the last axis, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    shares: np.ndarray = shifted / shifted.sum(axis=-1, keepdims=True)
    return shares
