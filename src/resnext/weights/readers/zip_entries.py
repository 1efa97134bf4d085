"""List the entries of a zip archive as PyTorch writes it: uncompressed, in a single folder."""

import struct
import zipfile
import zlib
from collections.abc import Callable
from itertools import pairwise
from typing import IO, NamedTuple

from torch import Tensor

from resnext.errors import RequestError
from resnext.weights.readers.pickle.values import escape_name
from resnext.weights.readers.torch_tensors import read_bytes

MAX_DIRECTORY_BYTES = 4 << 20  # bytes of a zip's directory: about 40,000 entries
LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, ..., lengths of the name and of the extra field


class ZipEntry(NamedTuple):
    """The position of an archive entry in the file."""

    offset: int
    size: int
    checksum: int


def read_entry(file: IO[bytes], name: str, entry: ZipEntry, checked: bool) -> Tensor:
    """Read an entry into a new uint8 tensor. Raises RequestError if ``checked`` and its checksum is wrong."""
    data = read_bytes(file, entry.offset, entry.size)
    if checked and zlib.crc32(data.numpy().data) != entry.checksum:
        raise RequestError(f"is damaged: its entry {escape_name(name)} has a wrong checksum")
    return data


class _LimitedReader:
    """A file whose ``read`` returns at most MAX_DIRECTORY_BYTES, so that zipfile cannot allocate more."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, count: int = -1) -> bytes:
        """Read at most ``count`` bytes. Raises BadZipFile if there are too many."""
        data = self.file.read(MAX_DIRECTORY_BYTES + 1 if count < 0 else min(count, MAX_DIRECTORY_BYTES + 1))
        if len(data) > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile("its directory is too large")
        return data

    def seekable(self) -> bool:
        """Return True, which zipfile requires."""
        return True


def list_entries(file: IO[bytes], size: int, check_names: Callable[[list[str]], None]) -> dict[str, ZipEntry]:
    """List the entries of a file of ``size`` bytes by their name below the archive's single folder.

    ``check_names`` is called with the names before the entries themselves are looked at. Error messages do not include
    the path. Raises RequestError for anything that torch never writes: no entry overlaps another, and none is
    compressed, so that all together are not larger than the file.
    """
    try:
        with zipfile.ZipFile(_LimitedReader(file)) as archive:
            infos, end = archive.infolist(), archive.start_dir
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, OverflowError, struct.error) as error:
        raise RequestError(f"is not a complete zip archive: {error}; was the download interrupted?") from None
    names = [info.filename for info in infos]
    for name in (info.orig_filename for info in infos):
        if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
            raise RequestError(f"has a zip entry {escape_name(name)}, whose name leads out of the archive")
    roots = {name.split("/", 1)[0] for name in names}
    below = [name.partition("/")[2] if len(roots) == 1 else name for name in names]
    check_names(below)
    entries: dict[str, ZipEntry] = {}
    taken = [(end, end)]
    for name, info in zip(below, infos, strict=True):
        if name in entries:
            raise RequestError(f"has two entries {escape_name(name)}")
        entries[name] = _locate_entry(file, size, info)
        taken.append((info.header_offset, entries[name].offset + info.file_size))
    taken.sort()
    if any(first[1] > second[0] for first, second in pairwise(taken)):
        raise RequestError("has overlapping zip entries")
    return entries


def _locate_entry(file: IO[bytes], size: int, info: zipfile.ZipInfo) -> ZipEntry:
    """Find the bytes of an entry, and check that they lie within the file."""
    name = escape_name(info.filename)
    if info.flag_bits & 0x2041:
        raise RequestError(f"has an encrypted zip entry {name}")
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise RequestError(f"has a compressed zip entry {name}; torch.save does not compress, so unzip it first")
    file.seek(max(0, info.header_offset))
    header = file.read(LOCAL_HEADER.size)
    if info.header_offset < 0 or len(header) < LOCAL_HEADER.size or header[:4] != b"PK\3\4":
        raise RequestError(f"has no zip entry at the position of {name}")
    _, name_length, extra_length = LOCAL_HEADER.unpack(header)
    offset = info.header_offset + LOCAL_HEADER.size + name_length + extra_length
    if offset + info.file_size > size:
        left = max(0, size - offset)
        raise RequestError(f"is truncated: {name} declares {info.file_size:,} bytes, {left:,} are left")
    return ZipEntry(offset, info.file_size, info.CRC)
