"""The ONNX Runtime engine."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from resnext.deploy.engines import Outputs
from resnext.errors import WorkError


def create_session(model: bytes, threads: int) -> Any:
    """Create an onnxruntime.InferenceSession on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0" if threads == 1 else "1")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class OnnxEngine:
    """Run an ONNX model of one input in an ONNX Runtime session."""

    def __init__(self, model: bytes, threads: int) -> None:
        self.session = create_session(model, threads)
        self.input = self.session.get_inputs()[0].name
        self.outputs = [output.name for output in self.session.get_outputs()]

    def __call__(self, images: np.ndarray) -> Outputs:
        """Compute the outputs of a batch."""
        session = self.session
        if session is None:
            raise WorkError("the engine is closed")
        arrays = session.run(self.outputs, {self.input: np.ascontiguousarray(images)})
        return Outputs.from_named(dict(zip(self.outputs, arrays, strict=True)))

    def warm_up(self, shapes: Iterable[tuple[int, ...]]) -> None:
        """Do nothing: ONNX Runtime compiles nothing for a shape."""

    def close(self) -> None:
        """Release the session; calls that are running end first."""
        self.session = None
