"""Read files of ``torch.save`` before torch 1.6: a sequence of pickles, then the data of the storages."""

from typing import IO, Any

from resnext.errors import RequestError
from resnext.weights.readers.pickle.machine import interpret
from resnext.weights.readers.pickle.stream import PickleStream
from resnext.weights.readers.pickle.values import escape_name, resolve
from resnext.weights.readers.torch_tensors import ALLOWED_NAMES, Storage, StorageView, get_storage, read_storage

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # value of the first pickle
LEGACY_PROTOCOL = 1001  # value of the second pickle


def read_legacy(file: IO[bytes], size: int) -> Any:
    """Read a file of torch before 1.6. Error messages do not include the path."""
    stream = PickleStream(file, 0, size)
    if interpret(stream, {}) != LEGACY_MAGIC:
        raise RequestError("is not a file of torch.save")
    version = interpret(stream, {})
    if version != LEGACY_PROTOCOL:
        raise RequestError(f"is a file of torch.save with an unknown protocol version; expected {LEGACY_PROTOCOL}")
    system = resolve(interpret(stream, {}))
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise RequestError("was saved on a big-endian machine, which is not supported in this format")
    found: dict[str, Storage] = {}
    value = interpret(stream, ALLOWED_NAMES, lambda identity: _get_legacy_storage(found, identity))
    keys = resolve(interpret(stream, {}))
    if type(keys) is not list or not all(type(key) is str for key in keys) or sorted(keys) != sorted(found):
        raise RequestError("has a list of storages that does not match those of its tensors")
    for key in keys:
        read_storage(stream, found[key])
    return resolve(value)


def _get_legacy_storage(found: dict[str, Storage], identity: Any) -> Storage:
    match identity:
        case ("storage", kind, key, str() | None, count, None):
            return get_storage(found, kind, key, count)
        case ("storage", kind, key, str() | None, count, (str(), int() as start, int() as length)):
            root = get_storage(found, kind, key, count)
            if min(start, length) < 0 or start + length > count:
                raise RequestError(f"has a view of the storage {escape_name(key)} that ends beyond it")
            return StorageView(root, start, length)
        case ("module", *_):
            raise RequestError(
                "holds a whole pickled model, which needs code; save model.state_dict() with the program that made it"
            )
    raise RequestError("has a persistent id in its pickle that is not a storage")
