"""Standard output and standard error that never end the work, whatever becomes of their reader, disk or encoding.

A reader that goes away (``| head -1``), a terminal that is closed, a full disk, and an encoding that lacks a letter
raise inside of whatever happens to print. Here they only stop or change what is printed.
"""

import codecs
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TextIO

SUBSTITUTE = "resnext.substitute"  # the name of the error handler below
PLAIN = {"–": "-", "—": "-", "×": "x", "·": "-", "±": "+-", "…": "...", "≠": "!=", "≤": "<=", "≥": ">="}
PLAIN |= {raised: f"^{digit}" for digit, raised in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}
DRAWN = range(0x2500, 0x2900)  # lines, blocks and dots of progress bars
READER_GONE = (errno.EPIPE, errno.EIO)  # a pipe without a reader, a terminal that was closed


def substitute(error: UnicodeError) -> tuple[str, int]:
    """An error handler for ``codecs``: what an encoding cannot hold, in ASCII that reads the same or spells it out."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_in_ascii, error.object[error.start : error.end])), error.end


def _in_ascii(letter: str) -> str:
    if letter in PLAIN:
        return PLAIN[letter]
    return "*" if ord(letter) in DRAWN else letter.encode("ascii", "backslashreplace").decode("ascii")


codecs.register_error(SUBSTITUTE, substitute)


class LenientFile(io.FileIO):
    """A file descriptor that keeps its first failed write in ``error``; from then on it leads to the null device."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of ``data``, waiting where the descriptor does not block; never raises OSError."""
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left:
                written = super().write(left)
                if written is None:
                    select.select([], [self], [])
                left = left[written or 0 :]
        except OSError as error:
            self.error = error
            with suppress(OSError):  # for what other libraries and the interpreter still write there
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.fileno())
                os.close(null)
        return size


@dataclass
class LenientStreams:
    """Standard output while it is in place of Python's own."""

    output: LenientFile | None

    def lost(self) -> str | None:
        """Why something that was printed is lost, such as a full disk; a reader that went away wanted no more."""
        with suppress(ValueError):  # closed by somebody
            sys.stdout.flush()
        error = self.output.error if self.output else None
        return None if error is None or error.errno in READER_GONE else error.strerror or str(error)


@contextmanager
def lenient_streams() -> Iterator[LenientStreams]:
    """Within, ``sys.stdout`` and ``sys.stderr`` write to the same places and never raise.

    Streams without a file descriptor, such as a test's or a notebook's, are left alone.
    """
    before = sys.stdout, sys.stderr
    output, error = map(_lenient, before)
    sys.stdout = output[0] if output else sys.stdout
    sys.stderr = error[0] if error else sys.stderr
    try:
        yield LenientStreams(output[1] if output else None)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        sys.stdout, sys.stderr = before


def _lenient(stream: TextIO | None) -> tuple[TextIO, LenientFile] | None:
    """A stream to the same descriptor; to the null device where it was closed before the start."""
    try:
        descriptor = os.open(os.devnull, os.O_WRONLY) if stream is None else stream.fileno()
        if stream is not None:
            stream.flush()
        file = LenientFile(descriptor, "w", closefd=False)
    except (OSError, ValueError, AttributeError):
        return None
    unbuffered = getattr(stream, "write_through", False)
    text = io.TextIOWrapper(
        file if unbuffered else io.BufferedWriter(file),
        encoding=getattr(stream, "encoding", "utf-8"),
        errors=SUBSTITUTE,
        line_buffering=getattr(stream, "line_buffering", False),
        write_through=unbuffered,
    )
    return text, file
