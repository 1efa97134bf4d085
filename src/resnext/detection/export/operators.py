"""The operators of a detector's graph beyond those of a network: selections, and pooling of regions."""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from resnext.deploy.graph_builder import GraphBuilder, Value
from resnext.deploy.graph_expression import Expression

Unary = Literal["exp", "sigmoid", "sqrt"]


class DetectorGraphBuilder(GraphBuilder[Value], Protocol[Value]):
    """Adds the operators of a detector to a graph."""

    def unary(self, operator: Unary, x: Value) -> Value:
        """Add an operator on single numbers."""

    def divide(self, x: Value, y: Value) -> Value:
        """Add a division of floating point numbers, perhaps as a product with the reciprocal."""

    def concat(self, values: Sequence[Value], axis: int) -> Value:
        """Add a concatenation."""

    def reshape(self, x: Value, shape: Value) -> Value:
        """Add a change of the shape, an int64 value in which -1 stands for what remains."""

    def top_k(self, x: Value, count: Value, largest: bool = True) -> tuple[Value, Value]:
        """Add the selection of ``count`` (a scalar) numbers of [n], best first; return them and their indices, int64.

        Of equal numbers the first comes first.
        """

    def nonzero(self, x: Value) -> Value:
        """Add a search for the indices, int64 [k], where a condition [n] holds."""

    def nms(self, boxes: Value, scores: Value, iou: float) -> Value:
        """Add non-maximum suppression of boxes [G, n, 4] with scores [G, n] in each of G groups.

        Boxes with a score of 0 or below are dropped. Returns int64 [k, 2], group and index of each box that remains,
        sorted by group, then score (highest first), then index.
        """

    def roi_align(self, features: Value, boxes: Value, scale: float, size: int) -> Value:
        """Add RoIAlign with 2 x 2 samples per cell: boxes [n, 4] on a map [1, C, H, W] to [n, C, size, size]."""

    def roi_max_pool(self, features: Value, boxes: Value, scale: float, size: int) -> Value:
        """Add RoI max pooling: boxes [n, 4] on a map [1, C, H, W] to [n, C, size, size]."""

    def resize_nearest(self, x: Value, size: Value) -> Value:
        """Add nearest-neighbour resizing of [1, C, H, W] to the height and width ``size``, int64 [2]."""

    def pad_end(self, x: Value, counts: Value) -> Value:
        """Add ``counts`` (int64 [2]) rows below and columns right of [1, C, H, W], of zeros."""


def divide(to: DetectorGraphBuilder[Value], x: Expression[Value], y: Expression[Value]) -> Expression[Value]:
    """Divide floating point numbers."""
    return Expression(to, to.divide(x.value, y.value), x.dtype)


def get_side(to: GraphBuilder[Value], x: Value, axis: int) -> Expression[Value]:
    """Return the length of an axis, a scalar."""
    return Expression(to, to.gather(to.shape(x), to.constant(np.array(axis)), 0), np.int64)


def select_rows(x: Expression[Value], indices: Value, axis: int = 0) -> Expression[Value]:
    """Select along an axis."""
    return Expression(x.builder, x.builder.gather(x.value, indices, axis), x.dtype)


def reshape(
    to: DetectorGraphBuilder[Value], x: Expression[Value], *sides: "Expression[Value] | int"
) -> Expression[Value]:
    """Change the shape to ``sides``, integers or scalars of the graph; -1 stands for what remains."""
    if all(isinstance(side, int) for side in sides):
        return Expression(to, to.reshape(x.value, to.constant(np.array(sides, np.int64))), x.dtype)
    return Expression(to, to.reshape(x.value, stack_scalars(to, sides)), x.dtype)


def stack_scalars(to: DetectorGraphBuilder[Value], sides: "Sequence[Expression[Value] | int]") -> Value:
    """Stack integers and scalars of the graph, to int64 [n]."""
    one = to.constant(np.array([1], np.int64))
    parts = [
        to.constant(np.array([side], np.int64)) if isinstance(side, int) else to.reshape(side.value, one)
        for side in sides
    ]
    return to.concat(parts, 0)


def concat(to: DetectorGraphBuilder[Value], parts: Sequence[Expression[Value]], axis: int = 0) -> Expression[Value]:
    """Concatenate along an axis."""
    return Expression(
        to, to.concat([part.value for part in parts], axis) if len(parts) > 1 else parts[0].value, parts[0].dtype
    )


def arange(to: GraphBuilder[Value], count: Expression[Value]) -> Expression[Value]:
    """Return the integers 0, 1, ..., ``count`` - 1."""
    return Expression(to, to.arange(count.value), np.int64)


def best_first(
    to: DetectorGraphBuilder[Value], x: Expression[Value], most: int | None, *, largest: bool = True
) -> tuple[Expression[Value], Value]:
    """Sort [n] and keep the first ``most`` (None: all); return the numbers and their indices."""
    count = get_side(to, x.value, 0)
    values, indices = to.top_k(x.value, (count if most is None else count.minimum(most)).value, largest)
    return Expression(to, values, x.dtype), indices


def split_columns(boxes: Expression[Value]) -> list[Expression[Value]]:
    """Split boxes [..., 4] into their four columns [..., 1] along the last axis."""
    to = boxes.builder
    return [select_rows(boxes, to.constant(np.array([i])), -1) for i in range(4)]
