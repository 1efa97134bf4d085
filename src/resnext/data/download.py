"""Fetching a public archive once: resumed, bounded, checksummed and put in place atomically."""

import hashlib
import http.client
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from resnext.errors import WorkError
from resnext.files import sync_folder

CHUNK = 1 << 20
PATIENT = (408, 425, 429, 500, 502, 503, 504)  # HTTP answers after which trying again may help


@dataclass(frozen=True)
class Archive:
    """A file on the internet whose size and MD5 are known."""

    url: str
    name: str
    bytes: int
    md5: str

    def by_hand(self, folder: Path) -> str:
        """The manual steps, as a clause."""
        return f"fetch {self.url} by hand ({self.bytes} bytes, MD5 {self.md5}) and put it at {folder / self.name}"


class Interrupted(Exception):
    """A transfer that broke off; what came so far stays and another attempt may go on from there."""


def data_folder() -> Path:
    """Where downloads live: $RESNEXT_DATA, else $XDG_CACHE_HOME/resnext, else ~/.cache/resnext."""
    own = os.environ.get("RESNEXT_DATA")
    if own:
        return Path(own).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "resnext"


def mismatch(path: Path, archive: Archive) -> str:
    """A clause that says how a local file differs from the archive in size or MD5; empty when it does not."""
    size = path.stat().st_size
    if size != archive.bytes:
        return f"it has {size} bytes, expected {archive.bytes}"
    md5 = file_md5(path)
    return "" if md5 == archive.md5 else f"its MD5 is {md5}, expected {archive.md5}"


def file_md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def download(archive: Archive, folder: Path, *, timeout: float = 30, attempts: int = 4, pause: float = 1) -> Path:
    """The archive as a file in ``folder``, fetched unless it is there. Raises WorkError with the manual steps.

    ``timeout`` and ``pause`` are in seconds; ``attempts`` counts failures in a row that brought no new bytes.
    Two processes that ask at once wait for each other, and the second finds the first one's file.
    """
    target = folder / archive.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _only_one(folder / f".{archive.name}.lock", target):
            if target.exists():
                wrong = mismatch(target, archive)
                if wrong:
                    raise WorkError(f"{target} is not {archive.url}: {wrong}; move it away to fetch it again")
                return target
            _fetch(archive, target, timeout=timeout, attempts=attempts, pause=pause)
    except OSError as error:
        raise WorkError(f"cannot write {target}: {error}; or {archive.by_hand(folder)}") from error
    return target


def _only_one(lock_path: Path, target: Path) -> FileLock:
    lock = FileLock(lock_path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another process that is fetching {target}", file=sys.stderr)
        lock.acquire()
    return lock


def _fetch(archive: Archive, target: Path, *, timeout: float, attempts: int, pause: float) -> None:
    """Transfer to ``NAME.part`` until it is whole, check it, and rename it."""
    part = target.with_name(target.name + ".part")
    resumed = part.exists()
    while True:
        _transfer_all(archive, part, timeout=timeout, attempts=attempts, pause=pause)
        wrong = mismatch(part, archive)
        if not wrong:
            break
        part.unlink()
        _tag_path(part).unlink(missing_ok=True)
        if not resumed:
            raise WorkError(f"{archive.url} sent another file: {wrong}; or {archive.by_hand(target.parent)}")
        resumed = False  # the earlier half may have been of another file: once more from the start
    os.replace(part, target)
    _tag_path(part).unlink(missing_ok=True)
    sync_folder(target.parent)


def _transfer_all(archive: Archive, part: Path, *, timeout: float, attempts: int, pause: float) -> None:
    """Attempt after attempt until ``part`` has all bytes."""
    failures = 0
    with _progress(archive, part) as advance:
        while (before := _size(part)) != archive.bytes:
            try:
                _transfer(archive, part, timeout, advance)
            except Interrupted as error:
                failures = 1 if _size(part) > before else failures + 1
                if failures >= attempts:
                    steps = archive.by_hand(part.parent)
                    raise WorkError(f"cannot fetch {archive.url}: {error}; try again later, or {steps}") from error
                time.sleep(pause * failures)


def _transfer(archive: Archive, part: Path, timeout: float, advance: Callable[[int], None]) -> None:
    """One request, going on from the end of ``part`` where the server can. Raises Interrupted or WorkError."""
    have = _size(part)
    if have > archive.bytes:
        part.unlink()
        have = 0
    request = urllib.request.Request(archive.url, headers={"User-Agent": "resnext", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if _tag_path(part).exists():
            request.add_header("If-Range", _tag_path(part).read_text("latin-1"))
    with _answer(request, archive, part, timeout) as answer:
        start = _start_of(answer, archive, have, part)
        _check_room(archive, part.parent, archive.bytes - start)
        _remember_tag(answer, part)
        advance(start)
        _receive(answer, archive, part, start, advance)


def _answer(request: urllib.request.Request, archive: Archive, part: Path, timeout: float) -> http.client.HTTPResponse:
    """The server's answer, its body not read yet. Raises Interrupted, or WorkError where asking again is of no use."""
    try:
        return urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # nothing there to go on with
            part.unlink(missing_ok=True)
        elif error.code not in PATIENT:
            steps = archive.by_hand(part.parent)
            raise WorkError(f"{archive.url} answers {error.code} {error.reason}; {steps}") from error
        raise Interrupted(f"the server answers {error.code} {error.reason}") from error
    except (http.client.HTTPException, OSError) as error:
        raise Interrupted(_reason(error)) from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", "") or error) or type(error).__name__


def _start_of(answer: http.client.HTTPResponse, archive: Archive, have: int, part: Path) -> int:
    """The offset of the answer's first byte. Raises WorkError where its sizes are not the archive's."""
    length = answer.headers.get("Content-Length")
    start = 0
    if answer.status == 206:
        span = answer.headers.get("Content-Range", "")
        if not span.startswith(f"bytes {have}-"):
            part.unlink(missing_ok=True)
            raise Interrupted(f"the server answers with range {span!r}, asked for {have}-")
        start = have
    if length is not None and length.isdecimal() and start + int(length) != archive.bytes:
        offered = start + int(length)
        steps = archive.by_hand(part.parent)
        raise WorkError(f"{archive.url} offers {offered} bytes, expected {archive.bytes}; {steps}")
    return start


def _receive(
    answer: http.client.HTTPResponse, archive: Archive, part: Path, start: int, advance: Callable[[int], None]
) -> None:
    """Write the answer's body at ``start``; never more than the archive's bytes."""
    done = start
    with part.open("r+b" if start else "wb") as file:
        file.seek(start)
        try:
            while chunk := _read(answer, min(CHUNK, archive.bytes - done + 1)):
                done += len(chunk)
                if done > archive.bytes:
                    file.truncate(0)
                    steps = archive.by_hand(part.parent)
                    raise WorkError(f"{archive.url} sends more than the {archive.bytes} bytes expected; {steps}")
                file.write(chunk)
                advance(done)
        finally:
            file.flush()
            os.fsync(file.fileno())
    if done < archive.bytes:
        raise Interrupted(f"the transfer broke off after {done} of {archive.bytes} bytes")


def _read(answer: http.client.HTTPResponse, at_most: int) -> bytes:
    try:
        return answer.read1(at_most)
    except (http.client.HTTPException, OSError) as error:
        raise Interrupted(_reason(error)) from error


@contextmanager
def _progress(archive: Archive, part: Path) -> Iterator[Callable[[int], None]]:
    """A function to tell how many bytes are there: a bar on a terminal, one line otherwise."""
    if not sys.stderr.isatty():
        print(f"fetching {archive.url} ({archive.bytes / 1e6:.1f} MB) to {part.parent}", file=sys.stderr)
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(archive.name, total=archive.bytes)
        yield lambda done: bar.update(task, completed=done)


def _check_room(archive: Archive, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise WorkError(f"{folder} has {free} bytes free, but {archive.name} needs {needed} more")


def _remember_tag(answer: http.client.HTTPResponse, part: Path) -> None:
    """Keep what identifies the server's version of the file, for If-Range. Weak tags cannot serve there."""
    tag = answer.headers.get("ETag") or ""
    if not tag or tag.startswith("W/"):
        tag = answer.headers.get("Last-Modified") or ""
    if tag:
        _tag_path(part).write_text(tag, "latin-1", errors="ignore")
    else:
        _tag_path(part).unlink(missing_ok=True)


def _tag_path(part: Path) -> Path:
    return part.with_name(part.name + ".tag")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
