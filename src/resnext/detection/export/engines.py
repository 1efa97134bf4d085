"""Run the graph of a detector in ONNX Runtime or OpenVINO, on the CPU. torch is not imported."""

from typing import Any, NamedTuple, Protocol

import numpy as np

from resnext.deploy.onnx_engine import create_session
from resnext.deploy.openvino_engine import CompiledModel
from resnext.deploy.signal_stack import preserve_signal_stack
from resnext.environment import count_available_cores
from resnext.errors import WorkError

OUTPUTS = ("boxes", "labels", "scores")  # names of a graph's outputs


class Detections(NamedTuple):
    """What a detector finds in one image, highest score first."""

    boxes: np.ndarray  # float32 [n, 4]: x1, y1, x2, y2 in pixels of the image
    labels: np.ndarray  # int64 [n], into the detector's classes
    scores: np.ndarray  # float32 [n]

    def select(self, rows: np.ndarray) -> "Detections":
        """Select detections by a mask or by indices."""
        return Detections(self.boxes[rows], self.labels[rows], self.scores[rows])


class DetectorEngine(Protocol):
    """A detector that is ready to run, from any thread."""

    def __call__(self, picture: np.ndarray) -> Detections:
        """Detect objects in a picture, uint8 [H, W, 3], RGB."""

    def close(self) -> None:
        """Release memory and threads."""


class OnnxDetectorEngine:
    """A detector in an ONNX Runtime session."""

    def __init__(self, model: bytes, threads: int) -> None:
        self._session = create_session(model, threads)
        self._input = self._session.get_inputs()[0].name

    def __call__(self, picture: np.ndarray) -> Detections:
        """Detect objects in a picture, uint8 [H, W, 3], RGB."""
        session = self._session
        if session is None:
            raise WorkError("the engine is closed")
        return Detections(*session.run(list(OUTPUTS), {self._input: np.ascontiguousarray(picture)[None]}))

    def close(self) -> None:
        """Release the session; calls that are running end first."""
        self._session = None


class OpenVinoDetectorEngine:
    """A detector in OpenVINO, compiled once for pictures of any size. A call owns its inference request."""

    def __init__(self, model: Any, threads: int) -> None:
        with preserve_signal_stack():
            self._compiled: CompiledModel | None = CompiledModel(model, "fp32", 1, threads)

    def __call__(self, picture: np.ndarray) -> Detections:
        """Detect objects in a picture, uint8 [H, W, 3], RGB."""
        compiled = self._compiled
        if compiled is None:
            raise WorkError("the engine is closed")
        with preserve_signal_stack():
            found = compiled.infer(np.ascontiguousarray(picture)[None])
        return Detections(*(found[name] for name in OUTPUTS))

    def close(self) -> None:
        """Release the idle requests, then the compiled model."""
        compiled, self._compiled = self._compiled, None
        if compiled is not None:
            with preserve_signal_stack():
                compiled.close()
                del compiled


def build_detector_engine(name: str, model: Any) -> DetectorEngine:
    """Build the engine ``name`` for its model: bytes of ONNX, or an openvino.Model."""
    threads = count_available_cores()
    return OnnxDetectorEngine(model, threads) if name == "onnxruntime" else OpenVinoDetectorEngine(model, threads)
