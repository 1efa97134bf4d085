"""Read files of ``torch.save`` since torch 1.6: an uncompressed zip of a pickle and an entry per storage."""

import struct
import zipfile
import zlib
from itertools import pairwise
from typing import IO, Any, NamedTuple

from torch import Tensor

from resnext.errors import RequestError
from resnext.weights.readers.pickle.machine import interpret
from resnext.weights.readers.pickle.stream import PickleStream
from resnext.weights.readers.pickle.values import escape_name, resolve
from resnext.weights.readers.torch_tensors import ALLOWED_NAMES, Storage, get_storage, read_bytes, to_native_byte_order

MAX_DIRECTORY_BYTES = 4 << 20  # bytes of a zip's directory: about 40,000 entries
MAX_ORDER_BYTES = 64  # bytes of the entry byteorder that are read
LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, ..., lengths of the name and of the extra field
TORCHSCRIPT_ENTRIES = ("constants.pkl", "code/", "model.json")
EXPORTED_PROGRAM_ENTRIES = ("archive_format", "models/", "serialized_exported_program.json", "archive_version")

# by the ending of one of its entries
OTHER_ARCHIVES = {
    ".npy": "is an archive of NumPy arrays (.npz), which is not supported as weights",
    "model.weights.h5": "is a Keras model; networks of other frameworks are not supported",
}


class ZipEntry(NamedTuple):
    """The position of an archive entry in the file."""

    offset: int
    size: int
    checksum: int


def read_zip(file: IO[bytes], size: int) -> Any:
    """Read a zip archive of ``torch.save``. Error messages do not include the path."""
    entries = _list_entries(file, size)
    program = entries["data.pkl"]
    checked = program.checksum != 0  # torch can write archives without checksums; then all are 0
    if checked:
        _check_crc(read_bytes(file, program.offset, program.size), "data.pkl", program)
    order = "little"
    if "byteorder" in entries:
        file.seek(entries["byteorder"].offset)
        text = file.read(min(entries["byteorder"].size, MAX_ORDER_BYTES))
        order = text.decode("ascii", "backslashreplace") or order
    if order not in ("little", "big"):
        raise RequestError(f"has the byte order {escape_name(order)}; expected little or big")
    found: dict[str, Storage] = {}

    def persistent(identity: Any) -> Storage:
        match identity:
            case ("storage", kind, key, str() | None, count):
                return get_storage(found, kind, key, count)
        raise RequestError("has a persistent id in its pickle that is not a storage")

    stream = PickleStream(file, program.offset, program.offset + program.size)
    value = interpret(stream, ALLOWED_NAMES, persistent)
    for key, storage in found.items():
        entry = entries.get(f"data/{key}")
        if entry is None or entry.size != storage.size:
            has = "is missing" if entry is None else f"has {entry.size:,}"
            raise RequestError(f"needs {storage.size:,} bytes in its entry data/{escape_name(key)}, which {has}")
    for key, storage in sorted(found.items(), key=lambda item: entries[f"data/{item[0]}"].offset):
        entry = entries[f"data/{key}"]
        data = read_bytes(file, entry.offset, entry.size)
        if checked:
            _check_crc(data, f"data/{key}", entry)
        storage.set_bytes(to_native_byte_order(data, storage.dtype, order))
    return resolve(value)


def _check_crc(data: Tensor, name: str, entry: ZipEntry) -> None:
    if zlib.crc32(data.numpy().data) != entry.checksum:
        raise RequestError(f"is damaged: its entry {escape_name(name)} has a wrong checksum")


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


def _list_entries(file: IO[bytes], size: int) -> dict[str, ZipEntry]:
    """List the entries by their name below the archive's single folder. Refuses anything that torch never writes."""
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
    _check_torch_save(below)
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


def _check_torch_save(names: list[str]) -> None:
    """Check by the entry names that the archive was written by ``torch.save``; otherwise say what it is."""

    def has_any(marks: tuple[str, ...]) -> bool:
        return any(name == mark or (mark.endswith("/") and name.startswith(mark)) for mark in marks for name in names)

    if has_any(TORCHSCRIPT_ENTRIES):
        raise RequestError(
            "is a TorchScript program; save its tensors: torch.save(torch.jit.load(FILE).state_dict(), NEW)"
        )
    if "data.pkl" in names:
        return
    if any(name.endswith("/data.pkl") for name in names):
        raise RequestError("has more than one folder in its archive; torch.save writes one")
    if has_any(EXPORTED_PROGRAM_ENTRIES):
        raise RequestError(
            "is an exported program (.pt2); save its tensors: torch.save(torch.export.load(FILE).state_dict, NEW)"
        )
    for ending, what in OTHER_ARCHIVES.items():
        if any(name.endswith(ending) for name in names):
            raise RequestError(what)
    raise RequestError(
        "is a zip archive, but not of torch.save (it has no data.pkl); if it is a folder, unzip it first"
    )
