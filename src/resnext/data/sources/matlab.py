"""The little of MATLAB 5's files that ImageNet's devkit needs: a struct array of numbers and words.

SciPy reads all of the format, but a crafted file makes its reader crash the process; this one only slices bytes. The
format: MathWorks, "MAT-File Format", chapter 1 (level 5).
"""

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

HEADER = 128  # bytes of text, version and byte order
INFLATED = 1 << 24  # bytes that all compressed elements may grow to
MOST = 100_000  # structs
MATRIX, COMPRESSED = 14, 15  # kinds of elements
STRUCT, CHAR = 2, 4  # classes of matrices
NUMBERS = {1: "<i1", 2: "<u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16-le", 16: "utf-8", 17: "utf-16-le"}

Value = float | str | None


class Element(NamedTuple):
    """What everything in a file is made of."""

    kind: int
    content: memoryview


class Matrix(NamedTuple):
    """An array of any class, its content not read yet."""

    kind: int
    length: int
    name: str
    rest: Iterator[Element]


def read_structs(content: bytes, name: str, fields: Sequence[str]) -> list[tuple[Value, ...]]:
    """The ``fields`` of each struct of the array called ``name``: single numbers and texts; None for all else.

    Raises ValueError for what is no such file, has no such array or fields, or is beyond the bounds of this module.
    """
    if content[124:HEADER] != b"\x00\x01IM":
        raise ValueError("its header is not that of MATLAB 5")
    for element in _inflated(memoryview(content)[HEADER:]):
        matrix = _matrix(element)
        if matrix.name == name:
            return _structs(matrix, fields)
    raise ValueError(f"it has no {name}")


def _structs(matrix: Matrix, fields: Sequence[str]) -> list[tuple[Value, ...]]:
    if matrix.kind != STRUCT or not 0 < matrix.length <= MOST:
        raise ValueError(f"{matrix.name} is no array of 1 to {MOST} structs")
    width = int(_numbers(_next(matrix))[0])
    names = bytes(_next(matrix).content)
    if not 0 < width <= 64 or not names or len(names) % width:
        raise ValueError(f"the fields of {matrix.name} have no names")
    words = [names[i : i + width].rstrip(b"\0").decode("latin-1") for i in range(0, len(names), width)]
    missing = sorted(set(fields) - set(words))
    if missing:
        raise ValueError(f"{matrix.name} has no field {missing[0]}, only {', '.join(words)[:200]}")
    found = []
    for _ in range(matrix.length):
        row = {word: _next(matrix) for word in words}
        found.append(tuple(_value(row[word]) for word in fields))
    return found


def _value(element: Element) -> Value:
    matrix = _matrix(element)
    if matrix.kind == CHAR:
        data = next(matrix.rest, None)  # an empty text may have none
        if data is not None and data.kind in TEXTS:
            return bytes(data.content).decode(TEXTS[data.kind])
    elif matrix.length == 1 and 6 <= matrix.kind <= 15:
        return float(_numbers(_next(matrix))[0])
    return None


def _matrix(element: Element) -> Matrix:
    if element.kind != MATRIX:
        raise ValueError(f"an element of kind {element.kind} is no matrix")
    rest = _elements(element.content)
    flags, sizes, name = (next(rest, None) for _ in range(3))
    if flags is None or sizes is None or name is None:
        raise ValueError("a matrix without flags, sizes or name")
    dimensions = [int(size) for size in _numbers(sizes)]
    if min(dimensions) < 0:
        raise ValueError(f"a matrix of {dimensions}")
    return Matrix(int(_numbers(flags)[0]) & 0xFF, math.prod(dimensions), bytes(name.content).decode("latin-1"), rest)


def _numbers(element: Element) -> np.ndarray:
    """One or more. Raises ValueError."""
    if element.kind not in NUMBERS or not len(element.content):
        raise ValueError(f"an element of kind {element.kind} with {len(element.content)} bytes is no number")
    return np.frombuffer(element.content, NUMBERS[element.kind])


def _next(matrix: Matrix) -> Element:
    element = next(matrix.rest, None)
    if element is None:
        raise ValueError(f"matrix {matrix.name!r} ends early")
    return element


def _inflated(content: memoryview) -> Iterator[Element]:
    """The elements, those within compressed ones in their place."""
    left = INFLATED
    for element in _elements(content):
        if element.kind != COMPRESSED:
            yield element
            continue
        inflater = zlib.decompressobj()
        try:
            inflated = inflater.decompress(element.content, left)
        except zlib.error as error:
            raise ValueError(str(error)) from error
        left -= len(inflated)
        if inflater.unconsumed_tail or left <= 0:
            raise ValueError(f"it grows beyond {INFLATED} bytes when decompressed")
        yield from _elements(memoryview(inflated))


def _elements(content: memoryview) -> Iterator[Element]:
    position = 0
    while position < len(content):
        if position + 8 > len(content):
            raise ValueError("it ends within an element")
        kind, size = struct.unpack_from("<II", content, position)
        start = position + 8
        position = start + size + (-size % 8 if kind != COMPRESSED else 0)
        if kind >> 16:  # a small one: kind and size share four bytes, and four of content follow
            kind, size, start, position = kind & 0xFFFF, kind >> 16, start - 4, start
        if start + size > min(position, len(content)):
            raise ValueError("an element reaches beyond the end")
        yield Element(kind, content[start : start + size])
