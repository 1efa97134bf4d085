"""Compute the pooled features of images."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from resnext.errors import RequestError, WorkError
from resnext.evaluation.images import ImageInput
from resnext.evaluation.network_outputs import compute_network_outputs
from resnext.evaluation.outputs import ImageClassifier
from resnext.files import atomic_write
from resnext.model.network import Network


def embed(
    model: "Network | ImageClassifier",
    images: ImageInput | Iterable[ImageInput],
    *,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Compute the pooled features of images: what the classifier gets. Images are prepared as for ``predict``.

    Args:
        model: A network with preprocessing, as ``load`` returns it, on the device to compute on.
        images: Paths, PIL images or arrays (uint8 [H, W, 3] or [H, W]), also mixed; or a single one.
        batch_size: Images per forward pass.
        progress: Called as ``progress(done)`` after each batch.

    Returns:
        float32 [N, features], one row per image, in order.

    Raises:
        RequestError: The weights have no preprocessing, or ``model`` is an inference engine, which has no features.
        WorkError: An image cannot be read.
    """
    embeddings = compute_embeddings(model, images, batch_size=batch_size, progress=progress)
    if embeddings.problems:
        path, reason = embeddings.problems[0]
        raise WorkError(f"{path or 'an image'} cannot be embedded: {reason}")
    return embeddings.features


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Pooled features of the images that could be read, and what was wrong with the others."""

    names: list[str | None]  # path of each row; None for an image in memory
    features: np.ndarray  # float32 [N, features]
    problems: list[tuple[str | None, str]]  # path and reason

    def write(self, path: Path) -> None:
        """Write ``names`` and ``features`` to an .npz file, atomically. Raises WorkError if it cannot be written."""
        with atomic_write(path) as file:
            np.savez(file, names=np.array([name or "" for name in self.names], dtype=np.str_), features=self.features)


def compute_embeddings(
    model: "Network | ImageClassifier",
    images: ImageInput | Iterable[ImageInput],
    *,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> Embeddings:
    """Compute the pooled features of images, as ``embed``, but without failing for images that cannot be read."""
    if not isinstance(model, Network):
        raise RequestError("an inference engine computes only logits; embed images with the network itself")

    def compute_features(inputs: Tensor) -> np.ndarray:
        pooled: np.ndarray = model.features(inputs, ["pooled"])["pooled"].cpu().float().numpy()
        return pooled

    outputs = compute_network_outputs(model, compute_features, images, batch_size, progress)
    rows = [(path, value) for path, value in outputs if isinstance(value, np.ndarray)]
    problems = [(path, value) for path, value in outputs if isinstance(value, str)]
    width = model.architecture.stages[-1].out_channels
    features = np.array([row for _, row in rows], np.float32).reshape(len(rows), width)
    return Embeddings([path for path, _ in rows], features, problems)
