"""A classifier and a detector in numpy, whose answers can be computed by hand."""

import io
import threading
import time
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from resnext.data.preprocessing import Preprocessing
from resnext.data.transforms.eval_view import prepare_pixels
from resnext.detection.export.engines import Detections

CLASSES = ("red", "green", "blue")


class Outputs(NamedTuple):
    logits: np.ndarray
    cam: np.ndarray | None


def make_preprocessing(**values: Any) -> Preprocessing:
    options: dict[str, Any] = {"image_size": 8, "resize": 8, "mean": (0.0,) * 3, "std": (1.0,) * 3, "channels": 3}
    return Preprocessing(**options | values)


class FakeClassifier:
    """Its logits are ten times the mean of the colours; its maps are the colours of the quarters of the image."""

    def __init__(self, seconds: float = 0.0, **preprocessing: Any) -> None:
        self.preprocessing = make_preprocessing(**preprocessing)
        self.classes: tuple[str, ...] | None = CLASSES
        self.engine, self.provenance = "fp32 on numpy", {"source": "fake", "path": "/secret/place"}
        self.has_cam, self.input = True, "pixels"
        self.seconds = seconds  # of an image
        self.batches: list[int] = []
        self.warmed: list[int] = []
        self.failure: BaseException | None = None
        self.gate = threading.Event()
        self.gate.set()

    def prepare(self, image: Image.Image) -> np.ndarray:
        return prepare_pixels(image, self.preprocessing)

    def infer(self, pixels: np.ndarray) -> Outputs:
        self.gate.wait()
        self.batches.append(len(pixels))
        if self.failure is not None:
            raise self.failure
        if self.seconds:
            time.sleep(self.seconds * len(pixels))
        n, side = len(pixels), pixels.shape[1] // 2
        quarters = pixels.reshape(n, 2, side, 2, side, 3).mean((2, 4)).transpose(0, 3, 1, 2) / 25.5
        cam = quarters.astype(np.float32)
        return Outputs(cam.mean((2, 3)), cam)

    def warm_up(self, sizes: list[int]) -> None:
        self.warmed = list(sizes)

    def close(self) -> None:
        pass


class FakeDetector:
    """Finds the whole image, and a box that nobody believes in."""

    classes, preprocessing = ("thing",), make_preprocessing()
    engine, provenance = "fp32 on numpy", {}

    def detect(self, image: np.ndarray) -> Detections:
        height, width = image.shape[:2]
        boxes = np.array([[0, 0, width, height], [1, 1, 2, 2]], np.float32)
        return Detections(boxes, np.array([0, 7]), np.array([0.875, 0.125], np.float32))

    def close(self) -> None:
        pass


def make_picture(
    size: tuple[int, int] = (16, 12), color: tuple[int, int, int] = (255, 0, 0), kind: str = "PNG"
) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, kind)
    return file.getvalue()
