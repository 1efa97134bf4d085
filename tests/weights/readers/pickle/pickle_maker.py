"""Pickles made by hand, for tests: as Python 2 wrote them, and as nobody should."""

import io
import os
import struct
from typing import Any

import numpy as np

from resnext.weights.readers.pickle.machine import interpret
from resnext.weights.readers.pickle.stream import PickleStream
from resnext.weights.readers.pickle.values import resolve
from resnext.weights.readers.torch_tensors import ALLOWED_NAMES


def loads(data: bytes) -> Any:
    """The value of a pickle in memory, by our reader."""
    return resolve(interpret(PickleStream(io.BytesIO(data), 0, len(data)), ALLOWED_NAMES))


def string2(data: bytes) -> bytes:
    """A str of Python 2: SHORT_BINSTRING or BINSTRING."""
    return b"U" + bytes([len(data)]) + data if len(data) < 256 else b"T" + struct.pack("<i", len(data)) + data


def array2(array: np.ndarray) -> bytes:
    """A NumPy array as cPickle of Python 2 wrote it (without the final STOP), in protocol 2."""
    shape = b"(" + b"".join(b"J" + struct.pack("<i", side) for side in array.shape) + b"t"
    order = {"=": b"<", "<": b"<", ">": b">", "|": b"|"}[array.dtype.byteorder]
    code = array.dtype.str[1:].encode()
    sizes = (array.itemsize, 1) if array.dtype.kind == "S" else (-1, -1)
    dtype = b"cnumpy\ndtype\n(" + string2(code) + b"K\0K\1tR(K\3" + string2(order) + b"NNN"
    dtype += struct.pack("<cici", b"J", sizes[0], b"J", sizes[1]) + b"K\0tb"
    start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85" + string2(b"b") + b"tR"
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    numbers = string2(array.tobytes("F" if fortran else "C"))
    return start + b"(K\1" + shape + dtype + (b"I01\n" if fortran else b"I00\n") + numbers + b"tb"


class Evil:
    """Runs ``command`` when an ordinary unpickler meets it."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)
