"""Read files of ``torch.save`` since torch 1.6: an uncompressed zip of a pickle and an entry per storage."""

from typing import IO, Any

from resnext.errors import RequestError
from resnext.weights.readers.pickle.machine import interpret
from resnext.weights.readers.pickle.stream import PickleStream
from resnext.weights.readers.pickle.values import escape_name, resolve
from resnext.weights.readers.torch_tensors import ALLOWED_NAMES, Storage, get_storage, to_native_byte_order
from resnext.weights.readers.zip_entries import list_entries, read_entry

MAX_ORDER_BYTES = 64  # bytes of the entry byteorder that are read
TORCHSCRIPT_ENTRIES = ("constants.pkl", "code/", "model.json")
EXPORTED_PROGRAM_ENTRIES = ("archive_format", "models/", "serialized_exported_program.json", "archive_version")

# by the ending of one of its entries
OTHER_ARCHIVES = {
    ".npy": "is an archive of NumPy arrays (.npz), which is not supported as weights",
    "model.weights.h5": "is a Keras model; networks of other frameworks are not supported",
}


def read_zip(file: IO[bytes], size: int) -> Any:
    """Read a zip archive of ``torch.save``. Error messages do not include the path."""
    entries = list_entries(file, size, _check_torch_save)
    program = entries["data.pkl"]
    checked = program.checksum != 0  # torch can write archives without checksums; then all are 0
    if checked:
        read_entry(file, "data.pkl", program, checked)
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
        data = read_entry(file, f"data/{key}", entry, checked)
        storage.set_bytes(to_native_byte_order(data, storage.dtype, order))
    return resolve(value)


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
