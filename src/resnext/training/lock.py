"""Lock a run directory, so that only one process at a time trains in it.

On one machine this is a kernel lock (flock) on the directory, which ends with its process. For other hosts and file
systems without flock there is ``.owner.json``: it names the owner, and its modification time, updated every few
seconds, is a heartbeat. Another process watches it for a while: if the time changes, the owner is alive, else dead.
No clocks are compared. A process wrongly considered dead (suspended, disconnected) finds another owner in the file
before it next writes, and stops.
"""

import fcntl
import json
import os
import platform
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import uuid4

from rich.console import Console

from resnext.errors import RequestError, WorkError, escape_unprintable
from resnext.run_directory import OWNER_FILE, RunDirectory
from resnext.screen import print_line

if TYPE_CHECKING:
    from resnext.training.distributed import World

HEARTBEAT_INTERVAL = 5.0  # seconds between two heartbeats
HEARTBEAT_TIMEOUT = 30.0  # seconds without a heartbeat after which a process on another host counts as dead
MAX_OWNER_BYTES = 1 << 16  # bytes
LOCKED_FOLDERS: set[int] = set()  # file descriptors of directories that this process has locked


def _close_all() -> None:
    """Close inherited lock descriptors: a forked loader worker that outlives its parent must not hold the lock."""
    while LOCKED_FOLDERS:
        os.close(LOCKED_FOLDERS.pop())


os.register_at_fork(after_in_child=_close_all)


class RunLock:
    """The lock of a run directory, held from ``acquire`` to ``release``."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.owner = {
            "token": uuid4().hex,
            "host": socket.gethostname(),
            "machine": read_machine(),
            "processes": read_process_namespace(),
            "pid": os.getpid(),
            "started": read_start_time(os.getpid()),
            "since": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        }
        self.created_folders: list[Path] = []  # folders created by acquire, the innermost first
        self.folder_fd: int | None = None  # file descriptor of the locked directory
        self.released = threading.Event()

    @property
    def path(self) -> Path:
        """Path of the owner file."""
        return self.run.path / OWNER_FILE

    def acquire(self, notify: Callable[[str], None]) -> None:
        """Create and lock the run directory; pass messages about waiting to ``notify``.

        Raises RequestError if another process holds the lock or the directory cannot be written.
        """
        try:
            missing = [path for path in (self.run.path, *self.run.path.parents) if not path.exists()]
            self.run.path.mkdir(parents=True, exist_ok=True)
            self.created_folders = missing
            alone = self._lock_folder()
            other = read_owner(self.path)
            if alone is False and (other is None or is_same(other, self.owner, "machine")):
                self._raise_locked(other)
            if other is not None:
                self._check_owner_dead(other, notify)
            self._write_owner()
        except OSError as error:
            self.release()
            raise RequestError(
                f"the run directory {self.run.path} cannot be written: {error.strerror or error}"
            ) from None
        except BaseException:
            self.release()
            raise
        threading.Thread(target=self._send_heartbeats, name="heartbeat of the run", daemon=True).start()

    def check_owner(self) -> None:
        """Raise WorkError if another process has taken over the run directory."""
        other = read_owner(self.path)
        if other is not None and other.get("token") != self.owner["token"]:
            raise WorkError(
                f"{describe_owner(other)} has taken over {self.run.path}, as this process sent no heartbeats: "
                "it writes nothing more there"
            )

    def release(self) -> None:
        """Release the lock and remove folders that ``acquire`` created if they are empty."""
        self.released.set()
        with suppress(OSError):
            owner = read_owner(self.path)
            if owner is not None and owner.get("token") == self.owner["token"]:
                self.path.unlink()
            for folder in self.created_folders:
                folder.rmdir()
        if self.folder_fd is not None and self.folder_fd in LOCKED_FOLDERS:
            LOCKED_FOLDERS.discard(self.folder_fd)
            os.close(self.folder_fd)
        self.folder_fd = None

    def _lock_folder(self) -> bool | None:
        """Try to lock the directory; return whether it succeeded, or None if flock is not available there."""
        self.folder_fd = os.open(self.run.path, os.O_RDONLY)
        LOCKED_FOLDERS.add(self.folder_fd)
        try:
            fcntl.flock(self.folder_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # network file systems: NFS cannot lock a directory
            return None
        return True

    def _check_owner_dead(self, other: dict[str, Any], notify: Callable[[str], None]) -> None:
        """Return if the process of owner ``other`` has ended; raise RequestError if it is alive.

        The kernel lock alone does not tell: two mounts of one network file system may not share locks.
        """
        if is_same(other, self.owner, "machine") and is_same(other, self.owner, "processes"):
            if is_alive(other):
                self._raise_locked(other)
            return
        notify(
            f"waiting up to {HEARTBEAT_TIMEOUT:g} s to see whether {describe_owner(other)} is still training in "
            f"{self.run.path}"
        )
        before, end = read_heartbeat(self.path), time.monotonic() + HEARTBEAT_TIMEOUT
        while before is not None and time.monotonic() < end:
            time.sleep(0.2)
            now = read_heartbeat(self.path)
            if now is None:
                return
            if now != before:
                self._raise_locked(other)

    def _raise_locked(self, other: dict[str, Any] | None) -> NoReturn:
        who = "another process" if other is None else describe_owner(other)
        raise RequestError(f"{who} is training in {self.run.path}: wait until it ends, or use another run directory")

    def _write_owner(self) -> None:
        """Write the owner file atomically; without fsync, because it is obsolete after a power failure."""
        part = self.path.with_name(f"{OWNER_FILE}.{self.owner['token']}.part")
        part.write_text(json.dumps(self.owner), encoding="utf-8")
        part.rename(self.path)

    def _send_heartbeats(self) -> None:
        while not self.released.wait(HEARTBEAT_INTERVAL):
            with suppress(OSError, WorkError):
                self.check_owner()
                os.utime(self.path)


@contextmanager
def lock_run(run: RunDirectory, world: "World", console: Console) -> Iterator[RunLock]:
    """Hold the lock of ``run`` in rank 0 within the context. Raises RequestError in every process if it is taken."""
    lock, refusal = RunLock(run), ""
    if world.is_main:
        try:
            lock.acquire(lambda text: print_line(console, escape_unprintable(text)))
        except RequestError as error:
            refusal = str(error)
    try:
        refusal = world.broadcast_bytes(refusal.encode()).decode()
        if refusal:
            raise RequestError(refusal)
        yield lock
    finally:
        if world.is_main:
            lock.release()


def read_owner(path: Path) -> dict[str, Any] | None:
    """Read the owner file of a run; None if it is missing or invalid."""
    try:
        with open(path, encoding="utf-8") as file:
            value = json.loads(file.read(MAX_OWNER_BYTES)) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_heartbeat(path: Path) -> tuple[int, int] | None:
    """Return a value that changes with each heartbeat; None if the file is gone.

    The file is opened, because network file systems then ask the server instead of their cache.
    """
    try:
        with open(path, "rb") as file:
            about = os.fstat(file.fileno())
    except OSError:
        return None
    return about.st_ino, about.st_mtime_ns


def describe_owner(owner: dict[str, Any]) -> str:
    """Describe the owning process for a message."""
    return f"process {owner.get('pid')} on {owner.get('host')}, since {owner.get('since')},"


def is_same(one: dict[str, Any], other: dict[str, Any], key: str) -> bool:
    """Return whether both have the same, non-empty value for ``key``."""
    return one.get(key) == other.get(key) != ""


def read_machine() -> str:
    """Return what names this machine since its boot."""
    return _read_text("/proc/sys/kernel/random/boot_id") or platform.node()


def read_process_namespace() -> str:
    """Return the PID namespace, within which a PID means the same process; "all" where there are none."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return "all"


def is_alive(owner: dict[str, Any]) -> bool:
    """Return whether an owner's process on this machine still runs; start times exclude a reused PID."""
    pid = owner.get("pid")
    if not isinstance(pid, int) or pid < 1:
        return False
    with suppress(PermissionError):  # another user's
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
    return read_start_time(pid) == owner.get("started")


def read_start_time(pid: int) -> str:
    """Return the start time of a running process in kernel ticks; empty if it does not run or is unknown."""
    fields = _read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in ("Z", "X") else ""


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
