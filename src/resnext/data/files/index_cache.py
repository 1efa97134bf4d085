"""Cache of the indexes of archives: arrays in the cache folder. A lost or damaged file is made again."""

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np

from resnext.data.files.download import data_folder, hold_lock
from resnext.errors import WorkError
from resnext.files import atomic_write

VERSION = 1  # version of the content; part of the key, so older files are ignored
Arrays = dict[str, np.ndarray]


def index_folder() -> Path:
    """Return the folder of the cached indexes."""
    return data_folder() / "indexes"


def load_arrays(key: str, valid: Callable[[Arrays], bool]) -> Arrays | None:
    """Load the arrays cached under a key; None if there are none, or if ``valid`` rejects them."""
    try:
        with np.load(_cache_path(key), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return arrays if valid(arrays) else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, MemoryError):
        return None


def save_arrays(key: str, arrays: Arrays) -> None:
    """Cache the arrays under a key. If the folder cannot be written, nothing is cached."""
    with suppress(OSError, WorkError):
        index_folder().mkdir(parents=True, exist_ok=True)
        with atomic_write(_cache_path(key)) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]


@contextmanager
def lock_indexing() -> Iterator[None]:
    """Hold the lock of the cache: one process makes an index while the others wait and then load it."""
    with ExitStack() as stack:
        with suppress(OSError):  # nothing can be cached there, so no lock is needed
            index_folder().mkdir(parents=True, exist_ok=True)
            stack.enter_context(hold_lock(index_folder() / ".lock", "indexing"))
        yield


def _cache_path(key: str) -> Path:
    digest = hashlib.sha256(f"{VERSION}\0{key}".encode("utf-8", "surrogateescape")).hexdigest()
    return index_folder() / f"{digest[:32]}.npz"
