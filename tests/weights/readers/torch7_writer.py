"""A small writer of Torch7 files, and modules to write with it: what the tests of the reader and the adapter need."""

import re
import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

DTYPES = {"Byte": "u1", "Char": "i1", "Short": "i2", "Int": "i4", "Long": "i8", "Half": "f2", "Float": "f4"}
DTYPES |= {"Double": "f8", "Cuda": "f4", "CudaDouble": "f8", "CudaHalf": "f2", "CudaLong": "i8", "CudaByte": "u1"}


@dataclass(eq=False, repr=False)
class Storage:
    kind: str
    values: Any


@dataclass(eq=False, repr=False)
class Tensor:
    kind: str
    storage: Storage | None
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 1


@dataclass(eq=False, repr=False)
class Object:
    class_name: str
    fields: dict[Any, Any] = field(default_factory=dict)
    version: int | None = 1  # None: as before versions
    before: Any = None  # an object before the fields, as nn.DataParallelTable has


@dataclass(eq=False, repr=False)
class Function:
    code: bytes = b"\x1bLJ\x02"
    kind: int = 8
    upvalues: Any = None


@dataclass(eq=False, repr=False)
class Pairs:
    """A table by its pairs, for keys that Python's dicts cannot have."""

    pairs: list[tuple[Any, Any]]


def make_tensor(array: np.ndarray, kind: str = "Float") -> Tensor:
    """A tensor with a storage of its own."""
    array = np.asarray(array)
    strides = tuple(int(np.prod(array.shape[i + 1 :])) for i in range(array.ndim))
    return Tensor(kind, Storage(kind, array.ravel()), array.shape, strides)


def dump(value: Any, order: str = "<", long_size: int = 8, ascii: bool = False, referenced: bool = True) -> bytes:
    """The file of ``value``, as torch.save writes it."""
    return _Writer(order, long_size, ascii, referenced).file(value)


class _Writer:
    def __init__(self, order: str, long_size: int, ascii: bool, referenced: bool) -> None:
        self.order, self.long_size, self.ascii, self.referenced = order, long_size, ascii, referenced
        self.parts: list[bytes] = []
        self.indices: dict[int, int] = {}
        self.count = 0

    def file(self, value: Any) -> bytes:
        self.object(value)
        return b"".join(self.parts)

    def numbers(self, letter: str, *values: Any) -> None:
        if self.ascii:
            if values:
                form = {"d": "%.17g", "f": "%.9g", "e": "%.9g"}.get(letter, "%d")
                self.parts.append(b" ".join((form % value).encode() for value in values) + b"\n")
            return
        letter = {"q": "q" if self.long_size == 8 else "i"}.get(letter, letter)
        self.parts.append(struct.pack(f"{self.order}{len(values)}{letter}", *values))

    def text(self, data: bytes) -> None:
        self.numbers("i", len(data))
        self.parts.append(data + (b"\n" if self.ascii and data else b""))

    def object(self, value: Any) -> None:
        if value is None:
            self.numbers("i", 0)
        elif isinstance(value, bool):
            self.numbers("i", 5)
            self.numbers("i", int(value))
        elif isinstance(value, int | float):
            self.numbers("i", 1)
            self.numbers("d", value)
        elif isinstance(value, str):
            self.numbers("i", 2)
            self.text(value.encode("utf-8", "surrogateescape"))
        elif isinstance(value, Function) and value.kind == 6:
            self.numbers("i", 6)
            self.text(value.code)
            self.object(value.upvalues or {})
        else:
            self.referable(value)

    def referable(self, value: Any) -> None:
        kind = 3 if isinstance(value, dict | Pairs) else value.kind if isinstance(value, Function) else 4
        self.numbers("i", kind)
        known = id(value) in self.indices and self.referenced
        if not known:
            self.count += 1
            self.indices[id(value)] = self.count
        self.numbers("i", self.indices[id(value)])
        if not known:
            {3: self.table, 4: self.torch}.get(kind, self.function)(value)

    def table(self, value: Any) -> None:
        pairs = value.pairs if isinstance(value, Pairs) else list(value.items())
        self.numbers("i", len(pairs))
        for key, item in pairs:
            self.object(key)
            self.object(item)

    def function(self, value: Function) -> None:
        self.text(value.code)
        self.object(value.upvalues or {})

    def torch(self, value: Any) -> None:
        version = getattr(value, "version", 1)
        if version is not None:
            self.text(f"V {version}".encode())
        name = value.class_name if isinstance(value, Object) else f"torch.{value.kind}{type(value).__name__}"
        self.text(name.encode("utf-8", "surrogateescape"))
        if isinstance(value, Object):
            if value.before is not None:
                self.object(value.before)
            self.object(value.fields)
        elif isinstance(value, Storage):
            self.storage(value)
        else:
            self.numbers("i", len(value.sizes))
            self.numbers("q", *value.sizes)
            self.numbers("q", *value.strides)
            self.numbers("q", value.offset)
            self.object(value.storage)

    def storage(self, value: Storage) -> None:
        dtype = DTYPES[value.kind]
        array = np.asarray(value.values, dtype)
        self.numbers("q", array.size)
        if array.dtype.itemsize == 1 and self.ascii:
            self.parts.append(array.tobytes() + (b"\n" if array.size else b""))
        elif self.ascii:
            self.numbers("f" if dtype in ("f2", "f4") else "d" if dtype == "f8" else "q", *array.tolist())
        else:
            if dtype == "i8" and self.long_size == 4:
                dtype = "i4"
            self.parts.append(array.astype(self.order + dtype).tobytes())


def to_plain(value: Any) -> Any:
    """What a reader should give for ``value`` without shared parts: tables as dicts, tensors as nested lists."""
    if isinstance(value, dict):
        return {_plain_key(key): to_plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, Tensor):
        return to_plain_array(value).tolist()
    if isinstance(value, Storage):
        return np.asarray(value.values, DTYPES[value.kind]).tolist()
    if isinstance(value, Object):
        return (value.class_name, value.version or 0, to_plain(value.fields))
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def to_plain_array(value: Tensor) -> np.ndarray:
    """The elements of a tensor one by one, by the definition of offset and strides."""
    out = np.empty(value.sizes or (0,), DTYPES[value.kind])
    for place in np.ndindex(*out.shape):
        assert value.storage is not None
        at = value.offset - 1 + sum(i * s for i, s in zip(place, value.strides, strict=True))
        out[place] = value.storage.values[at]
    return out


def _plain_key(key: Any) -> Any:
    return int(key) if isinstance(key, float) and re.fullmatch(r"-?\d+\.0", str(key)) else key
