"""Read files of ``torch.save`` before version 0.2: a tar of storages, tensors and a pickle that refers to them.

``torch.load(weights_only=True)`` does not read them. The members are located by walking the headers; nothing is
extracted. Python's tarfile is not used, because some versions recurse or backtrack endlessly on hostile headers.
"""

import math
import re
from typing import IO, Any

from resnext.errors import RequestError
from resnext.weights.readers import torch_tensors
from resnext.weights.readers.pickle.machine import interpret
from resnext.weights.readers.pickle.stream import PickleStream
from resnext.weights.readers.pickle.values import AllowedName, escape_name, resolve
from resnext.weights.readers.torch_tensors import ALLOWED_NAMES, DTYPES, Storage, StorageView, StoredTensor

BLOCK_BYTES = 512  # bytes of a header; members are padded to a multiple of it
MAX_MEMBERS = 64
MAX_ITEMS = 100_000  # storages or tensors
REQUIRED_MEMBERS = ("storages", "tensors", "pickle")
FILE_TYPES, ATTRIBUTE_TYPES = b"0\0", b"xg"  # members: a file; attributes of the next member, which are ignored
OCTAL_PATTERN = re.compile(rb" *([0-7]{1,12})[ \0]*")
TENSOR_NAMES = {
    name: AllowedName(name) for kind in DTYPES for name in (f"torch.{kind}Tensor", f"torch.cuda.{kind}Tensor")
}
STORAGE_NAMES = {f"torch.cuda.{kind}Storage": ALLOWED_NAMES[f"torch.{kind}Storage"] for kind in DTYPES}
TAR_ALLOWED_NAMES: dict[str, Any] = ALLOWED_NAMES | TENSOR_NAMES | STORAGE_NAMES


def read_tar(file: IO[bytes], size: int) -> Any:
    """Read a tar archive of ``torch.save``. Error messages do not include the path."""
    members = _list_members(file, size)
    if not all(name in members for name in REQUIRED_MEMBERS):
        shown_names = ", ".join(escape_name(name)[:40] for name in list(members)[:4])
        raise RequestError(f"is a tar archive, but not of torch.save (it has {shown_names}); unpack it first")
    storages = _read_storages(PickleStream(file, *members["storages"]))
    named = storages | _read_tensors(PickleStream(file, *members["tensors"]), storages)

    def persistent(identity: Any) -> Any:
        if isinstance(identity, tuple):
            raise RequestError(
                "holds a whole pickled model, which needs code; save its state_dict() with the old torch"
            )
        name = str(identity) if type(identity) in (int, str) else ""
        if name not in named:
            raise RequestError("refers to a tensor that it does not have")
        return named[name]

    return resolve(interpret(PickleStream(file, *members["pickle"]), TAR_ALLOWED_NAMES, persistent))


def _list_members(file: IO[bytes], size: int) -> dict[str, tuple[int, int]]:
    """List the files in the archive: name -> (start, end)."""
    members: dict[str, tuple[int, int]] = {}
    position = 0
    for _ in range(MAX_MEMBERS):
        file.seek(position)
        header = file.read(BLOCK_BYTES)
        if len(header) < BLOCK_BYTES or not header.strip(b"\0"):
            return members
        length = _parse_octal(header[124:136])
        if _parse_octal(header[148:156]) != sum(header) - sum(header[148:156]) + 8 * ord(" "):
            raise RequestError(f"is a damaged tar archive: the header at byte {position:,} has a wrong checksum")
        start, name = position + BLOCK_BYTES, header[:100].split(b"\0", 1)[0].decode("utf-8", "backslashreplace")
        if start + length > size:
            declared = f"{escape_name(name)} declares {length:,} bytes"
            raise RequestError(f"is truncated: {declared}, {size - start:,} are left")
        position = start + math.ceil(length / BLOCK_BYTES) * BLOCK_BYTES
        if header[156:157] in ATTRIBUTE_TYPES:
            continue
        name = name.removeprefix("./").removesuffix("/")
        if header[156] not in FILE_TYPES:
            if name in REQUIRED_MEMBERS:
                raise RequestError(f"is a tar archive with a link or folder for {name}")
            continue
        if name in members:
            raise RequestError(f"has two members {escape_name(name)} in its archive")
        members[name] = (start, start + length)
    raise RequestError(f"is a tar archive of more than {MAX_MEMBERS} members; unpack it first")


def _parse_octal(field: bytes) -> int:
    found = OCTAL_PATTERN.fullmatch(field)
    if found is None:
        raise RequestError("is a damaged tar archive: a header has a malformed number")
    return int(found[1], 8)


def _read_count(stream: PickleStream) -> int:
    count = interpret(stream, {})
    if type(count) is not int or not 0 <= count <= MAX_ITEMS:
        raise RequestError(f"declares an invalid number of tensors; at most {MAX_ITEMS:,} are supported")
    return count


def _read_storages(stream: PickleStream) -> dict[str, Storage]:
    """Read the storages by key: each is followed by its data; then come the views of storages."""
    storages: dict[str, Storage] = {}
    for _ in range(_read_count(stream)):
        match interpret(stream, TAR_ALLOWED_NAMES):
            case (int() | str() as key, str(), kind) if str(key) not in storages:
                count = stream.read_number("<q")
                stream.step_back(8)
                torch_tensors.read_storage(stream, torch_tensors.get_storage(storages, kind, str(key), count))
            case _:
                raise RequestError("has a storage that is malformed or declared twice")
    roots = dict(storages)  # a view is always of one of these
    views = resolve(interpret(stream, {}))
    for view in views if isinstance(views, list) else [None]:
        match view:
            case (int() | str() as key, int() | str() as root, int() as start, int() as count) if (
                str(root) in roots and min(start, count) >= 0 and start + count <= roots[str(root)].count
            ):
                storages[str(key)] = StorageView(roots[str(root)], start, count)
            case _:
                raise RequestError("has a malformed view of a storage")
    return storages


def _read_tensors(stream: PickleStream, storages: dict[str, Storage]) -> dict[str, StoredTensor]:
    """Read the tensors by key: a pickle of (key, storage key, class), then sizes and strides."""
    tensors: dict[str, StoredTensor] = {}
    for _ in range(_read_count(stream)):
        match interpret(stream, TAR_ALLOWED_NAMES):
            case (int() | str() as key, int() | str() as storage, _) if str(storage) in storages:
                dimensions = stream.read_number("<i4x")
                if not 0 <= dimensions <= torch_tensors.MAX_DIMENSIONS:
                    raise RequestError(f"has a tensor of {dimensions:,} dimensions")
                size = tuple(stream.read_number("<q") for _ in range(dimensions))
                stride = tuple(stream.read_number("<q") for _ in range(dimensions))
                tensors[str(key)] = StoredTensor(storages[str(storage)], stream.read_number("<q"), size, stride)
            case _:
                raise RequestError("has a malformed tensor, or one without a storage in the archive")
    return tensors
