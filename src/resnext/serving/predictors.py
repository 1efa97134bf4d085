"""What the server needs of a model, as protocols: ``deploy.Predictor`` and the detectors' predictor have it."""

from typing import Any, Protocol

import numpy as np
from PIL import Image

from resnext.data.preprocessing import Preprocessing
from resnext.detection.export.engines import Detections
from resnext.evaluation.outputs import Outputs


class ClassifierPredictor(Protocol):
    """A classifier on an engine. ``input`` is "picture" for models that resize inside: one image in a batch."""

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How images become the network's input."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the outputs, if they are known."""

    @property
    def engine(self) -> str:
        """Precision and engine in words."""

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the weights come from."""

    @property
    def has_cam(self) -> bool:
        """Whether ``infer`` gives class activation maps."""

    @property
    def input(self) -> str:
        """What ``infer`` takes: "pixels", "normalised" or "picture"."""

    def prepare(self, image: Image.Image) -> np.ndarray:
        """Return what ``infer`` takes of an upright image: uint8 [S, S, C], or [H, W, C] for input "picture"."""

    def infer(self, pixels: np.ndarray) -> Outputs:
        """Compute a batch, uint8 [N, S, S, C]. Thread-safe; releases the GIL."""

    def warm_up(self, sizes: list[int]) -> None:
        """Prepare for batches of these sizes, so that ``infer`` never compiles later."""

    def close(self) -> None:
        """Release the engine."""


class HasExif(Protocol):
    """The part of a detector's preprocessing that concerns the reading of images."""

    @property
    def exif(self) -> bool:
        """Whether images are turned upright by their EXIF orientation."""


class DetectorPredictor(Protocol):
    """An object detector on an engine."""

    @property
    def preprocessing(self) -> "HasExif":
        """How images are read."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the labels, if they are known."""

    @property
    def engine(self) -> str:
        """Precision and engine in words."""

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the weights come from."""

    def detect(self, image: np.ndarray) -> Detections:
        """Find objects in an upright image, uint8 [H, W, 3]."""

    def close(self) -> None:
        """Release the engine."""
