"""One process at a time trains into a run directory.

On one machine the kernel says so: a lock on the directory itself, which ends with the process that holds it, however
that ends. Other hosts, and disks without such locks, see ``.owner.json``: who trains, and a heartbeat, the file's time,
which is set anew every few seconds. A contender watches it for a while: a heartbeat that stays is a live process's, one
that has stopped a dead one's. No two clocks are compared. A process that was only taken for dead (suspended, cut off)
finds another's name in the file when it next writes, and leaves.
"""

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
from typing import Any, NoReturn
from uuid import uuid4

from rich.console import Console

from resnext.errors import RequestError, WorkError, printable
from resnext.run_directory import OWNER, RunDirectory
from resnext.train.distributed import World

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

BEAT = 5.0  # seconds between two heartbeats
WINDOW = 30.0  # seconds without one after which a process of another host counts as dead
LARGEST_OWNER = 1 << 16  # bytes
OPEN: set[int] = set()  # locked directories of this process

if hasattr(os, "register_at_fork"):

    def _close_all() -> None:
        """A loading process that outlives this one must not hold its lock."""
        while OPEN:
            os.close(OPEN.pop())

    os.register_at_fork(after_in_child=_close_all)


class RunLock:
    """The right to write into a run directory, from ``acquire`` to ``release``."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.owner = {
            "token": uuid4().hex,
            "host": socket.gethostname(),
            "machine": read_machine_id(),
            "processes": read_process_namespace(),
            "pid": os.getpid(),
            "started": read_start_time(os.getpid()),
            "since": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        }
        self.made: list[Path] = []  # folders that were not there, the innermost first
        self.folder: int | None = None  # the locked directory
        self.ended = threading.Event()

    @property
    def path(self) -> Path:
        """Where the owner is written down."""
        return self.run.path / OWNER

    def acquire(self, say: Callable[[str], None]) -> None:
        """Take the run, making its directory. Raises RequestError where another process has it or the disk refuses."""
        try:
            self._make_folder()
            alone = self._lock_folder()
            other = read_owner(self.path)
            if alone is False and (other is None or is_same(other, self.owner, "machine")):
                self._refuse(other)
            if other is not None:
                self._check_dead(other, say)
            self._write_owner()
        except OSError as error:
            self.release()
            raise RequestError(
                f"the run directory {self.run.path} cannot be written: {error.strerror or error}"
            ) from None
        except BaseException:
            self.release()
            raise
        threading.Thread(target=self._beat, name="heartbeat of the run", daemon=True).start()

    def confirm(self) -> None:
        """Raises WorkError where another process has taken the run meanwhile."""
        other = read_owner(self.path)
        if other is not None and other.get("token") != self.owner["token"]:
            raise WorkError(
                f"{describe_owner(other)} has taken over {self.run.path}, as this process gave no sign of life: "
                "nothing more is written here"
            )

    def release(self) -> None:
        """Give the run back; a directory that was made for it and holds nothing goes."""
        self.ended.set()
        with suppress(OSError):
            owner = read_owner(self.path)
            if owner is not None and owner.get("token") == self.owner["token"]:
                self.path.unlink()
            for folder in self.made:
                folder.rmdir()
        if self.folder is not None and self.folder in OPEN:
            OPEN.discard(self.folder)
            os.close(self.folder)
        self.folder = None

    def _make_folder(self) -> None:
        missing = [path for path in (self.run.path, *self.run.path.parents) if not path.exists()]
        self.run.path.mkdir(parents=True, exist_ok=True)
        self.made = missing

    def _lock_folder(self) -> bool | None:
        """Whether the kernel gives the directory to this process alone; None where it has no such locks there."""
        if fcntl is None:
            return None
        self.folder = os.open(self.run.path, os.O_RDONLY)
        OPEN.add(self.folder)
        try:
            fcntl.flock(self.folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # network disks: NFS locks no directory
            return None
        return True

    def _check_dead(self, other: dict[str, Any], say: Callable[[str], None]) -> None:
        """Returns where ``other``'s process has ended. Raises RequestError.

        What the kernel said of its lock is no answer: two mounts of one network disk do not know of each other's.
        """
        if os.name == "posix" and is_same(other, self.owner, "machine") and is_same(other, self.owner, "processes"):
            if is_alive(other):
                self._refuse(other)
            return
        say(f"waiting up to {WINDOW:g} s to see whether {describe_owner(other)} still trains into {self.run.path}")
        before, end = read_heartbeat(self.path), time.monotonic() + WINDOW
        while before is not None and time.monotonic() < end:
            time.sleep(0.2)
            now = read_heartbeat(self.path)
            if now is None:
                return
            if now != before:
                self._refuse(other)

    def _refuse(self, other: dict[str, Any] | None) -> NoReturn:
        who = "another process" if other is None else describe_owner(other)
        raise RequestError(f"{who} trains into {self.run.path}: wait until it has ended, or give another run directory")

    def _write_owner(self) -> None:
        """Whole or not at all; no fsync, for after a power cut it says nothing that is true."""
        part = self.path.with_name(f"{OWNER}.{self.owner['token']}.part")
        part.write_text(json.dumps(self.owner), encoding="utf-8")
        if os.name != "posix":
            self.path.unlink(missing_ok=True)
        part.rename(self.path)

    def _beat(self) -> None:
        while not self.ended.wait(BEAT):
            with suppress(OSError, WorkError):
                self.confirm()
                os.utime(self.path)


@contextmanager
def lock_run(run: RunDirectory, world: World, console: Console) -> Iterator[RunLock]:
    """Within, no other process trains into ``run``: the leading process of this run holds it.

    Raises RequestError, in every process, where another one has it.
    """
    lock, refusal = RunLock(run), ""
    if world.leads:
        try:
            lock.acquire(lambda text: console.print(printable(text), highlight=False, markup=False, soft_wrap=True))
        except RequestError as error:
            refusal = str(error)
    try:
        refusal = world.share_bytes(refusal.encode()).decode()
        if refusal:
            raise RequestError(refusal)
        yield lock
    finally:
        if world.leads:
            lock.release()


def read_owner(path: Path) -> dict[str, Any] | None:
    """Who trains into a run; None where nobody says so in a file that can be read."""
    try:
        with open(path, encoding="utf-8") as file:
            value = json.loads(file.read(LARGEST_OWNER)) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_heartbeat(path: Path) -> tuple[int, int] | None:
    """What changes with each heartbeat; None where the file is gone. A network disk asks its server at an open."""
    try:
        with open(path, "rb") as file:
            about = os.fstat(file.fileno())
    except OSError:
        return None
    return about.st_ino, about.st_mtime_ns


def describe_owner(owner: dict[str, Any]) -> str:
    """The process in a few words."""
    return f"process {owner.get('pid')} on {owner.get('host')}, since {owner.get('since')},"


def is_same(one: dict[str, Any], other: dict[str, Any], key: str) -> bool:
    """Whether both say the same, and anything at all."""
    return one.get(key) == other.get(key) != ""


def read_machine_id() -> str:
    """What tells this kernel, since it booted, from every other one; else the host's name."""
    return _text_of("/proc/sys/kernel/random/boot_id") or platform.node()


def read_process_namespace() -> str:
    """Where a process number means the same process; empty where the system does not say."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return "all" if os.name == "posix" else ""


def is_alive(owner: dict[str, Any]) -> bool:
    """Whether the process of an owner of this machine is there, and not another one that got its number."""
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
    """When a process that still runs started, in the kernel's ticks; empty where the system does not say."""
    fields = _text_of(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in ("Z", "X") else ""


def _text_of(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
