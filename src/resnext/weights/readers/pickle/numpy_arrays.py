"""Rebuild NumPy's arrays, scalars and dtypes from a pickle, without NumPy's own ``__setstate__``.

Only numbers and fixed-length strings are supported, not Python objects, records or dates. Arrays are returned in the
byte order of this machine, with their own memory.
"""

import math
import re
from typing import Any

import numpy as np

from resnext.errors import RequestError
from resnext.weights.readers.pickle.allowed import encode_latin1
from resnext.weights.readers.pickle.values import AllowedName, Budget, LongString, Placeholder, describe, escape_name

# numbers by their size in bytes; strings by their length; BUILD sets the byte order
DTYPE_CODE_PATTERN = re.compile(r"b1|[iu][1248]|f[248]|c(?:8|16)|[SUa][1-9][0-9]{0,3}")
MAX_DIMENSIONS = 32
MAX_ELEMENTS = 2**40  # values
UNICODE_END = 0x110000


class DType(Placeholder):
    """A ``numpy.dtype``: made with its code; BUILD sets the byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "="

    def build(self, state: Any, budget: Budget) -> None:  # noqa: ARG002
        """Set the byte order."""
        match state:
            case (int(), "<" | ">" | "|" | "=" as order, None, None, None, *_):
                self.order = order
            case _:
                raise RequestError(f"has a NumPy dtype {escape_name(self.code)} with fields, which is not supported")

    def resolve(self) -> np.dtype[Any]:
        """Return the dtype."""
        return np.dtype(self.code if self.order == "|" else self.order + self.code)


class Array(Placeholder):
    """A ``numpy.ndarray``: made empty; BUILD sets dtype, shape and data."""

    __slots__ = ("axes", "data", "dtype", "order", "shape")

    def __init__(self) -> None:
        self.data: Any = None
        self.axes: tuple[int, ...] | None = None

    def build(self, state: Any, budget: Budget) -> None:
        """Set shape, dtype, order and data."""
        match state:
            case (int(), tuple() as shape, DType() as dtype, bool() | int() as fortran, data):
                self.set_data(data, dtype, shape, "F" if fortran else "C", budget)
            case _:
                raise RequestError("has a NumPy array without shape, dtype and data")

    def set_data(self, data: Any, dtype: DType, shape: tuple[Any, ...], order: str, budget: Budget) -> None:
        """Set the data, after a check that they are the bytes of such an array."""
        if isinstance(data, list):
            raise RequestError("has a NumPy array of Python objects, which are not data")
        if isinstance(data, str):
            data = encode_latin1(data)
        if not isinstance(data, bytes | bytearray | LongString):
            raise RequestError(f"has a NumPy array made of {describe(data)}")
        if len(shape) > MAX_DIMENSIONS or not all(type(side) is int and side >= 0 for side in shape):
            raise RequestError("has a NumPy array of an invalid shape")
        if math.prod(max(side, 1) for side in shape) >= MAX_ELEMENTS:
            raise RequestError("has a NumPy array that is too large")
        if isinstance(data, LongString) and data.kind == "utf8":
            raise RequestError("has a NumPy array made of text")
        size = data.length if isinstance(data, LongString) else len(data)
        self.dtype, self.shape, self.order = dtype.resolve(), shape, order
        if math.prod(shape) * self.dtype.itemsize != size:
            raise RequestError(f"has a NumPy array of shape {shape} and {self.dtype} with {size:,} bytes of data")
        budget.charge(size)
        self.data = data

    def resolve(self) -> np.ndarray[Any, Any]:
        """Return the array. Its bytes are read now if they are still in the file."""
        if self.data is None:
            raise RequestError("has a NumPy array without data")
        flat = np.empty(math.prod(self.shape), self.dtype)
        buffer = flat.view(np.uint8).data
        if isinstance(self.data, LongString):
            self.data.read_into(buffer)
        elif flat.size:
            buffer[:] = self.data
        self.data = None  # free it: it may be as large as the array
        array = _to_native(flat).reshape(self.shape, order="F" if self.order == "F" else "C")
        return array if self.axes is None else array.transpose(self.axes)


def _to_native(flat: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Convert to this machine's byte order, and make sure that all values are valid for the dtype."""
    native = flat.dtype.newbyteorder("=")
    if flat.dtype != native:
        flat = flat.byteswap(inplace=True).view(native)
    if flat.dtype.kind == "b":
        np.minimum(flat.view(np.uint8), 1, out=flat.view(np.uint8))
    if flat.dtype.kind == "U" and flat.size and flat.view(np.uint32).max() >= UNICODE_END:
        raise RequestError("has a NumPy array of text with invalid characters")
    return flat


def _make_dtype(arguments: tuple[Any, ...], budget: Budget) -> DType:  # noqa: ARG001
    match arguments:
        case (str() as code, bool() | int(), bool() | int()) | (str() as code,):
            if not DTYPE_CODE_PATTERN.fullmatch(code):
                raise RequestError(
                    f"has NumPy values of dtype {escape_name(code)}; only numbers and text are supported"
                )
            return DType(code.replace("a", "S"))
    raise RequestError("has a malformed NumPy dtype")


def _make_array(arguments: tuple[Any, ...], budget: Budget) -> Array:  # noqa: ARG001
    match arguments:
        case (AllowedName(name="numpy.ndarray"), (0,), str() | bytes()):
            return Array()
    raise RequestError("has a NumPy array of a subclass, which is not supported")


def _make_scalar(arguments: tuple[Any, ...], budget: Budget) -> Any:
    match arguments:
        case (DType() as dtype, data):
            array = Array()
            array.set_data(data, dtype, (1,), "C", budget)
            return array.resolve()[0]
    raise RequestError("has a malformed NumPy scalar")


def _make_array_from_buffer(arguments: tuple[Any, ...], budget: Budget) -> Array:
    """Handle ``_frombuffer`` of protocol 5; ``axes`` is the permutation of a transposed array."""
    match arguments:
        case (data, DType() as dtype, tuple() as shape, "C" | "F" as order):
            axes = None
        case (data, DType() as dtype, tuple() as shape, "K", tuple() as axes) if len(axes) == len(shape):
            order = "C"
            if not all(type(axis) is int for axis in axes) or sorted(axes) != list(range(len(shape))):
                raise RequestError("has a NumPy array with invalid axes")
        case _:
            raise RequestError("has a NumPy array without shape, dtype and data")
    array = Array()
    array.set_data(data, dtype, shape, order, budget)
    array.axes = axes
    return array


ALLOWED_NAMES: dict[str, Any] = {
    "numpy.ndarray": AllowedName("numpy.ndarray"),
    "numpy.dtype": AllowedName("numpy.dtype", _make_dtype),
} | {
    f"{core}.{name}": AllowedName(name, make)
    for core in ("numpy.core", "numpy._core")
    for name, make in (
        ("multiarray._reconstruct", _make_array),
        ("multiarray.scalar", _make_scalar),
        ("numeric._frombuffer", _make_array_from_buffer),
    )
}
