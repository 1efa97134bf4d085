"""The operators that a graph of OpenVINO or ONNX is built from."""

from collections.abc import Sequence
from typing import Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import DTypeLike
from torch import Tensor, nn

from resnext.model.layers import PadShortcut

SLICE_END = np.iinfo(np.int64).max  # end of a slice that takes all
Value = TypeVar("Value")
Elementwise = Literal["add", "subtract", "multiply", "divide", "reciprocal", "maximum", "minimum", "absolute", "floor"]
Comparison = Literal["less", "less_equal", "equal"]


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

    def softmax(self, x: Value) -> Value:
        """Add a softmax over the last axis."""

    @property
    def real(self) -> type[np.floating]:
        """The most exact type in which the engine computes: float64, or float32 if it computes that in float32."""

    def constant(self, value: np.ndarray) -> Value:
        """Add a constant."""

    def cast(self, x: Value, dtype: DTypeLike) -> Value:
        """Add a conversion to another type of numbers."""

    def transpose(self, x: Value, axes: Sequence[int]) -> Value:
        """Add a permutation of the axes."""

    def gather(self, x: Value, indices: Value, axis: int) -> Value:
        """Add a selection along an axis, as ``numpy.take``."""

    def shape(self, x: Value) -> Value:
        """Add a look-up of the lengths of the axes, int64."""

    def arange(self, count: Value) -> Value:
        """Add the numbers 0, 1, ..., ``count`` - 1, int64, for a scalar ``count``."""

    def elementwise(self, operator: Elementwise | Comparison, *values: Value) -> Value:
        """Add an operator on one or two values of one type, broadcast as in numpy."""

    def where(self, condition: Value, x: Value, y: Value) -> Value:
        """Add ``x`` where ``condition`` holds and ``y`` elsewhere."""

    def sum(self, x: Value, axis: int) -> Value:
        """Add a sum over an axis, which stays with length 1."""

    def matmul(self, x: Value, y: Value) -> Value:
        """Add a matrix product over the last two axes, as ``numpy.matmul``."""

    def slice(self, x: Value, start: Value, stop: Value, axis: int) -> Value:
        """Add a slice along an axis, between scalars."""
