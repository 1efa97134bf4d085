"""The PyTorch engines: the network itself, the folded network, and the folded network on oneDNN's fused operators.

``torch.ops.mkldnn`` has the operators that inductor's compiled code calls: convolution, sum and ReLU in one pass over
memory, with weights in a layout prepared beforehand. They are not a documented interface. So their results are compared
with the network's before use (``engine_selection.py``), and a PyTorch without them uses the other engines.
"""

import copy
from typing import cast

import torch
from torch import Tensor, nn

from resnext.deploy.engines import Engine, EngineConfig
from resnext.deploy.fold import ConvAct, FoldedNetwork
from resnext.device import autocast
from resnext.errors import WorkError
from resnext.model.network import Network

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def build_pytorch_engine(config: EngineConfig, network: Network, folded: FoldedNetwork, precision: str) -> Engine:
    """Build an engine. Raises WorkError if it needs oneDNN's fused operators and this PyTorch lacks them."""
    if config.form == "network":
        return PlainEngine(network, precision)
    if config.form == "folded":
        return FoldedEngine(folded, precision)
    if not has_fused_convolutions():
        raise WorkError("this PyTorch build has no fused convolutions of oneDNN")
    return FusedEngine(folded, precision, config.piece)


def has_fused_convolutions() -> bool:
    """Return whether this PyTorch build has oneDNN's fused convolutions."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


class PlainEngine:
    """Run the network as it was trained (under autocast for bf16): the baseline of all speed comparisons."""

    def __init__(self, network: Network, precision: str) -> None:
        self.network, self.precision = network, precision

    def __call__(self, images: Tensor) -> Tensor:
        """Compute logits of normalised images."""
        with torch.inference_mode(), autocast(images.device, self.precision):
            return cast(Tensor, self.network(images)).float()


class FoldedEngine:
    """Run the folded network in channels_last."""

    def __init__(self, folded: FoldedNetwork, precision: str) -> None:
        self.dtype = DTYPES[precision]
        self.model = copy.deepcopy(folded).to(self.dtype).to(memory_format=torch.channels_last)

    def __call__(self, images: Tensor) -> Tensor:
        """Compute logits of normalised images."""
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            x = images.to(self.dtype, memory_format=torch.channels_last)
            return cast(Tensor, self.model(x)).float()


class FusedEngine(FoldedEngine):
    """Run the folded network on oneDNN's fused operators, in micro-batches of ``piece`` images (0: the whole batch).

    Feature maps of a small micro-batch stay in the processor's cache.
    """

    def __init__(self, folded: FoldedNetwork, precision: str, piece: int) -> None:
        super().__init__(folded, precision)
        self.piece = piece
        _replace_with_fused(self.model)

    def __call__(self, images: Tensor) -> Tensor:
        """Compute logits of normalised images."""
        forward = super().__call__
        if not self.piece or len(images) <= self.piece:
            return forward(images)
        return torch.cat([forward(piece) for piece in images.split(self.piece)])


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
