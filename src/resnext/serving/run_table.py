"""Find the training runs below a folder, and open their files so that no symbolic link leads out of it.

A name from a request is looked up in the table made here by listing; it never becomes a path.
"""

import hashlib
import os
import re
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAX_DEPTH = 4  # folders between the served folder and a run
MAX_ENTRIES = 50_000  # directory entries looked at in one listing
MAX_RUNS = 1_000
KEEP_SECONDS = 2.0  # how long a listing answers


@dataclass(frozen=True)
class FoundRun:
    """A run directory below the served folder: its name in addresses, its name for people, and its folders."""

    id: str  # ASCII letters, digits and . _ ~ - only
    name: str  # folders below the served one, with /
    parts: tuple[str, ...]  # the same as directory entries


@dataclass(frozen=True)
class FileStamp:
    """What tells that a file changed: inode, size in bytes, and modification time in ns."""

    inode: int
    size: int
    mtime_ns: int


class RunTable:
    """The runs below ``folder``, found by listing at most every two seconds. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.lock = threading.Lock()
        self.found: dict[str, FoundRun] = {}
        self.listed = -KEEP_SECONDS

    def list_runs(self) -> list[FoundRun]:
        """Return all runs, by name."""
        with self.lock:
            if time.monotonic() - self.listed >= KEEP_SECONDS:
                self.found = {run.id: run for run in name_runs(self.folder)}
                self.listed = time.monotonic()
            return list(self.found.values())

    def find(self, run_id: str) -> FoundRun | None:
        """Look up a run; None if the listing has none of this name."""
        self.list_runs()
        return self.found.get(run_id)

    def open(self, run: FoundRun, *names: str) -> BinaryIO:
        """Open a regular file of a run. Raises OSError if there is none or a symbolic link is on the way."""
        return open_beneath(self.folder, *run.parts, *names)

    def stamp(self, run: FoundRun, *names: str) -> FileStamp | None:
        """Return the stamp of a regular file of a run; None if there is none."""
        try:
            with self.open(run, *names) as file:
                return read_stamp(file)
        except OSError:
            return None

    def read(self, run: FoundRun, *names: str, limit: int) -> bytes | None:
        """Read a file of at most ``limit`` bytes; None if there is none or it is larger."""
        try:
            with self.open(run, *names) as file:
                data = file.read(limit + 1)
        except OSError:
            return None
        return data if len(data) <= limit else None


def read_stamp(file: BinaryIO) -> FileStamp:
    """Return the stamp of an open file."""
    about = os.fstat(file.fileno())
    return FileStamp(about.st_ino, about.st_size, about.st_mtime_ns)


def open_beneath(folder: Path, *parts: str) -> BinaryIO:
    """Open the regular file ``parts`` below ``folder`` for reading, folder by folder, following no symbolic link.

    Raises OSError for a missing file, a link, a folder, a pipe or a device.
    """
    *folders, name = parts
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in folders:
            inside = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle)
            os.close(handle)
            handle = inside
        # opening a pipe would otherwise wait for its writer
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=handle)
    finally:
        os.close(handle)
    try:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise OSError(f"{name} is not a regular file")
        return os.fdopen(opened, "rb", buffering=0)
    except BaseException:
        with suppress(OSError):
            os.close(opened)
        raise


def name_runs(folder: Path) -> Iterator[FoundRun]:
    """Find the run directories at or below ``folder`` and give each an id that no other has, sorted by name."""
    taken: set[str] = set()
    for parts in sorted(list_run_folders(folder))[:MAX_RUNS]:
        name = "/".join(parts) or folder.name or "run"
        run_id = re.sub(r"[^A-Za-z0-9._-]", "~", name)
        if run_id != name or run_id in taken or run_id.strip(".") == "":
            run_id = f"{run_id[:60]}~{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"
        taken.add(run_id)
        yield FoundRun(run_id, name.encode("utf-8", "backslashreplace").decode(), parts)


def list_run_folders(folder: Path) -> Iterator[tuple[str, ...]]:
    """Iterate over the run directories at or below ``folder``, each as the names of its folders; links are left out."""
    waiting: list[tuple[str, ...]] = [()]
    seen = 0
    while waiting:
        parts = waiting.pop(0)
        folders: list[str] = []
        is_run = False
        with suppress(OSError), os.scandir(folder.joinpath(*parts)) as entries:
            for entry in entries:
                seen += 1
                if seen > MAX_ENTRIES:
                    return
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                    folders.append(entry.name)
                is_run |= entry.name in ("recipe.yaml", "log.jsonl") and entry.is_file(follow_symlinks=False)
        if is_run:
            yield parts
        elif len(parts) < MAX_DEPTH:
            waiting += [(*parts, name) for name in sorted(folders)]
