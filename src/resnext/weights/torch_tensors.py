"""Torch's tensors in a pickle: a storage that the pickle refers to, and sizes and strides that must lie inside it.

Nothing of torch is called by name. The numbers are read after the pickle, storage by storage, into memory of their
own, so that the tensors do not depend on the file; tensors that shared a storage share it again.
"""

import math
import sys
from collections.abc import Callable
from typing import IO, Any

import torch
from torch import Tensor

from resnext.errors import RequestError
from resnext.weights import numpy_pickles, pickle_names
from resnext.weights.pickle_values import Meter, Named, Shell, described, fill, shown

MOST_DIMENSIONS = 32
LARGEST = 2**50  # numbers, of a tensor or storage
LONGEST_KEY = 100

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


class StorageClass(Shell):
    """The name of a class of storages, such as torch.FloatStorage."""

    __slots__ = ("dtype", "name")

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        self.name, self.dtype = name, dtype

    def settle(self) -> Any:
        raise RequestError(f"holds the class {self.name} where data was expected")


class Storage(Shell):
    """``count`` numbers, whose bytes are put in when the pickle has been read."""

    __slots__ = ("count", "data", "dtype", "key")

    def __init__(self, key: str, dtype: torch.dtype, count: int) -> None:
        self.key, self.dtype, self.count = key, dtype, count
        self.data: Tensor | None = None

    @property
    def size(self) -> int:
        """In bytes."""
        return self.count * self.dtype.itemsize

    def put(self, data: Tensor) -> None:
        """Its bytes, a uint8 tensor [size]."""
        if self.dtype == torch.bool:
            data.clamp_(max=1)
        self.data = data.view(self.dtype)

    def numbers(self) -> tuple[Tensor, int]:
        """The numbers [n], and where among them this storage starts."""
        if self.data is None:
            raise RequestError(f"has no numbers for the storage {shown(self.key)}")
        return self.data, 0

    def settle(self) -> Any:
        raise RequestError("holds a bare storage of torch where data was expected; save tensors")


class StorageView(Storage):
    """A part of another storage, as torch before 0.4 wrote it."""

    __slots__ = ("root", "start")

    def __init__(self, root: Storage, start: int, count: int) -> None:
        super().__init__(root.key, root.dtype, count)
        self.root, self.start = root, start

    def numbers(self) -> tuple[Tensor, int]:
        numbers, before = self.root.numbers()
        return numbers, before + self.start


class StoredTensor(Shell):
    """A tensor, but for its numbers."""

    __slots__ = ("offset", "size", "storage", "stride")

    def __init__(self, storage: Storage, offset: Any, size: Any, stride: Any) -> None:
        for values in ((offset,), size, stride):
            if type(values) is not tuple or not all(type(value) is int and 0 <= value < 2**60 for value in values):
                raise RequestError("has a tensor whose sizes and strides are not whole numbers from 0")
        if len(size) != len(stride) or len(size) > MOST_DIMENSIONS:
            raise RequestError(f"has a tensor of {len(size)} sizes and {len(stride)} strides")
        if math.prod(max(side, 1) for side in size) >= LARGEST:
            raise RequestError(f"has a tensor of the impossible size {_sizes(size)}")
        if math.prod(size) > storage.count:
            raise RequestError(
                f"has a tensor of {_sizes(size)} in a storage of {storage.count:,} numbers; "
                "expanded tensors are not read, save tensor.contiguous()"
            )
        if 0 in size:
            offset = 0  # a part of an empty tensor may start anywhere
        elif offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True)) >= storage.count:
            raise RequestError(f"has a tensor of {_sizes(size)} that ends beyond its storage")
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def settle(self) -> Tensor:
        numbers, before = self.storage.numbers()
        return numbers.as_strided(self.size, self.stride, before + self.offset)


def _sizes(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size[:6])) + ("x..." if len(size) > 6 else "") if size else "one number"


def storage_of(found: dict[str, Storage], kind: Any, key: Any, count: Any) -> Storage:
    """The storage ``key``, new or as it was declared before. Raises RequestError."""
    if not isinstance(kind, StorageClass):
        raise RequestError(f"has a storage of {described(kind)}")
    if type(key) is not str or len(key) > LONGEST_KEY or type(count) is not int or not 0 <= count < LARGEST:
        raise RequestError("has a storage without a name and a size")
    storage = found.setdefault(key, Storage(key, kind.dtype, count))
    if (storage.dtype, storage.count) != (kind.dtype, count):
        raise RequestError(f"declares the storage {shown(key)} twice, with different sizes or kinds")
    return storage


def read_bytes(file: IO[bytes], offset: int, size: int) -> Tensor:
    """``size`` bytes of ``file``, which must have them, as a new uint8 tensor. Raises RequestError."""
    data = torch.empty(size, dtype=torch.uint8)
    file.seek(offset)
    fill(file, memoryview(data.numpy()))
    return data


def in_this_order(data: Tensor, dtype: torch.dtype, order: str) -> Tensor:
    """Bytes of numbers from a machine of byte ``order`` ("little" or "big"), in this machine's."""
    if order != sys.byteorder and dtype.itemsize > 1:
        data.numpy().view(f"u{dtype.itemsize}").byteswap(inplace=True)
    return data


def _tensor(arguments: tuple[Any, ...], meter: Meter) -> StoredTensor:  # noqa: ARG001
    """``_rebuild_tensor(storage, offset, size, stride)`` and v2, with gradients and hooks that are not needed."""
    if len(arguments) not in (4, 6, 7) or not isinstance(arguments[0], Storage):
        raise RequestError("has a tensor without a storage, sizes and strides")
    if len(arguments) == 7 and arguments[6]:
        raise RequestError("has a tensor that is marked as conjugate or negative; save tensor.resolve_neg()")
    return StoredTensor(*arguments[:4])


def _parameter(arguments: tuple[Any, ...], meter: Meter) -> StoredTensor:  # noqa: ARG001
    if len(arguments) != 3 or not isinstance(arguments[0], StoredTensor):
        raise RequestError("has a parameter that is no tensor")
    return arguments[0]


def _size(arguments: tuple[Any, ...], meter: Meter) -> tuple[int, ...]:  # noqa: ARG001
    match arguments:
        case ():
            return ()
        case (tuple() as size,) if all(type(side) is int for side in size):
            return size
    raise RequestError("has a torch.Size that is none")


def _device(arguments: tuple[Any, ...], meter: Meter) -> str:  # noqa: ARG001
    match arguments:
        case (str() as kind,):
            return kind
        case (str() as kind, int() as index):
            return f"{kind[:40]}:{index}"
    raise RequestError("has a torch.device that is none")


_CALLED: dict[str, Callable[[tuple[Any, ...], Meter], Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _size,
    "torch.device": _device,
}
# all that any file may name: Python's, NumPy's and torch's
NAMES: dict[str, Any] = {
    **pickle_names.NAMES,
    **numpy_pickles.NAMES,
    **{name: Named(name, make) for name, make in _CALLED.items()},
    **{f"torch.{kind}Storage": StorageClass(f"torch.{kind}Storage", dtype) for kind, dtype in DTYPES.items()},
    **{
        f"torch{module}.UntypedStorage": StorageClass("torch.UntypedStorage", torch.uint8)
        for module in (".storage", "")
    },
    **{str(dtype): dtype for dtype in DTYPES.values()},
    **{f"torch.{name}": getattr(torch, name) for name in ("complex64", "complex128")},
}
