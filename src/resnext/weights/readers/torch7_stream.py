"""Read the basic values of a Torch7 file, binary or ascii: ints, longs, doubles, bytes and arrays of numbers.

Every size that the file declares is checked against the bytes left before memory is allocated.
"""

import mmap
import re
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from typing_extensions import override

AnyArray = np.ndarray[Any, np.dtype[Any]]

# The dtype of a storage by the middle of its class name. Long is missing: its size depends on the writing machine.
ELEMENT_DTYPES = {"Byte": "u1", "Char": "i1", "Short": "i2", "Int": "i4", "Half": "f2", "Float": "f4", "Double": "f8"}


class MalformedError(Exception):
    """One attempt to read a file failed: at which byte, and what was expected there."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"at byte {offset}: {reason}")
        self.offset = offset


def _describe(kind: str, count: int) -> str:
    return f"{count} elements of a {kind}Storage"


class Torch7Stream(ABC):
    """The basic values of a file, one after the other; ``offset`` is the position of the next one."""

    is_native: bool  # the usual layout, which is accepted even if bytes follow the first object
    min_pair_bytes: int  # bytes of the shortest key and value of a table

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.offset, self.size = data, 0, len(data)

    @property
    def remaining(self) -> int:
        """Bytes left."""
        return self.size - self.offset

    @abstractmethod
    def read_int(self) -> int:
        """Read a signed int of 4 bytes."""

    @abstractmethod
    def read_longs(self, count: int) -> list[int]:
        """Read ``count`` longs."""

    @abstractmethod
    def read_double(self) -> float:
        """Read a double, which may be nan or inf."""

    @abstractmethod
    def read_elements(self, kind: str, count: int) -> AnyArray:
        """Read ``count`` elements of a storage of this kind, as a read-only array."""

    def read_raw(self, count: int) -> bytes:
        """Read ``count`` bytes."""
        start = self._advance(count, f"{count} bytes of text")
        return self.data[start : start + count]

    def _advance(self, count: int, what: str) -> int:
        """Skip ``count`` bytes, and return the position of the first."""
        start = self.offset
        if not 0 <= count <= self.remaining:
            raise MalformedError(start, f"expected {what}, but {self.remaining} bytes are left")
        self.offset += count
        return start


class BinaryStream(Torch7Stream):
    """A binary file; ``order`` is "<" or ">", ``long_size`` 8 or 4. The file does not record them."""

    min_pair_bytes = 12  # a boolean and a nil

    def __init__(self, data: mmap.mmap, order: str, long_size: int) -> None:
        super().__init__(data)
        self.order, self.long_size = order, long_size
        self.is_native = (order, long_size) == ("<", 8)

    @override
    def read_int(self) -> int:
        start = self._advance(4, "an int")
        return int.from_bytes(self.data[start : start + 4], "little" if self.order == "<" else "big", signed=True)

    @override
    def read_longs(self, count: int) -> list[int]:
        start = self._advance(count * self.long_size, f"{count} longs")
        return list(struct.unpack_from(f"{self.order}{count}{'q' if self.long_size == 8 else 'i'}", self.data, start))

    @override
    def read_double(self) -> float:
        return float(struct.unpack_from(self.order + "d", self.data, self._advance(8, "a double"))[0])

    @override
    def read_elements(self, kind: str, count: int) -> AnyArray:
        """Return the elements as an array over the mapped file, without reading them."""
        dtype = np.dtype(self.order + ELEMENT_DTYPES.get(kind, f"i{self.long_size}"))
        return np.frombuffer(self.data, dtype, count, self._advance(count * dtype.itemsize, _describe(kind, count)))


class AsciiStream(Torch7Stream):
    """A text file: the values of one call are separated by one space and end with one newline, if there are any."""

    is_native = True
    min_pair_bytes = 5  # "5\n1\n0", the last newline missing
    INTEGER = re.compile(rb"\s*([+-]?\d{1,20})(?![^\s])")
    FLOATING = re.compile(rb"\s*([+-]?(?:inf(?:inity)?|nan|\d{1,40}(?:\.\d{0,60})?(?:e[+-]?\d{1,5})?))(?![^\s])", re.I)

    @override
    def read_int(self) -> int:
        start = self.offset
        (value,) = map(int, self._read_values(self.INTEGER, 1, "an int"))
        if not -(2**31) <= value < 2**31:
            raise MalformedError(start, f"expected an int of 4 bytes, found {value}")
        return value

    @override
    def read_longs(self, count: int) -> list[int]:
        return list(map(int, self._read_values(self.INTEGER, count, f"{count} longs")))

    @override
    def read_double(self) -> float:
        (value,) = map(float, self._read_values(self.FLOATING, 1, "a number"))
        return value

    @override
    def read_elements(self, kind: str, count: int) -> AnyArray:
        """Read ``count`` elements: chars and bytes are stored raw, all other kinds as decimal numbers."""
        what, dtype = _describe(kind, count), np.dtype(ELEMENT_DTYPES.get(kind, "i8"))
        if dtype.itemsize == 1:
            return np.frombuffer(self.data, dtype, count, self._advance(count, what))
        start = self.offset
        pattern, convert = (self.FLOATING, float) if dtype.kind == "f" else (self.INTEGER, int)
        values = self._read_values(pattern, count, what)
        try:
            with np.errstate(over="ignore"):
                wide = np.fromiter(map(convert, values), dtype if dtype.kind == "f" else "i8", count)
            array = wide.astype(dtype, copy=False)
            if dtype.kind != "f" and not np.array_equal(array, wide):
                raise OverflowError  # NumPy 1 does so for 8 bytes only
        except OverflowError:
            raise MalformedError(start, f"expected {what}, found a number too large for it") from None
        array.flags.writeable = False
        return array

    @override
    def _advance(self, count: int, what: str) -> int:
        start = super()._advance(count, what)
        if count:
            self._skip_newline()
        return start

    def _read_values(self, pattern: "re.Pattern[bytes]", count: int, what: str) -> Iterator[bytes]:
        """Yield the next ``count`` words."""
        if not 0 <= 2 * count <= self.remaining + 1:  # at least a digit and a space each
            raise MalformedError(self.offset, f"expected {what}, but {self.remaining} bytes are left")
        for _ in range(count):
            match = pattern.match(self.data, self.offset)
            if match is None:
                found = self.data[self.offset : self.offset + 20]
                raise MalformedError(self.offset, f"expected {what}, found {found!r}")
            self.offset = match.end()
            yield match[1]
        if count:
            self._skip_newline()

    def _skip_newline(self) -> None:
        if self.data[self.offset : self.offset + 1] == b"\n":
            self.offset += 1
