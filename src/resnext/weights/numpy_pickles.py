"""Rebuild NumPy's arrays, scalars and dtypes from a pickle, without NumPy's own ``__setstate__``.

Only numbers and fixed-length strings are supported, not Python objects, records or dates. Arrays are returned in the
byte order of this machine, with their own memory.
"""

import math
import re
from typing import Any

import numpy as np

from resnext.errors import RequestError
from resnext.weights.pickle_names import latin1
from resnext.weights.pickle_values import Meter, Named, Payload, Shell, described, shown

# numbers by their size in bytes; strings by their length; BUILD sets the byte order
CODE = re.compile(r"b1|[iu][1248]|f[248]|c(?:8|16)|[SUa][1-9][0-9]{0,3}")
MOST_DIMENSIONS = 32
LARGEST = 2**40  # values
UNICODE_END = 0x110000


class DType(Shell):
    """A ``numpy.dtype``: made with its code; BUILD sets the byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "="

    def build(self, state: Any, meter: Meter) -> None:  # noqa: ARG002
        """Set the byte order."""
        match state:
            case (int(), "<" | ">" | "|" | "=" as order, None, None, None, *_):
                self.order = order
            case _:
                raise RequestError(f"has a NumPy dtype {shown(self.code)} with fields, which is not supported")

    def settle(self) -> np.dtype[Any]:
        """Return the dtype."""
        return np.dtype(self.code if self.order == "|" else self.order + self.code)


class Array(Shell):
    """A ``numpy.ndarray``: made empty; BUILD sets dtype, shape and data."""

    __slots__ = ("axes", "data", "dtype", "order", "shape")

    def __init__(self) -> None:
        self.data: Any = None
        self.axes: tuple[int, ...] | None = None

    def build(self, state: Any, meter: Meter) -> None:
        """Set shape, dtype, order and data."""
        match state:
            case (int(), tuple() as shape, DType() as dtype, bool() | int() as fortran, data):
                self.put(data, dtype, shape, "F" if fortran else "C", meter)
            case _:
                raise RequestError("has a NumPy array without shape, dtype and data")

    def put(self, data: Any, dtype: DType, shape: tuple[Any, ...], order: str, meter: Meter) -> None:
        """Set the data, after a check that they are the bytes of such an array."""
        if isinstance(data, list):
            raise RequestError("has a NumPy array of Python objects, which are not data")
        if isinstance(data, str):
            data = latin1(data)
        if not isinstance(data, bytes | bytearray | Payload):
            raise RequestError(f"has a NumPy array made of {described(data)}")
        if len(shape) > MOST_DIMENSIONS or not all(type(side) is int and side >= 0 for side in shape):
            raise RequestError("has a NumPy array of an invalid shape")
        if math.prod(max(side, 1) for side in shape) >= LARGEST:
            raise RequestError("has a NumPy array that is too large")
        if isinstance(data, Payload) and data.kind == "utf8":
            raise RequestError("has a NumPy array made of text")
        size = data.length if isinstance(data, Payload) else len(data)
        self.dtype, self.shape, self.order = dtype.settle(), shape, order
        if math.prod(shape) * self.dtype.itemsize != size:
            raise RequestError(f"has a NumPy array of shape {shape} and {self.dtype} with {size:,} bytes of data")
        meter.charge(size)
        self.data = data

    def settle(self) -> np.ndarray[Any, Any]:
        """Return the array. Its bytes are read now if they are still in the file."""
        if self.data is None:
            raise RequestError("has a NumPy array without data")
        flat = np.empty(math.prod(self.shape), self.dtype)
        if flat.size:
            _fill(flat, self.data)
        self.data = None  # free it: it may be as large as the array
        array = _plain(flat).reshape(self.shape, order="F" if self.order == "F" else "C")
        return array if self.axes is None else array.transpose(self.axes)


def _fill(flat: np.ndarray[Any, Any], data: "bytes | bytearray | Payload") -> None:
    buffer = memoryview(flat.view(np.uint8))
    if isinstance(data, Payload):
        data.read_into(buffer)
    else:
        buffer[:] = data


def _plain(flat: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Convert to this machine's byte order, and make sure that all values are valid for the dtype."""
    native = flat.dtype.newbyteorder("=")
    if flat.dtype != native:
        flat = flat.byteswap(inplace=True).view(native)
    if flat.dtype.kind == "b":
        np.minimum(flat.view(np.uint8), 1, out=flat.view(np.uint8))
    if flat.dtype.kind == "U" and flat.size and flat.view(np.uint32).max() >= UNICODE_END:
        raise RequestError("has a NumPy array of text with invalid characters")
    return flat


def _dtype(arguments: tuple[Any, ...], meter: Meter) -> DType:  # noqa: ARG001
    match arguments:
        case (str() as code, bool() | int(), bool() | int()) | (str() as code,):
            if not CODE.fullmatch(code):
                raise RequestError(f"has NumPy values of dtype {shown(code)}; only numbers and text are supported")
            return DType(code.replace("a", "S"))
    raise RequestError("has a malformed NumPy dtype")


def _reconstruct(arguments: tuple[Any, ...], meter: Meter) -> Array:  # noqa: ARG001
    match arguments:
        case (Named(name="numpy.ndarray"), (0,), str() | bytes()):
            return Array()
    raise RequestError("has a NumPy array of a subclass, which is not supported")


def _scalar(arguments: tuple[Any, ...], meter: Meter) -> Any:
    match arguments:
        case (DType() as dtype, data):
            array = Array()
            array.put(data, dtype, (1,), "C", meter)
            return array.settle()[0]
    raise RequestError("has a malformed NumPy scalar")


def _frombuffer(arguments: tuple[Any, ...], meter: Meter) -> Array:
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
    array.put(data, dtype, shape, order, meter)
    array.axes = axes
    return array


NAMES: dict[str, Any] = {
    "numpy.ndarray": Named("numpy.ndarray"),
    "numpy.dtype": Named("numpy.dtype", _dtype),
} | {
    f"{core}.{name}": Named(name, make)
    for core in ("numpy.core", "numpy._core")
    for name, make in (
        ("multiarray._reconstruct", _reconstruct),
        ("multiarray.scalar", _scalar),
        ("numeric._frombuffer", _frombuffer),
    )
}
