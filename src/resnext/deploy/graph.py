"""Build the operator graph of a folded network directly, for OpenVINO or ONNX.

``torch.jit.trace`` and ``torch.onnx.export`` accept any model, but each call leaks memory (pytorch/pytorch#35600; 21
and 5 MB for ResNeXt-50), takes seconds, and fails or crashes when two threads call it. A folded network needs only
eight kinds of operators.
"""

from typing import Protocol, TypeVar, cast

import numpy as np
from torch import Tensor, nn

from resnext.deploy.fold import ConvAct, FoldedBlock, FoldedNetwork, ScaleAct
from resnext.model.layers import PadShortcut

SLICE_END = np.iinfo(np.int64).max  # end of a slice that takes all
Value = TypeVar("Value")


class GraphBuilder(Protocol[Value]):
    """Adds operators to a graph. Each method takes values of the graph and returns the operator's output."""

    def conv(self, x: Value, conv: nn.Conv2d) -> Value:
        """Add a convolution, with its bias if it has one."""

    def add(self, x: Value, y: Value) -> Value:
        """Add a sum."""

    def relu(self, x: Value) -> Value:
        """Add a ReLU."""

    def scale(self, x: Value, scale: Tensor, shift: Tensor) -> Value:
        """Add ``x * scale + shift`` with constants [C, 1, 1]."""

    def max_pool(self, x: Value, pool: nn.MaxPool2d) -> Value:
        """Add a max pool."""

    def pad_shortcut(self, x: Value, shortcut: PadShortcut) -> Value:
        """Add the subsampling and zero padding of shortcut A."""

    def mean(self, x: Value) -> Value:
        """Add the mean over pixels: [B, C, H, W] to [B, C]."""

    def linear(self, x: Value, linear: nn.Linear) -> Value:
        """Add a fully connected layer."""


def build_graph(folded: FoldedNetwork, x: Value, builder: GraphBuilder[Value]) -> Value:
    """Add the operators of ``folded.forward`` on images ``x`` to a graph; return the logits or pooled features."""
    x = _add_conv_act(folded.stem, x, builder)
    if isinstance(folded.pool, nn.MaxPool2d):
        x = builder.max_pool(x, folded.pool)
    for block in folded.blocks:
        x = _add_block(cast(FoldedBlock, block), x, builder)
    if folded.final_norm is not None:
        x = _add_scale_act(cast(ScaleAct, folded.final_norm), x, builder)
    x = builder.mean(x)
    return builder.linear(x, folded.fc) if isinstance(folded.fc, nn.Linear) else x


def to_pair(value: int | str | tuple[int, ...]) -> list[int]:
    """Convert a layer's size, stride or padding to [height, width]."""
    assert not isinstance(value, str)
    return [value, value] if isinstance(value, int) else list(value)


def _add_block(block: FoldedBlock, x: Value, to: GraphBuilder[Value]) -> Value:
    start = x if block.pre_norm is None else _add_scale_act(block.pre_norm, x, to)
    residual = None
    if isinstance(block.shortcut, nn.Identity):
        residual = x
    elif isinstance(block.shortcut, PadShortcut):
        residual = to.pad_shortcut(start, block.shortcut)
    elif block.shortcut is not None:
        residual = _add_conv_act(cast(ConvAct, block.shortcut), start, to)
    *inner, last = (cast(ConvAct, layer) for layer in block.layers)
    for layer in inner:
        start = _add_conv_act(layer, start, to)
    return _add_conv_act(last, start, to, residual)


def _add_conv_act(layer: ConvAct, x: Value, to: GraphBuilder[Value], residual: Value | None = None) -> Value:
    y = to.conv(x, layer.conv)
    if residual is not None:
        y = to.add(y, residual)
    return to.relu(y) if layer.act else y


def _add_scale_act(layer: ScaleAct, x: Value, to: GraphBuilder[Value]) -> Value:
    return to.relu(to.scale(x, layer.scale, layer.shift))
