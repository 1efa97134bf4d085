"""Standard output and standard error that never raise.

A closed pipe (``| head -1``), a closed terminal, a full disk, or an encoding without a character would raise in
whatever code prints. These streams drop or replace the output instead.
"""

import codecs
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

SUBSTITUTE = "resnext.substitute"  # name of the codecs error handler below
ASCII_SPELLINGS = {"–": "-", "—": "-", "×": "x", "·": "-", "±": "+-", "…": "...", "≠": "!=", "≤": "<=", "≥": ">="}
ASCII_SPELLINGS |= {raised: f"^{digit}" for digit, raised in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}
BOX_DRAWING = range(0x2500, 0x2900)  # lines, blocks and dots of progress bars
READER_GONE = (errno.EPIPE, errno.EIO)  # a closed pipe, a closed terminal


def substitute(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that an encoding lacks by similar ASCII or an escape; an error handler for ``codecs``."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_to_ascii, error.object[error.start : error.end])), error.end


def _to_ascii(letter: str) -> str:
    if letter in ASCII_SPELLINGS:
        return ASCII_SPELLINGS[letter]
    return "*" if ord(letter) in BOX_DRAWING else letter.encode("ascii", "backslashreplace").decode("ascii")


codecs.register_error(SUBSTITUTE, substitute)


class LenientFile(io.FileIO):
    """A file that stores its first failed write in ``error``, and from then on writes to the null device."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of ``data``, waiting if the descriptor is non-blocking; never raises OSError."""
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
            with suppress(OSError):  # for later writes of other libraries and the interpreter
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.fileno())
                os.close(null)
        return size


def describe_loss(output: LenientFile | None) -> str | None:
    """Describe why printed output was lost, such as a full disk; None if it was not, or if the reader closed."""
    with suppress(ValueError):  # already closed
        sys.stdout.flush()
    error = output.error if output else None
    return None if error is None or error.errno in READER_GONE else error.strerror or str(error)


@contextmanager
def use_lenient_streams() -> Iterator[LenientFile | None]:
    """Replace ``sys.stdout`` and ``sys.stderr`` inside the context by streams to the same places that never raise.

    Yields the replaced standard output. Streams without a descriptor, as in tests and notebooks, are not replaced.
    """
    before = sys.stdout, sys.stderr
    output, error = map(_open_lenient, before)
    sys.stdout = output[0] if output else sys.stdout
    sys.stderr = error[0] if error else sys.stderr
    try:
        yield output[1] if output else None
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        sys.stdout, sys.stderr = before


def _open_lenient(stream: TextIO | None) -> tuple[TextIO, LenientFile] | None:
    """Open a lenient stream on the same descriptor, or on the null device if the stream was closed at start."""
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
