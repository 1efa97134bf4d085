"""Run a detector in PyTorch, as the other engines run its graph."""

import numpy as np
import torch
from PIL import Image

from resnext.detection.export.engines import Detections
from resnext.detection.model.faster_rcnn import FasterRcnn
from resnext.detection.model.fuse import prepare_for_inference
from resnext.detection.weights import copy_detector
from resnext.errors import WorkError


class TorchDetectorEngine:
    """A copy of a detector, prepared for inference, on the CPU."""

    def __init__(self, model: FasterRcnn) -> None:
        self._model: FasterRcnn | None = prepare_for_inference(copy_detector(model).to("cpu"))

    @torch.inference_mode()
    def __call__(self, picture: np.ndarray) -> Detections:
        """Detect objects in a picture, uint8 [H, W, 3], RGB."""
        model = self._model
        if model is None:
            raise WorkError("the engine is closed")
        view = model.preprocessing.apply(Image.fromarray(picture))
        (found,) = model.detect([view], [(picture.shape[0], picture.shape[1])])
        return Detections(*(found[name].numpy() for name in Detections._fields))

    def close(self) -> None:
        """Release the copy."""
        self._model = None
