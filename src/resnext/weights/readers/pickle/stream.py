"""Read the bytes of a pickle. Every size is checked against the bytes left before memory is allocated."""

import codecs
import re
import struct
from typing import IO, Any

from resnext.errors import RequestError
from resnext.weights.readers.pickle.values import LONG_STRING_BYTES, LongString, decode_string, make_long_string

MAX_NUMBER_LENGTH = 1000  # characters of a number in text, bytes of a LONG4
INTEGER_PATTERN = re.compile(rb"[+-]?[0-9]+L?")


class PickleStream:
    """Bytes ``start`` to ``end`` of ``file``; ``position`` is the offset of the next one."""

    def __init__(self, file: IO[bytes], start: int, end: int) -> None:
        self.file, self.position, self.end = file, start, end
        file.seek(start)

    def take(self, count: int) -> bytes:
        """Read the next ``count`` bytes. Raises RequestError if there are fewer."""
        self.skip(count)
        data = self.file.read(count)
        if len(data) != count:
            raise RequestError("ends in the middle of a value")
        return data

    def read_number(self, layout: str) -> Any:
        """Read the next number in this ``struct`` format."""
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def read_line(self, longest: int | None = None) -> bytes:
        """Read up to the next newline, and return the line without it."""
        left = self.end - self.position
        data = self.file.readline(left if longest is None else min(longest, left))
        self.position += len(data)
        if not data.endswith(b"\n"):
            raise RequestError(f"has no newline where one is required (byte {self.position:,})")
        return data[:-1]

    def read_string(self, count: int, kind: str) -> Any:
        """Read the next ``count`` bytes as a string of ``kind``; long ones stay in the file until they are needed."""
        if count < LONG_STRING_BYTES:
            return decode_string(self.take(count), kind)
        self.skip(count)
        self.file.seek(self.position)
        return LongString(self.file, self.position - count, count, kind)

    def step_back(self, count: int) -> None:
        """Go back ``count`` bytes that were just read."""
        self.position -= count
        self.file.seek(self.position)

    def skip(self, count: int) -> None:
        """Skip ``count`` bytes. Raises RequestError if there are fewer."""
        if count > self.end - self.position:
            raise RequestError(f"ends early: a value declares {count:,} bytes, {self.end - self.position:,} are left")
        self.position += count


def parse_integer(line: bytes) -> int:
    """Parse a whole number in text, as in protocol 0; it may end with ``L``."""
    if not INTEGER_PATTERN.fullmatch(line):
        raise RequestError("has a malformed whole number")
    return int(line.removesuffix(b"L"))


def parse_int_or_bool(line: bytes) -> int | bool:
    """Parse the argument of INT, which protocol 0 uses for True and False too."""
    return line == b"01" if line in (b"00", b"01") else parse_integer(line)


def parse_float(line: bytes) -> float:
    """Parse a float in text."""
    try:
        return float(line)
    except ValueError:
        raise RequestError("has a malformed number") from None


def parse_quoted_string(line: bytes) -> Any:
    """Parse a quoted str of Python 2."""
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise RequestError("has a string without its quotes")
    try:
        data = codecs.escape_decode(line[1:-1])[0]
    except ValueError:
        raise RequestError("has a string with an invalid escape") from None
    return decode_string(data, "latin1") if len(data) < LONG_STRING_BYTES else make_long_string(data, "latin1")


def parse_escaped_text(line: bytes) -> Any:
    """Parse the escaped unicode text of protocol 0."""
    try:
        found = line.decode("raw-unicode-escape")
    except UnicodeDecodeError:
        raise RequestError("has text with an invalid escape") from None
    return found if len(found) < LONG_STRING_BYTES else make_long_string(found.encode("utf-8", "surrogatepass"), "utf8")
