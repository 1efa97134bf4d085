"""Read a run's log.jsonl while it grows: only what is new, and anew when a resume cut or replaced the file.

Parsed steps are kept as 24 bytes each, so 10^6 steps take 24 MB; answers have at most 2,000 points a series.
"""

import hashlib
import json
import math
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from resnext.serving.run_table import FileStamp, read_stamp

MAX_POINTS = 2_000  # of a series in one answer
MAX_ROWS = 1 << 21  # steps kept of one run; more are thinned to half
MAX_EPOCHS = 10_000  # epoch rows kept of one run, the newest
MAX_COLUMNS = 40  # of an epoch row
CHUNK_BYTES = 1 << 18  # parsed at once: about 5 ms
MAX_LINE_BYTES = 1 << 20
TAIL_BYTES = 4096  # compared before what was read is taken to be still there
STEP = np.dtype([("offset", "i8"), ("step", "i8"), ("loss", "f4"), ("lr", "f4")])

Steps = NDArray[np.void]
Floats = NDArray[np.float64]
EpochRow = dict[str, float | None]


@dataclass(frozen=True)
class LogPart:
    """What a log holds after a cursor.

    Attributes:
        generation: Changes when the file was cut or replaced; a reader of an older one drops all it has.
        after: The cursor from which the rows are: the one asked for, or 0.
        next: The cursor to ask with next, a byte offset.
        more: Whether the file holds more, which was not read yet for lack of time.
        count: Step rows from the start of the file to ``next``.
        steps: Step rows after the cursor, by ``offset`` (of the end of their line), ``step``, ``loss`` and ``lr``.
        epochs: Epoch rows after the cursor.
    """

    generation: str
    after: int
    next: int
    more: bool
    count: int
    steps: Steps
    epochs: list[EpochRow]


@dataclass
class _Content:
    """What was read of one generation of a file."""

    generation: str = field(default_factory=lambda: secrets.token_hex(8))
    inode: int = -1
    offset: int = 0  # of the end of the last whole line read
    head: bytes = b""  # digest of the first line
    head_bytes: int = 0
    tail: bytes = b""  # the last bytes before the offset
    rows: Steps = field(default_factory=lambda: np.empty(0, STEP))  # with room at its end
    used: int = 0  # rows in use
    count: int = 0  # rows read, also those thinned out since
    epochs: list[tuple[int, EpochRow]] = field(default_factory=list)  # (offset of the end of the line, row)
    is_in_long_line: bool = False


class LogReader:
    """Reads one log.jsonl again and again. Thread-safe.

    Args:
        open_log: Opens the file for reading, unbuffered; raises OSError without one.
    """

    def __init__(self, open_log: Callable[[], BinaryIO]) -> None:
        self.open_log = open_log
        self.lock = threading.Lock()
        self.content = _Content()

    def read(self, after: int = 0, generation: str = "", seconds: float = math.inf) -> LogPart:
        """Read what is new in the file, for at most about ``seconds``, and return the rows after a cursor.

        ``after`` and ``generation`` are those of an earlier answer. If the file was cut or replaced since, or the
        cursor is none of this generation, the rows are those from the start.
        """
        with self.lock:
            more = self._update(time.monotonic() + seconds)
            content = self.content
            start = after if generation == content.generation and 0 <= after <= content.offset else 0
            rows = content.rows[: content.used]
            first = int(np.searchsorted(rows["offset"], start, side="right"))
            epochs = [row for offset, row in content.epochs if offset > start]
            steps = rows[first:].copy()
            return LogPart(content.generation, start, content.offset, more, content.count, steps, epochs)

    def count_rows(self) -> int:
        """Return how many step rows are kept in memory."""
        return self.content.used

    def _update(self, deadline: float) -> bool:
        """Read new lines until the end of the file or the deadline; return whether there are more."""
        try:
            file = self.open_log()
        except OSError:
            if self.content.offset:
                self.content = _Content()
            return False
        with file:
            about = read_stamp(file)
            if not self._is_same_file(file, about):
                self.content = _Content(inode=about.inode)
            file.seek(self.content.offset)
            while self.content.offset < about.size and self._read_chunk(file):
                if time.monotonic() >= deadline:
                    return self.content.offset < about.size
        return False

    def _is_same_file(self, file: BinaryIO, about: FileStamp) -> bool:
        """Return whether what was read is still there: inode, size, first line and the bytes before the offset."""
        content = self.content
        if content.inode == -1:
            content.inode = about.inode
        if about.inode != content.inode or about.size < content.offset:
            return False
        if not content.offset:
            return True
        head = file.read(content.head_bytes)
        file.seek(content.offset - len(content.tail))
        return _digest(head) == content.head and file.read(len(content.tail)) == content.tail

    def _read_chunk(self, file: BinaryIO) -> bool:
        """Read the next whole lines; return False if there is none."""
        content, size = self.content, CHUNK_BYTES
        while True:
            file.seek(content.offset)
            data = file.read(size)
            end = data.rfind(b"\n") + 1
            if end or len(data) < size:
                break
            if size >= MAX_LINE_BYTES:
                content.is_in_long_line, end = True, len(data)
                break
            size *= 2
        if not end:
            return False
        lines, start = data[:end], content.offset
        if not content.offset:
            content.head_bytes = min(end, (lines.find(b"\n") + 1) or end, TAIL_BYTES)
            content.head = _digest(lines[: content.head_bytes])
        if content.is_in_long_line:  # its rest is dropped too
            cut = lines.find(b"\n") + 1
            content.is_in_long_line = cut == 0
            start, lines = start + cut, lines[cut:] if cut else b""
        self._keep_rows(lines, start)
        content.offset += end
        content.tail = (content.tail + data[:end])[-TAIL_BYTES:]
        return True

    def _keep_rows(self, lines: bytes, start: int) -> None:
        """Parse whole lines that begin at offset ``start``, and keep their rows."""
        content = self.content
        steps: list[tuple[int, int, float, float]] = []
        for offset, row in parse_lines(lines, start):
            kind = row.get("kind")
            if kind == "step" and is_step_row(row):
                steps.append((offset, row["step"], row["loss"], row["lr"]))
            elif kind == "epoch" and is_position(row):
                values = list(row.items())[:MAX_COLUMNS]
                content.epochs.append((offset, {str(k): to_number(v) for k, v in values if k != "kind"}))
        del content.epochs[:-MAX_EPOCHS]
        with np.errstate(over="ignore"):
            new = np.array(steps, STEP)
        content.count += len(new)
        if content.used + len(new) > MAX_ROWS:
            thinned = content.rows[: content.used]
            thinned = thinned[pick_extremes(thinned["loss"], MAX_ROWS // 2)]
            content.rows, content.used = thinned, len(thinned)
        if content.used + len(new) > len(content.rows):
            grown = np.empty((content.used + len(new)) * 9 // 8 + 64, STEP)
            grown[: content.used] = content.rows[: content.used]
            content.rows = grown
        content.rows[content.used : content.used + len(new)] = new
        content.used += len(new)


def parse_lines(lines: bytes, start: int) -> list[tuple[int, dict[str, Any]]]:
    """Parse whole lines of JSON objects; return (offset of the end of the line, row). Damaged lines are left out."""
    split = lines.split(b"\n")[:-1]
    ends = start + np.cumsum([len(line) + 1 for line in split])
    try:
        rows = json.loads(b"[" + b",".join(split) + b"]")
    except (ValueError, RecursionError):
        rows = []
    if len(rows) != len(split):
        rows = [_parse_line(line) for line in split]
    return [(int(end), row) for end, row in zip(ends, rows, strict=True) if isinstance(row, dict)]


def _parse_line(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def is_position(row: dict[str, Any]) -> bool:
    """Return whether a row has a step and an epoch."""
    return all(type(row.get(key)) is int and 0 <= row[key] < 1 << 53 for key in ("step", "epoch"))


def is_step_row(row: dict[str, Any]) -> bool:
    """Return whether a row has what the Logbook writes for a step."""
    return is_position(row) and all(type(row.get(key)) is float or is_small_int(row.get(key)) for key in ("loss", "lr"))


def is_small_int(value: object) -> bool:
    """Return whether a value is an int that a float holds exactly."""
    return type(value) is int and abs(value) < 1 << 53


def to_number(value: object) -> float | None:
    """Return a finite number as it is, anything else as None."""
    if is_small_int(value) or (type(value) is float and math.isfinite(value)):
        return value  # type: ignore[return-value]  # checked
    return None


def pick_extremes(values: NDArray[Any], limit: int) -> NDArray[np.int64]:
    """Return the sorted indices of at most ``limit`` values: first, last, and the extremes of equal buckets.

    NaN counts as neither extreme. With at most ``limit`` values all are picked.
    """
    count = len(values)
    if count <= limit:
        return np.arange(count)
    buckets = max((limit - 2) // 2, 1)
    width = math.ceil(count / buckets)
    padded = np.concatenate([values, np.full(-count % width, np.nan, values.dtype)]).reshape(-1, width)
    starts = np.arange(len(padded)) * width
    is_nan = np.isnan(padded)
    lowest = starts + np.where(is_nan, np.inf, padded).argmin(1)
    highest = starts + np.where(is_nan, -np.inf, padded).argmax(1)
    return np.unique(np.concatenate([[0, count - 1], lowest, highest]))


def average_buckets(x: NDArray[Any], y: NDArray[Any], limit: int) -> tuple[Floats, Floats]:
    """Average ``x`` and ``y`` over at most ``limit`` equal buckets: an unbiased curve to smooth. NaN is left out."""
    width = math.ceil(len(x) / limit)
    is_known = np.isfinite(y)
    starts = np.arange(0, len(x), width)
    known = np.add.reduceat(is_known, starts, dtype=np.float64)
    totals = np.add.reduceat(np.where(is_known, y, 0), starts, dtype=np.float64)
    sizes = np.diff(np.append(starts, len(x)))
    with np.errstate(invalid="ignore"):
        return np.add.reduceat(x, starts, dtype=np.float64) / sizes, totals / known


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
