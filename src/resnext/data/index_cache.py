"""Arrays that took long to make, in the cache folder. They only save time: a lost or damaged file is made again."""

import hashlib
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from resnext.data.download import data_folder
from resnext.errors import WorkError
from resnext.files import written_whole

VERSION = 1  # of what the arrays mean; another one is another file
Arrays = dict[str, np.ndarray]
Valid = Callable[[Arrays], bool]


def index_folder() -> Path:
    return data_folder() / "indexes"


def recall(key: str, valid: Valid) -> Arrays | None:
    """The arrays kept under a key, None where there are none that can be trusted."""
    try:
        with np.load(_path(key), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return arrays if valid(arrays) else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, MemoryError):
        return None


def keep(key: str, arrays: Arrays) -> None:
    """Keep the arrays. A folder that cannot be written costs only the time of making them again."""
    try:
        index_folder().mkdir(parents=True, exist_ok=True)
        with written_whole(_path(key)) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
    except (OSError, WorkError):
        pass


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Of the processes of a run, one makes an index while the others wait and then find it."""
    lock = FileLock(index_folder() / ".lock")
    try:
        index_folder().mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print("waiting for another process that is indexing", file=sys.stderr)
            lock.acquire()
    except OSError:  # nothing can be kept there, so there is nothing to wait for
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _path(key: str) -> Path:
    digest = hashlib.sha256(f"{VERSION}\0{key}".encode("utf-8", "surrogateescape")).hexdigest()
    return index_folder() / f"{digest[:32]}.npz"
