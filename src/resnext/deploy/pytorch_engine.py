"""The PyTorch engines: the network itself, the folded network, and the folded network on oneDNN's fused operators.

``torch.ops.mkldnn`` has the operators that inductor's compiled code calls: convolution, sum and ReLU in one pass over
memory, with weights in a layout prepared beforehand. They are not a documented interface. So their results are compared
with the network's before use (``engine_selection.py``), and a PyTorch without them uses the other engines.
"""

import copy
from collections.abc import Iterable
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from resnext.deploy.engines import Engine, EngineConfig, Outputs
from resnext.deploy.fold import ConvAct, FoldedNetwork
from resnext.device import autocast
from resnext.errors import WorkError
from resnext.model.network import Network

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def build_pytorch_engine(
    config: EngineConfig, network: Network, folded: FoldedNetwork, precision: str, with_cam: bool
) -> Engine:
    """Build an engine. Raises WorkError if it needs oneDNN's fused operators and this PyTorch lacks them."""
    if config.form == "network":
        return PlainEngine(network, precision)
    if config.form == "folded":
        return FoldedEngine(folded, precision, with_cam)
    if not has_fused_convolutions():
        raise WorkError("this PyTorch build has no fused convolutions of oneDNN")
    return FusedEngine(folded, precision, with_cam, config.piece)


def has_fused_convolutions() -> bool:
    """Return whether this PyTorch build has oneDNN's fused convolutions."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


class TorchEngine:
    """What the PyTorch engines share: numpy arrays in and out, nothing to prepare, nothing to release."""

    with_cam = False

    def __call__(self, images: np.ndarray) -> Outputs:
        """Compute the outputs of a batch."""
        # a copy if the array is read-only: torch warns of tensors that must not be written
        given = torch.from_numpy(images if images.flags.writeable else images.copy())
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            logits, cam = self.compute(given)
        return Outputs(logits.float().numpy(), None if cam is None else cam.float().numpy())

    def compute(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute logits, and class activation maps if the engine was built with them."""
        raise NotImplementedError

    def warm_up(self, shapes: Iterable[tuple[int, ...]]) -> None:
        """Run a batch of each shape, so that oneDNN has prepared its kernels."""
        for shape in shapes:
            self(np.zeros(shape, np.float32))

    def close(self) -> None:
        """Do nothing: memory is released with the engine."""


class PlainEngine(TorchEngine):
    """Run the network as it was trained (under autocast for bf16): the baseline of all speed comparisons."""

    def __init__(self, network: Network, precision: str) -> None:
        self.network, self.precision = network, precision

    def compute(self, images: Tensor) -> tuple[Tensor, None]:
        """Compute logits of normalised images."""
        with autocast(images.device, self.precision):
            return cast(Tensor, self.network(images)), None


class FoldedEngine(TorchEngine):
    """Run the folded network in channels_last."""

    def __init__(self, folded: FoldedNetwork, precision: str, with_cam: bool) -> None:
        self.dtype, self.with_cam = DTYPES[precision], with_cam
        self.model = copy.deepcopy(folded).to(self.dtype).to(memory_format=torch.channels_last)

    def compute(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute the outputs of normalised images."""
        x = images.to(self.dtype, memory_format=torch.channels_last)
        if not self.with_cam:
            return cast(Tensor, self.model(x)), None
        return self.model.classify_with_cam(x)


class FusedEngine(FoldedEngine):
    """Run the folded network on oneDNN's fused operators, in micro-batches of ``piece`` images (0: the whole batch).

    Feature maps of a small micro-batch stay in the processor's cache.
    """

    def __init__(self, folded: FoldedNetwork, precision: str, with_cam: bool, piece: int) -> None:
        super().__init__(folded, precision, with_cam)
        self.piece = piece
        _replace_with_fused(self.model)

    def compute(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute the outputs of normalised images."""
        forward = super().compute
        if not self.piece or len(images) <= self.piece:
            return forward(images)
        logits, maps = zip(*map(forward, images.split(self.piece)), strict=True)
        return torch.cat(logits), torch.cat(maps) if self.with_cam else None


class FusedConv(nn.Module):
    """``ConvAct`` as one fused operator. It may overwrite ``residual``, which no later layer reads."""

    def __init__(self, layer: ConvAct) -> None:
        super().__init__()
        conv = layer.conv
        self.act = layer.act
        self.padding, self.stride, self.dilation = list(conv.padding), list(conv.stride), list(conv.dilation)
        self.groups, self.bias = conv.groups, conv.bias
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(
            conv.weight.detach(), self.padding, self.stride, self.dilation, self.groups, None
        )

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Compute the layer, as ``ConvAct.forward``."""
        shape = (self.padding, self.stride, self.dilation, self.groups)
        if residual is None:
            relu = "relu" if self.act else "none"
            y = torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *shape, relu, [], "")
        else:
            then = "relu" if self.act else None
            y = torch.ops.mkldnn._convolution_pointwise_.binary(
                residual, x, self.weight, self.bias, *shape, "add", None, then, [], ""
            )
        return cast(Tensor, y)


def _replace_with_fused(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, ConvAct):
            setattr(module, name, FusedConv(child))
        else:
            _replace_with_fused(child)
