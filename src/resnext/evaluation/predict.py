"""Classify images, and report those that could not be read. torch is imported only for networks in memory."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from typing_extensions import TypeIs

from resnext.errors import RequestError
from resnext.evaluation.images import ImageInput
from resnext.evaluation.outputs import compute_outputs

if TYPE_CHECKING:
    from resnext.evaluation.classifier import Classifier
    from resnext.model.architecture import Architecture


@dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction for one image: ``probabilities`` (float64 [K]), or the ``error`` that prevented it."""

    path: str | None  # None for an image in memory
    classes: tuple[str, ...]
    probabilities: np.ndarray | None = None
    error: str | None = None
    top_k: int = 1  # how many classes ``top`` returns by default

    def top(self, count: int | None = None) -> list[tuple[str, float]]:
        """Return the ``count`` most probable classes with their probabilities; equal ones in class order."""
        if self.probabilities is None:
            return []
        count = self.top_k if count is None else count
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.classes[i], float(self.probabilities[i])) for i in order]


class ImageClassifier(Protocol):
    """A classifier that prepares images and computes logits by itself, without torch: a ``Predictor``."""

    architecture: "Architecture"
    classes: tuple[str, ...] | None

    def prepare(self, image: ImageInput) -> np.ndarray:
        """Return what the classifier takes of one image, uint8. Raises BadImageError."""

    def compute_logits(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Compute logits float32 [N, K] of N prepared images."""


def predict(
    model: "Classifier | ImageClassifier",
    images: ImageInput | Iterable[ImageInput],
    top_k: int = 1,
    *,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> list[Prediction]:
    """Classify images on the device of ``model``.

    Args:
        model: A network with class names and preprocessing, as ``load`` returns it, or a ``Predictor``.
        images: Paths, PIL images, arrays (uint8 [H, W, 3] or [H, W]), or the bytes of image files, also as open
            binary files; mixed, or a single one.
        top_k: How many classes ``Prediction.top()`` returns; ``Prediction.probabilities`` has all.
        batch_size: Images per forward pass.
        progress: Called as ``progress(done)`` after each batch.

    Returns:
        One Prediction per image, in order. An image that cannot be read gets an ``error``; the others are predicted.

    Raises:
        RequestError: The weights have no preprocessing or no classifier, or an item is not an image.
    """
    if top_k < 1:
        raise RequestError(f"top_k must be at least 1, not {top_k}")
    if model.architecture.num_classes == 0:
        raise RequestError("the network has no classifier (num_classes 0), so it cannot classify images")
    if _is_image_classifier(model):
        outputs = compute_outputs(model.prepare, model.compute_logits, images, batch_size, progress)
    else:
        from resnext.evaluation.network_outputs import compute_network_outputs

        outputs = compute_network_outputs(model, model, images, batch_size, progress)
    classes = model.classes or tuple(f"class {i}" for i in range(model.architecture.num_classes))
    predictions = []
    for path, value in outputs:
        if isinstance(value, np.ndarray) and not np.isfinite(value).all():
            value = "the network's output is not finite"
        if isinstance(value, str):
            predictions.append(Prediction(path, classes, error=value, top_k=top_k))
        else:
            predictions.append(Prediction(path, classes, compute_softmax(value), top_k=top_k))
    return predictions


def compute_softmax(logits: np.ndarray) -> np.ndarray:
    """Compute the softmax over the last axis, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    shares: np.ndarray = shifted / shifted.sum(axis=-1, keepdims=True)
    return shares


def _is_image_classifier(model: "Classifier | ImageClassifier") -> TypeIs[ImageClassifier]:
    return hasattr(model, "prepare")
