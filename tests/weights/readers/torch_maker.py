"""Files of torch made by hand, for tests: archives that torch.save would not write, and the old tar."""

import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnext.errors import RequestError
from resnext.weights.readers.detect_format import read_weights_file
from resnext.weights.readers.torch_tar import BLOCK_BYTES
from tests.weights.adapters.adapter_helpers import get_error

LEGACY = {"_use_new_zipfile_serialization": False}  # for torch.save


def read_value(path: Path) -> Any:
    """What our reader finds in the file."""
    return read_weights_file(path).value


def read_error(path: Path) -> str:
    """The one line, beginning with the path, in which our reader refuses the file."""
    said = get_error(lambda: read_weights_file(path), str(path))
    assert said.count(str(path)) == 1
    return said


def check_value_or_error(path: Path, data: bytes | None = None) -> None:
    """Reading the file (with ``data``, if given) ends with a value, or one line that begins with its path."""
    if data is not None:
        path.write_bytes(data)
    try:
        read_weights_file(path)
    except RequestError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)


def flip_bits(data: bytes, bits: Iterable[int]) -> bytes:
    """``data`` with the bits of these numbers (modulo its length) flipped."""
    changed = bytearray(data)
    for bit in bits:
        changed[bit // 8 % len(data)] ^= 1 << bit % 8
    return bytes(changed)


def torch_bytes(value: Any, **options: Any) -> bytes:
    """What ``torch.save`` writes."""
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def save_torch(path: Path, value: Any, **options: Any) -> Path:
    """``torch.save``, and the path."""
    torch.save(value, path, **options)
    return path


def rewrite_zip(path: Path, change: Callable[[dict[str, bytes]], Any], **options: Any) -> Path:
    """The zip ``path`` with its entries (name without the folder -> bytes) changed."""
    with zipfile.ZipFile(path) as old:
        root = old.namelist()[0].split("/", 1)[0]
        entries = {name.split("/", 1)[1]: old.read(name) for name in old.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w", **options) as new:
        for name, data in entries.items():
            new.writestr(name.lstrip("!") if name.startswith("!") else f"{root}/{name}", data)
    return path


class _Pickler(pickle.Pickler):
    """Refers to tensors by their number, as torch 0.1 did."""

    def persistent_id(self, value: Any) -> Any:
        return id(value) if isinstance(value, Tensor) else None


def tar_bytes(value: Any, tensors: list[Tensor], *, views: bool = False) -> bytes:
    """``value`` as torch 0.1 saved it, with its ``tensors``; ``views`` puts each in a part of its storage."""
    storages, shapes = io.BytesIO(), io.BytesIO()
    pickle.dump(len(tensors), storages, 2)
    pickle.dump(len(tensors), shapes, 2)
    parts = []
    for tensor in tensors:
        kind = getattr(torch, tensor.type().split(".")[1].replace("Tensor", "Storage"))
        key, part = id(tensor) + 1, id(tensor) + 2
        pickle.dump((key, "cpu", kind), storages, 2)
        numbers = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).numpy().tobytes()
        storages.write(struct.pack("<q", len(numbers) // tensor.itemsize) + numbers)
        offset = tensor.storage_offset()
        if views:
            parts.append((part, key, offset, len(numbers) // tensor.itemsize - offset))
            key, offset = part, 0
        pickle.dump((id(tensor), key, getattr(torch, tensor.type().split(".")[1])), shapes, 2)
        shapes.write(struct.pack("<i4x", tensor.dim()))
        shapes.write(struct.pack(f"<{2 * tensor.dim() + 1}q", *tensor.shape, *tensor.stride(), offset))
    pickle.dump(parts, storages, 2)
    program = io.BytesIO()
    _Pickler(program, 2).dump(value)
    members = {"sys_info": b"x", "pickle": program.getvalue(), "tensors": shapes.getvalue()}
    return tar_of(members | {"storages": storages.getvalue()})


def tar_of(members: dict[str, bytes]) -> bytes:
    """A tar archive, with the extra headers that a time with a fraction brings."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:", format=tarfile.PAX_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1.5
            archive.addfile(info, io.BytesIO(data))
    assert len(file.getvalue()) % BLOCK_BYTES == 0
    return file.getvalue()
