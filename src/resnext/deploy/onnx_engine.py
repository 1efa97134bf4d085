"""The ONNX Runtime engine."""

import numpy as np
import torch
from torch import Tensor


class OnnxEngine:
    """Run a network in an ONNX Runtime session, in fp32."""

    def __init__(self, model: bytes, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def __call__(self, images: Tensor) -> Tensor:
        """Compute logits of normalised images."""
        return torch.from_numpy(self.session.run(None, {"images": np.ascontiguousarray(images.numpy())})[0])
