"""Read Torch7 files, the format of the paper's released weights, which no maintained library reads.

The format has no magic number and no trailer. An object is a type number followed by its content; tables, tensors and
class objects have an index by which later objects refer to them. Nothing in a file is executed. The file is
memory-mapped, so the data of a tensor are read when they are used.

Torch7 itself checks nothing. Here, a tensor must lie inside its storage. Strides may be 0 (an expanded tensor, of at
most a million elements or as many as the file has bytes) but not negative. There are at most 32 dimensions. Bytes after
the first object are ignored, unless that object is nil: then the file is not a Torch7 file. A binary file does not
record its byte order and the size of its longs: little endian and 8 bytes are tried first, and another combination is
accepted only if it reads the file to the last byte.
"""

import math
import mmap
import os
import re
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from types import GeneratorType
from typing import Any

import numpy as np

from resnext.errors import RequestError
from resnext.weights.readers import torch7_stream
from resnext.weights.readers.torch7_stream import ELEMENT_DTYPES, AnyArray, MalformedError, Torch7Stream

NIL, NUMBER, STRING, TABLE, OBJECT, BOOLEAN, OLD_FUNCTION, LEGACY_FUNCTION, FUNCTION = range(9)
VERSION_PATTERN = re.compile(r"V (\d{1,9})")
ELEMENT_KINDS = {f"torch.{kind}": kind for kind in (*ELEMENT_DTYPES, "Long")} | {"torch.Cuda": "Float"}
ELEMENT_KINDS |= {f"torch.Cuda{kind}": kind for kind in (*ELEMENT_DTYPES, "Long")}
MAX_DIMENSIONS = 32  # the limit of all NumPy versions
MAX_EXPANDED_ELEMENTS = 2**20  # elements that an expanded tensor may have, independent of the file's size


@dataclass(eq=False, slots=True, repr=False)
class T7Object:
    """An object of a Lua class, such as ``nn.Sequential``: its name, its version and the table of its fields."""

    class_name: str
    version: int  # 0 in files that are older than class versions
    fields: dict[Any, Any]

    def __repr__(self) -> str:
        return f"<T7Object {self.class_name[:80]} with {len(self.fields)} fields>"


class T7Function:
    """A placeholder for a Lua function in the file. Its code is not kept."""

    __slots__ = ()


class T7Key:
    """A table key that is neither string nor number: a boolean, or a table, tensor or object, compared by identity."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, T7Key) and self.value is other.value

    def __hash__(self) -> int:
        return hash((T7Key, id(self.value)))

    def __repr__(self) -> str:
        return f"Key({self.value})" if isinstance(self.value, bool) else f"<Key of a {type(self.value).__name__}>"


def read_t7(path: Path | str) -> Any:
    """Read the first object of a Torch7 file as plain Python and NumPy values.

    Numbers are floats, strings are str (bytes that are not UTF-8 become surrogates), nil is None, and tables are dicts:
    whole-number keys are ints, boolean and object keys are wrapped in ``T7Key``. Tensors and storages are read-only
    arrays over the mapped file, which share memory as in Torch7; an empty tensor has shape (0,). Everything else is a
    ``T7Object`` or ``T7Function``. Raises RequestError that says at which byte what was expected.
    """
    path = Path(path)
    data = _map_file(path)
    reached, failure = -1, ""
    for stream in _open_streams(data):
        try:
            value = _Reader(stream).read()
        except MalformedError as error:
            if stream.offset > reached:  # report the error of the attempt that came furthest
                reached, failure = stream.offset, str(error)
            continue
        if stream.remaining and value is None:
            raise RequestError(f"{path} is not a Torch7 file: a nil is followed by {stream.remaining} more bytes")
        if stream.is_native or not stream.remaining:
            return value
    raise RequestError(f"{path} is not a complete Torch7 file: {failure}")


def can_be_t7(head: bytes) -> bool:
    """Return whether a file begins like a Torch7 table, object, string or number; 64 bytes are enough."""
    if re.match(rb"3\n1\n\d+\n(?:[1-5]\n|$)|4\n1\n\d+\n(?:V \d|[A-Za-z])", head):
        return True
    for order in ("little", "big"):
        kind, index, third = (int.from_bytes(head[i : i + 4], order, signed=True) for i in (0, 4, 8))
        if kind in (TABLE, LEGACY_FUNCTION, FUNCTION) and len(head) >= 12:
            # A safetensors file begins with eight bytes and a brace.
            return index >= 0 and third >= 0 and not (index == 0 and head[8:9] == b"{")
        if kind == OBJECT and len(head) > 12:
            return index >= 0 and third > 0 and (head[12:14] == b"V " or head[12:13].isalpha())
        if (kind, len(head)) in ((NUMBER, 12), (BOOLEAN, 8)):
            return True
        if kind == STRING and len(head) >= 8:
            return index > 0 and len(head) <= 8 + index
    return head == bytes(4)


def release_pages(array: np.ndarray) -> None:
    """Release the memory of the file's mapped pages, of which ``array`` is a view; the array can still be read."""
    base: object = array
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)


def _map_file(path: Path) -> mmap.mmap:
    if not os.path.isfile(path):
        raise RequestError(f"{path} is not a file")
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError:
        raise RequestError(f"{path} is empty, not a Torch7 file") from None
    except OSError as error:
        raise RequestError(f"{path} could not be read: {error.strerror or error}") from None


def _open_streams(data: mmap.mmap) -> list[Torch7Stream]:
    if data[:1] in b"0123456789-+":
        return [torch7_stream.AsciiStream(data)]
    return [torch7_stream.BinaryStream(data, order, long_size) for order in "<>" for long_size in (8, 4)]


class _Reader:
    """Reads one file with one stream. Containers are generators that ask for their next object, to avoid recursion."""

    def __init__(self, stream: Torch7Stream) -> None:
        self.stream = stream
        self.objects: dict[int, Any] = {}  # by reference index
        self.storages: dict[int, tuple[str, AnyArray]] = {}  # the storages among them, with their element kinds

    def read(self) -> Any:
        """Read the first object. Raises MalformedError."""
        open_containers: list[Generator[None, Any, Any]] = []
        value = self._read_object()
        while True:
            if isinstance(value, GeneratorType):
                open_containers.append(value)
                value = None  # starts it
            elif not open_containers:
                return value
            try:
                open_containers[-1].send(value)
            except StopIteration as done:
                open_containers.pop()
                value = done.value
            else:
                value = self._read_object()

    def _read_object(self) -> Any:
        """Read the next object; for a container, return its generator."""
        start, kind = self.stream.offset, self.stream.read_int()
        if kind == NIL:
            return None
        if kind == NUMBER:
            return self.stream.read_double()
        if kind == STRING:
            return self._read_string()
        if kind == BOOLEAN:
            return self.stream.read_int() == 1
        if kind == OLD_FUNCTION:
            return self._read_function()
        if kind not in (TABLE, OBJECT, LEGACY_FUNCTION, FUNCTION):
            raise MalformedError(start, f"expected the type of an object, 0 to 8, found {kind}")
        index = self.stream.read_int()
        if index in self.objects:
            return self.objects[index]
        if kind == TABLE:
            return self._read_table(index)
        return self._read_torch_object(index) if kind == OBJECT else self._read_function(index)

    def _read_string(self) -> str:
        return self.stream.read_raw(self.stream.read_int()).decode("utf-8", "surrogateescape")

    def _read_table(self, index: int) -> Generator[None, Any, dict[Any, Any]]:
        start, count = self.stream.offset, self.stream.read_int()
        if not 0 <= count * self.stream.min_pair_bytes <= self.stream.remaining:
            raise MalformedError(start, f"a table of {count} pairs does not fit into {self.stream.remaining} bytes")
        table: dict[Any, Any] = {}
        self.objects[index] = table
        for _ in range(count):
            start = self.stream.offset
            key = _check_key((yield), start)
            value = yield
            if value is None:
                table.pop(key, None)
            else:
                table[key] = value
        return table

    def _read_function(self, index: int | None = None) -> Generator[None, Any, T7Function]:
        function = T7Function()
        if index is not None:
            self.objects[index] = function
        self.stream.read_raw(self.stream.read_int())  # its code
        yield  # its upvalues
        return function

    def _read_torch_object(self, index: int) -> Any:
        class_name, version = self._read_class()
        if class_name.removesuffix("Tensor") in ELEMENT_KINDS and class_name.endswith("Tensor"):
            return self._read_tensor(index, ELEMENT_KINDS[class_name.removesuffix("Tensor")])
        if class_name.removesuffix("Storage") in ELEMENT_KINDS and class_name.endswith("Storage"):
            return self._read_storage(index, class_name)
        return self._read_lua_object(index, T7Object(class_name, version, {}))

    def _read_class(self) -> tuple[str, int]:
        word = self._read_string()
        version = VERSION_PATTERN.fullmatch(word)
        return (self._read_string(), int(version[1])) if version else (word, 0)

    def _read_lua_object(self, index: int, item: T7Object) -> Generator[None, Any, T7Object]:
        self.objects[index] = item
        assignments = None
        if item.class_name == "nn.DataParallelTable" and item.version >= 2:
            assignments = yield  # the GPU of each copy: an extra object before the fields
        start = self.stream.offset
        fields = yield
        if not isinstance(fields, dict):
            raise MalformedError(start, f"expected the fields of a {item.class_name[:80]!r}, a table")
        item.fields = fields
        if assignments is not None:
            fields.setdefault("gpuAssignments", assignments)
        return item

    def _read_storage(self, index: int, class_name: str) -> AnyArray:
        (count,) = self.stream.read_longs(1)
        kind = ELEMENT_KINDS[class_name.removesuffix("Storage")]
        self.objects[index] = storage = self.stream.read_elements(kind, count)
        self.storages[index] = kind, storage
        return storage

    def _read_tensor(self, index: int, kind: str) -> AnyArray:
        start, dimensions = self.stream.offset, self.stream.read_int()
        if not 0 <= dimensions <= MAX_DIMENSIONS:
            raise MalformedError(start, f"expected a tensor of at most {MAX_DIMENSIONS} dimensions, found {dimensions}")
        sizes, strides = self.stream.read_longs(dimensions), self.stream.read_longs(dimensions)
        (offset,) = self.stream.read_longs(1)
        self.objects[index] = None  # so that the storage cannot refer to the tensor itself
        storage = self._read_tensor_storage(kind)
        self.objects[index] = tensor = self._make_view(storage, sizes, strides, offset - 1, start)
        return tensor

    def _read_tensor_storage(self, kind: str) -> AnyArray:
        """Read the tensor's storage: nil, a reference to one already read, or a new one."""
        start, word = self.stream.offset, self.stream.read_int()
        if word == NIL:
            return self.stream.read_elements(kind, 0)
        if word == OBJECT:
            index = self.stream.read_int()
            known_kind, storage = self.storages.get(index, ("", None))
            if storage is not None and known_kind == kind:
                return storage
            class_name = "" if index in self.objects else self._read_class()[0]
            if ELEMENT_KINDS.get(class_name.removesuffix("Storage")) == kind and class_name.endswith("Storage"):
                return self._read_storage(index, class_name)
        raise MalformedError(start, f"expected the {kind}Storage of a {kind}Tensor")

    def _make_view(self, storage: AnyArray, sizes: list[int], strides: list[int], offset: int, start: int) -> AnyArray:
        """Make the tensor as a view of its storage, after a check that all elements lie inside it."""
        what = f"a tensor of sizes {sizes[:8]} and strides {strides[:8]}"
        if any(size < 0 for size in sizes) or any(stride < 0 for stride in strides):
            raise MalformedError(start, f"{what}: negative values are not allowed")
        count = math.prod(sizes) if sizes else 0
        span = max(math.prod(size for size in sizes if size), *strides, 0)
        if count > max(self.stream.size, MAX_EXPANDED_ELEMENTS) or span >= 2**56:
            raise MalformedError(start, f"{what} is too large for a file of {self.stream.size} bytes")
        if count == 0:
            return np.empty(sizes or 0, storage.dtype)
        last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        if offset < 0 or last >= storage.size:
            place = f"element {offset + 1} does not lie within its storage of {storage.size} elements"
            raise MalformedError(start, f"{what} at {place}")
        item = storage.itemsize
        return np.ndarray(sizes, storage.dtype, storage, offset * item, [stride * item for stride in strides])


def _check_key(value: object, offset: int) -> object:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise MalformedError(offset, f"expected the key of a table, found {'nil' if value is None else 'nan'}")
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    return value if isinstance(value, str) else T7Key(value)
