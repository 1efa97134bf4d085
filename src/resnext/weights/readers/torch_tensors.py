"""Rebuild torch's tensors from a pickle: a tensor is a storage with sizes and strides, which must lie inside it.

No torch function is called by name. The data are read after the pickle, storage by storage, into new memory.
"""

import math
import sys
from typing import IO, Any

import torch
from torch import Tensor

from resnext.errors import RequestError
from resnext.weights.readers.pickle import allowed, numpy_arrays
from resnext.weights.readers.pickle.stream import PickleStream
from resnext.weights.readers.pickle.values import (
    AllowedName,
    Budget,
    Make,
    Placeholder,
    describe,
    escape_name,
    read_exactly,
)

MAX_DIMENSIONS = 32
MAX_ELEMENTS = 2**50  # elements of a tensor or storage
MAX_KEY_LENGTH = 100

DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}


class StorageClass(Placeholder):
    """A storage class in a pickle, such as torch.FloatStorage."""

    __slots__ = ("dtype", "name")

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        self.name, self.dtype = name, dtype

    def resolve(self) -> Any:
        """Raise RequestError: a class is not data."""
        raise RequestError(f"holds the class {self.name} where data was expected")


class Storage(Placeholder):
    """A storage of ``count`` elements. Its bytes are set after the pickle has been read."""

    __slots__ = ("count", "data", "dtype", "key")

    def __init__(self, key: str, dtype: torch.dtype, count: int) -> None:
        self.key, self.dtype, self.count = key, dtype, count
        self.data: Tensor | None = None

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self.count * self.dtype.itemsize

    def set_bytes(self, data: Tensor) -> None:
        """Set the data from a uint8 tensor [size]."""
        if self.dtype == torch.bool:
            data.clamp_(max=1)
        self.data = data.view(self.dtype)

    def get_elements(self) -> tuple[Tensor, int]:
        """Return the elements [n], and the index of this storage's first one."""
        if self.data is None:
            raise RequestError(f"has no data for the storage {escape_name(self.key)}")
        return self.data, 0

    def resolve(self) -> Any:
        """Raise RequestError: a storage without a tensor is not supported."""
        raise RequestError("holds a torch storage where a tensor was expected; save tensors")


class StorageView(Storage):
    """A part of another storage, as written by torch before 0.4."""

    __slots__ = ("root", "start")

    def __init__(self, root: Storage, start: int, count: int) -> None:
        super().__init__(root.key, root.dtype, count)
        self.root, self.start = root, start

    def get_elements(self) -> tuple[Tensor, int]:
        """Return the elements of the whole storage, and the index of this part's first one."""
        numbers, before = self.root.get_elements()
        return numbers, before + self.start


class StoredTensor(Placeholder):
    """A tensor whose data are not read yet."""

    __slots__ = ("offset", "size", "storage", "stride")

    def __init__(self, storage: Storage, offset: Any, size: Any, stride: Any) -> None:
        for values in ((offset,), size, stride):
            if type(values) is not tuple or not all(type(value) is int and 0 <= value < 2**60 for value in values):
                raise RequestError("has a tensor whose sizes and strides are not whole numbers from 0")
        if len(size) != len(stride) or len(size) > MAX_DIMENSIONS:
            raise RequestError(f"has a tensor of {len(size)} sizes and {len(stride)} strides")
        if math.prod(max(side, 1) for side in size) >= MAX_ELEMENTS:
            raise RequestError(f"has a tensor of size {_format_sizes(size)}, which is too large")
        if math.prod(size) > storage.count:
            raise RequestError(
                f"has a tensor of {_format_sizes(size)} in a storage of {storage.count:,} elements; "
                "expanded tensors are not supported, save tensor.contiguous()"
            )
        if 0 in size:
            offset = 0  # an empty tensor may have any offset
        elif offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True)) >= storage.count:
            raise RequestError(f"has a tensor of {_format_sizes(size)} that ends beyond its storage")
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def resolve(self) -> Tensor:
        """Return the tensor, a view of its storage."""
        numbers, before = self.storage.get_elements()
        return numbers.as_strided(self.size, self.stride, before + self.offset)


def _format_sizes(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size[:6])) + ("x..." if len(size) > 6 else "") if size else "one number"


def get_storage(found: dict[str, Storage], kind: Any, key: Any, count: Any) -> Storage:
    """Get the storage ``key``, or add it if it is new. Raises RequestError if it was declared differently before."""
    if not isinstance(kind, StorageClass):
        raise RequestError(f"has a storage of {describe(kind)}")
    if type(key) is not str or len(key) > MAX_KEY_LENGTH or type(count) is not int or not 0 <= count < MAX_ELEMENTS:
        raise RequestError("has a storage without a valid key and size")
    storage = found.setdefault(key, Storage(key, kind.dtype, count))
    if (storage.dtype, storage.count) != (kind.dtype, count):
        raise RequestError(f"declares the storage {escape_name(key)} twice, with different sizes or kinds")
    return storage


def read_bytes(file: IO[bytes], offset: int, size: int) -> Tensor:
    """Read ``size`` bytes of ``file`` into a new uint8 tensor."""
    data = torch.empty(size, dtype=torch.uint8)
    file.seek(offset)
    read_exactly(file, data.numpy().data)
    return data


def to_native_byte_order(data: Tensor, dtype: torch.dtype, order: str) -> Tensor:
    """Convert data from byte ``order`` ("little" or "big") to this machine's, in place."""
    if order != sys.byteorder and dtype.itemsize > 1:
        data.numpy().view(f"u{dtype.itemsize}").byteswap(inplace=True)
    return data


def read_storage(stream: PickleStream, storage: Storage) -> None:
    """Read the data of a storage at the position of ``stream``: the number of elements, then their bytes."""
    count = stream.read_number("<q")
    if count != storage.count:
        key = escape_name(storage.key)
        raise RequestError(f"has {count:,} elements in the storage {key}, but declares {storage.count:,}")
    start = stream.position
    stream.skip(storage.size)
    storage.set_bytes(to_native_byte_order(read_bytes(stream.file, start, storage.size), storage.dtype, "little"))
    stream.file.seek(stream.position)


def _rebuild_tensor(arguments: tuple[Any, ...], budget: Budget) -> StoredTensor:  # noqa: ARG001
    """Handle ``_rebuild_tensor(storage, offset, size, stride)`` and v2, whose gradient flag and hooks are ignored."""
    if len(arguments) not in (4, 6, 7) or not isinstance(arguments[0], Storage):
        raise RequestError("has a tensor without a storage, sizes and strides")
    if len(arguments) == 7 and arguments[6]:
        raise RequestError("has a tensor that is marked as conjugate or negative; save tensor.resolve_neg()")
    return StoredTensor(*arguments[:4])


def _rebuild_parameter(arguments: tuple[Any, ...], budget: Budget) -> StoredTensor:  # noqa: ARG001
    if len(arguments) != 3 or not isinstance(arguments[0], StoredTensor):
        raise RequestError("has a parameter that is not a tensor")
    return arguments[0]


def _make_size(arguments: tuple[Any, ...], budget: Budget) -> tuple[int, ...]:  # noqa: ARG001
    match arguments:
        case ():
            return ()
        case (tuple() as size,) if all(type(side) is int for side in size):
            return size
    raise RequestError("has a malformed torch.Size")


def _make_device(arguments: tuple[Any, ...], budget: Budget) -> str:  # noqa: ARG001
    match arguments:
        case (str() as kind,):
            return kind
        case (str() as kind, int() as index):
            return f"{kind[:40]}:{index}"
    raise RequestError("has a malformed torch.device")


_CONSTRUCTORS: dict[str, Make] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch.Size": _make_size,
    "torch.device": _make_device,
}
UNTYPED_STORAGE = StorageClass("torch.UntypedStorage", torch.uint8)
# all names that a file may use: Python's, NumPy's and torch's
ALLOWED_NAMES: dict[str, Any] = {
    **allowed.ALLOWED_NAMES,
    **numpy_arrays.ALLOWED_NAMES,
    **{name: AllowedName(name, make) for name, make in _CONSTRUCTORS.items()},
    **{f"torch.{kind}Storage": StorageClass(f"torch.{kind}Storage", dtype) for kind, dtype in DTYPES.items()},
    **dict.fromkeys(("torch.storage.UntypedStorage", "torch.UntypedStorage"), UNTYPED_STORAGE),
    **{str(dtype): dtype for dtype in DTYPES.values()},
    **{f"torch.{name}": getattr(torch, name) for name in ("complex64", "complex128")},
}
