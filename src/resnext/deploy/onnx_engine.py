"""Running in ONNX Runtime, by way of PyTorch's exporter."""

import contextlib
import io
import logging
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def export(model: nn.Module, channels: int, size: int) -> bytes:
    """An ONNX model of a network, for images of any number and size."""
    file: Any = io.BytesIO()
    free = torch.export.Dim.DYNAMIC
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # it reports its progress there
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(2, channels, size, size),),
            file,
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: free, 2: free, 3: free},),
        )
    return file.getvalue()


class OnnxEngine:
    """An ONNX Runtime session, in fp32."""

    def __init__(self, model: bytes, threads: int) -> None:
        self.session = session(model, threads)

    def __call__(self, images: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run(None, {"images": np.ascontiguousarray(images.numpy())})[0])


def session(model: bytes, threads: int) -> Any:
    """A session on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
