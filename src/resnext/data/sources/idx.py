"""Read IDX files, the format of the MNIST family, raw or gzipped. All header values are checked."""

import gzip
import math
import zlib
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from resnext.errors import RequestError

UNSIGNED_BYTE = 0x08  # code of uint8, the only element type these data sets use
MAX_BYTES = 1 << 28


def read_idx(path: Path, shape: tuple[int | None, ...]) -> np.ndarray:
    """Read the uint8 array of an IDX file; None in ``shape`` accepts any length.

    The sizes in the header are checked against ``shape`` and MAX_BYTES before data is read.
    """
    try:
        with path.open("rb") as raw:
            is_zipped = raw.peek(2).startswith(b"\x1f\x8b")
            return _parse(gzip.GzipFile(fileobj=raw) if is_zipped else raw, path, shape)
    except (OSError, EOFError, zlib.error) as error:
        raise RequestError(f"cannot read {path} as an IDX file: {error}") from error


def _parse(stream: BufferedIOBase, path: Path, shape: tuple[int | None, ...]) -> np.ndarray:
    head = stream.read(4)
    expected = bytes((0, 0, UNSIGNED_BYTE, len(shape)))
    if head != expected:
        kind = f"{expected.hex(' ')} (IDX, unsigned bytes, {len(shape)} dimensions)"
        raise RequestError(f"{path} starts with {head.hex(' ') or 'nothing'}, expected {kind}")
    lengths = stream.read(4 * len(shape))
    if len(lengths) != 4 * len(shape):
        raise RequestError(f"{path} ends within its header")
    found = tuple(int(n) for n in np.frombuffer(lengths, ">u4"))
    if any(want is not None and want != got for want, got in zip(shape, found, strict=True)):
        wanted = " x ".join("any" if n is None else str(n) for n in shape)
        raise RequestError(f"{path} holds {' x '.join(map(str, found))} values, expected {wanted}")
    count = math.prod(found)
    if not 0 < count <= MAX_BYTES:
        raise RequestError(f"{path} claims {count} values, expected 1 to {MAX_BYTES}")
    body = stream.read(count + 1)
    if len(body) != count:
        how = "fewer" if len(body) < count else "more"
        raise RequestError(f"{path} holds {how} values than the {count} its header claims")
    return np.frombuffer(body, np.uint8).reshape(found).copy()  # writable, as torch wants it
