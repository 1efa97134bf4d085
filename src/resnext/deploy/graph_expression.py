"""Write the operators of a graph as arithmetic."""

from collections.abc import Sequence
from typing import Generic, Self, get_args

import numpy as np
from numpy.typing import DTypeLike

from resnext.deploy.graph_builder import Comparison, Elementwise, GraphBuilder, Value


class Expression(Generic[Value]):
    """A value of a graph on which ``+``, ``<`` and so on add operators. Plain numbers become constants of its type.

    There is no ``/``: OpenVINO rewrites a division of fractions to other operators, which lose the mark of
    ``OpenVinoGraph`` that keeps them in float32.
    """

    def __init__(self, builder: GraphBuilder[Value], value: Value, dtype: DTypeLike) -> None:
        self.builder, self.value, self.dtype = builder, value, np.dtype(dtype)

    def __add__(self, other: "Self | float") -> Self:
        return self._apply("add", other)

    def __sub__(self, other: "Self | float") -> Self:
        return self._apply("subtract", other) if isinstance(other, Expression) else self + -other

    def __mul__(self, other: "Self | float") -> Self:
        return self._apply("multiply", other)

    def __lt__(self, other: "Self | float") -> Self:
        return self._apply("less", other)

    def __le__(self, other: "Self | float") -> Self:
        return self._apply("less_equal", other)

    def __abs__(self) -> Self:
        return self._wrap(self.builder.elementwise("absolute", self.value))

    def __floordiv__(self, other: "Self | int") -> Self:
        """Divide integers >= 0, rounding down; exact for a quotient below 2**22 where OpenVINO divides in float32."""
        divisor = other if isinstance(other, Expression) else self.constant(other)
        quotient = self._apply("divide", divisor)
        rest = self - quotient * divisor
        return quotient + (divisor <= rest).cast(self.dtype) - (rest < 0).cast(self.dtype)

    def __mod__(self, other: int) -> Self:
        return self - self // other * other

    def equals(self, other: "Self | float") -> Self:
        """Return where two values are equal."""
        return self._apply("equal", other)

    def maximum(self, other: "Self | float") -> Self:
        """Return the larger of two values."""
        return self._apply("maximum", other)

    def minimum(self, other: "Self | float") -> Self:
        """Return the smaller of two values."""
        return self._apply("minimum", other)

    def reciprocal(self) -> Self:
        """Divide one by this value, which is positive."""
        return self._wrap(self.builder.elementwise("reciprocal", self.value))

    def floor(self) -> Self:
        """Round down."""
        return self._wrap(self.builder.elementwise("floor", self.value))

    def where(self, condition: Self, other: "Self | float") -> Self:
        """Return this value where ``condition`` holds, and the other elsewhere."""
        return self._wrap(self.builder.where(condition.value, self.value, self._promote(other)))

    def sum(self, axis: int) -> Self:
        """Sum over an axis, which stays with length 1."""
        return self._wrap(self.builder.sum(self.value, axis))

    def matmul(self, other: Self) -> Self:
        """Multiply matrices."""
        return self._wrap(self.builder.matmul(self.value, other.value))

    def transpose(self, axes: Sequence[int]) -> Self:
        """Permute the axes."""
        return self._wrap(self.builder.transpose(self.value, axes))

    def cast(self, dtype: DTypeLike) -> Self:
        """Convert to another type."""
        return type(self)(self.builder, self.builder.cast(self.value, dtype), dtype)

    def constant(self, value: "float | np.ndarray") -> Self:
        """Return a constant of this value's type."""
        return self._wrap(self.builder.constant(np.asarray(value, self.dtype)))

    def _promote(self, other: "Self | float") -> Value:
        return other.value if isinstance(other, Expression) else self.constant(other).value

    def _apply(self, operator: Elementwise | Comparison, other: "Self | float") -> Self:
        value = self.builder.elementwise(operator, self.value, self._promote(other))
        return type(self)(self.builder, value, bool if operator in get_args(Comparison) else self.dtype)

    def _wrap(self, value: Value) -> Self:
        return type(self)(self.builder, value, self.dtype)
