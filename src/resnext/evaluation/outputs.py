"""Prepare images in parallel threads and compute a row of output for each. Without torch."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from typing_extensions import TypeIs

from resnext.data.dataset import BadImageError
from resnext.data.preprocessing import Preprocessing
from resnext.environment import count_available_cores
from resnext.errors import RequestError
from resnext.evaluation.images import ImageInput, get_image_path, iterate_images, split_into_batches
from resnext.weights.presets import PREPROCESSINGS

if TYPE_CHECKING:
    from resnext.evaluation.classifier import Classifier
    from resnext.model.architecture import Architecture

Row = TypeVar("Row")
READER_THREADS = min(8, count_available_cores())  # Pillow decodes without holding the GIL


class Outputs(Protocol):
    """Logits [N, K], and class activation maps [N, K, h, w] where they were computed."""

    @property
    def logits(self) -> np.ndarray:
        """float32 [N, K]."""

    @property
    def cam(self) -> np.ndarray | None:
        """float32 [N, K, h, w], signed, without the bias of the classifier."""


class ImageClassifier(Protocol):
    """A classifier that prepares images and computes logits by itself, without torch: a ``Predictor``."""

    architecture: "Architecture"
    classes: tuple[str, ...] | None
    has_cam: bool

    def prepare(self, image: ImageInput) -> np.ndarray:
        """Return what the classifier takes of one image, uint8. Raises BadImageError."""

    def infer_all(self, inputs: list[np.ndarray]) -> Outputs:
        """Compute the outputs of prepared images."""


def compute_outputs(
    prepare: Callable[[ImageInput], np.ndarray],
    compute: Callable[[list[np.ndarray]], Iterable[Row]],
    images: ImageInput | Iterable[ImageInput],
    batch_size: int,
    progress: Callable[[int], None] | None,
) -> list[tuple[str | None, Row | str]]:
    """Prepare images in parallel, and compute their outputs batch by batch; ``compute`` gives a row for each image.

    Returns the path of each image, and its row of the output or why it could not be read.
    """
    if batch_size < 1:
        raise RequestError(f"the batch size must be at least 1, not {batch_size}")

    def try_prepare(image: ImageInput) -> np.ndarray | str:
        try:
            return prepare(image)
        except BadImageError as error:
            return error.reason

    outputs: list[tuple[str | None, Row | str]] = []
    with ThreadPoolExecutor(READER_THREADS) as pool:
        for chunk in split_into_batches(iterate_images(images), batch_size):
            inputs = list(pool.map(try_prepare, chunk))
            good = [item for item in inputs if isinstance(item, np.ndarray)]
            rows = iter(compute(good) if good else ())
            for image, item in zip(chunk, inputs, strict=True):
                outputs.append((get_image_path(image), item if isinstance(item, str) else next(rows)))
            if progress is not None:
                progress(len(outputs))
    return outputs


def get_preprocessing(model: "Classifier") -> Preprocessing:
    """Return the preprocessing stored with the weights. Raises RequestError if there is none."""
    if model.preprocessing is None:
        raise RequestError(
            "the weights do not say how images are prepared (size, crop, mean, std); add it by "
            f"`resnext convert WEIGHTS NEW.safetensors --preprocessing {'|'.join(PREPROCESSINGS)}|FILE.json`"
        )
    return model.preprocessing


def is_image_classifier(model: "Classifier | ImageClassifier") -> TypeIs[ImageClassifier]:
    """Return whether a model prepares images and normalises by itself."""
    return hasattr(model, "prepare")


def takes_whole_pictures(model: "Classifier | ImageClassifier") -> bool:
    """Return whether a model resizes and crops pictures itself: a file exported with ``--input picture``."""
    return getattr(model, "input", None) == "picture"
