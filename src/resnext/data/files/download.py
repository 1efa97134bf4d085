"""Download a public file once, with resuming, a size limit and a checksum; the file appears atomically."""

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
from typing import Any

from filelock import FileLock, Timeout

from resnext.errors import WorkError
from resnext.files import sync_folder

CHUNK = 1 << 20
LARGEST = 16 << 30  # bytes; a larger size is broken or hostile
Advance = Callable[[int, int | None], None]  # (bytes received, bytes expected)
PATIENT = (408, 425, 429, 500, 502, 503, 504)  # HTTP answers after which trying again may help


@dataclass(frozen=True)
class Archive:
    """A file to download and its known size and checksums; ``sha256`` may be only the first digits."""

    url: str
    name: str
    bytes: int | None = None
    md5: str | None = None
    sha256: str | None = None

    def manual_steps(self, folder: Path) -> str:
        """Return the steps to get the file without this program, as a clause for errors."""
        known = {"{} bytes": self.bytes, "MD5 {}": self.md5, "SHA-256 {}": self.sha256}
        facts = ", ".join(text.format(value) for text, value in known.items() if value is not None)
        return f"fetch {self.url} by hand{f' ({facts})' if facts else ''} and put it at {folder / self.name}"

    @property
    def has_checksum(self) -> bool:
        """Whether a checksum is known."""
        return self.md5 is not None or self.sha256 is not None


class TransferError(Exception):
    """A transfer that broke off. The bytes so far are kept, and another attempt can resume there."""


def data_folder() -> Path:
    """Return the folder of downloads: $RESNEXT_DATA, else $XDG_CACHE_HOME/resnext, else ~/.cache/resnext."""
    own = os.environ.get("RESNEXT_DATA")
    if own:
        return Path(own).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "resnext"


def find_mismatch(path: Path, archive: Archive) -> str:
    """Return a clause on how a local file differs from the archive in size or checksum; empty if it does not."""
    size = path.stat().st_size
    if archive.bytes is not None and size != archive.bytes:
        return f"it has {size} bytes, expected {archive.bytes}"
    if archive.md5 is not None and (md5 := compute_md5(path)) != archive.md5:
        return f"its MD5 is {md5}, expected {archive.md5}"
    if archive.sha256 is not None and not (sha256 := compute_sha256(path)).startswith(archive.sha256.lower()):
        return f"its SHA-256 is {sha256}, expected {archive.sha256}"
    return ""


def compute_md5(path: Path) -> str:
    """Return the MD5 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def compute_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(archive: Archive, folder: Path, *, timeout: float = 30, attempts: int = 4, pause: float = 1) -> Path:
    """Download an archive into ``folder``, unless it is there already, and return its path.

    ``timeout`` and ``pause`` are in seconds; ``attempts`` is the number of consecutive failures without new bytes that
    are allowed. Of several processes one downloads while the others wait. Raises WorkError with the manual steps.
    """
    target = folder / archive.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with acquire_lock(folder / f".{archive.name}.lock", target):
            if target.exists():
                wrong = find_mismatch(target, archive)
                if wrong:
                    raise WorkError(f"{target} is not {archive.url}: {wrong}; remove it to download it again")
                return target
            _fetch(archive, target, timeout=timeout, attempts=attempts, pause=pause)
    except OSError as error:
        raise WorkError(f"cannot write {target}: {error}; or {archive.manual_steps(folder)}") from error
    return target


def acquire_lock(lock_path: Path, target: Path) -> FileLock:
    """Acquire a file lock. If another process has it, say so and wait."""
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
        wrong = find_mismatch(part, archive)
        if not wrong:
            break
        part.unlink()
        _tag_path(part).unlink(missing_ok=True)
        if not resumed:
            raise WorkError(f"{archive.url} sent another file: {wrong}; or {archive.manual_steps(target.parent)}")
        resumed = False  # the earlier part may have been of another file: download once more from the start
    os.replace(part, target)
    _tag_path(part).unlink(missing_ok=True)
    sync_folder(target.parent)


def _transfer_all(archive: Archive, part: Path, *, timeout: float, attempts: int, pause: float) -> None:
    """Attempt after attempt until ``part`` has all bytes."""
    failures = 0
    whole = archive.bytes is not None and _size(part) == archive.bytes
    with _progress(archive, part) as advance:
        while not whole:
            before = _size(part)
            try:
                _transfer(archive, part, timeout, advance)
                whole = True
            except TransferError as error:
                failures = 1 if _size(part) > before else failures + 1
                if failures >= attempts:
                    steps = archive.manual_steps(part.parent)
                    raise WorkError(f"cannot fetch {archive.url}: {error}; try again later, or {steps}") from error
                time.sleep(pause * failures)


def _transfer(archive: Archive, part: Path, timeout: float, advance: Advance) -> None:
    """One request, going on from the end of ``part`` where the server can. Raises Interrupted or WorkError.

    Nothing is continued that neither a checksum nor the server's tag would tell from another file's beginning.
    """
    have, tagged = _size(part), _tag_path(part).exists()
    if have > (LARGEST if archive.bytes is None else archive.bytes) or (
        have and not archive.has_checksum and not tagged
    ):
        part.unlink()
        have = 0
    request = urllib.request.Request(archive.url, headers={"User-Agent": "resnext", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        if tagged:
            request.add_header("If-Range", _tag_path(part).read_text("latin-1"))
    with _answer(request, archive, part, timeout) as answer:
        start = _start_of(answer, have, part)
        expected = _expected(answer, archive, start, part)
        _check_room(archive, part.parent, (expected or start) - start)
        _remember_tag(answer, part)
        advance(start, expected)
        _receive(answer, archive, part, start, expected, advance)


def _answer(request: urllib.request.Request, archive: Archive, part: Path, timeout: float) -> http.client.HTTPResponse:
    """The server's answer, its body not read yet. Raises Interrupted, or WorkError where asking again is of no use."""
    try:
        return _opener().open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # nothing there to go on with
            part.unlink(missing_ok=True)
        elif error.code not in PATIENT:
            steps = archive.manual_steps(part.parent)
            raise WorkError(f"{archive.url} answers {error.code} {error.reason}; {steps}") from error
        raise TransferError(f"the server answers {error.code} {error.reason}") from error
    except (http.client.HTTPException, OSError) as error:
        raise TransferError(_reason(error)) from error


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Redirects are followed, but never from https to what anybody on the way may change."""

    def redirect_request(self, request: urllib.request.Request, *rest: Any) -> urllib.request.Request | None:
        following = super().redirect_request(request, *rest)
        if following is not None and request.type == "https" and following.type != "https":
            raise urllib.error.URLError(f"it redirects from https to {following.type}")
        return following


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_NoDowngrade())


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", "") or error) or type(error).__name__


def _start_of(answer: http.client.HTTPResponse, have: int, part: Path) -> int:
    """The offset of the answer's first byte. Raises Interrupted for a range that was not asked for."""
    if answer.status != 206:
        return 0
    span = answer.headers.get("Content-Range", "")
    if not span.startswith(f"bytes {have}-"):
        part.unlink(missing_ok=True)
        raise TransferError(f"the server answers with range {span!r}, asked for {have}-")
    return have


def _expected(answer: http.client.HTTPResponse, archive: Archive, start: int, part: Path) -> int | None:
    """Return the size of the whole file if known. Raises WorkError if the server states another size than expected."""
    length = answer.headers.get("Content-Length") or ""
    offered = start + int(length) if length.isdecimal() and len(length) < 20 else None
    if offered is not None and archive.bytes is not None and offered != archive.bytes:
        steps = archive.manual_steps(part.parent)
        raise WorkError(f"{archive.url} offers {offered} bytes, expected {archive.bytes}; {steps}")
    if offered is not None and offered > LARGEST:
        raise WorkError(f"{archive.url} offers {offered} bytes; files of more than {LARGEST} are not fetched")
    return archive.bytes if offered is None else offered


def _receive(
    answer: http.client.HTTPResponse, archive: Archive, part: Path, start: int, expected: int | None, advance: Advance
) -> None:
    """Write the answer's body at ``start``; never more than the expected bytes."""
    done, most = start, LARGEST if expected is None else expected
    with part.open("r+b" if start else "wb") as file:
        file.seek(start)
        try:
            while chunk := _read(answer, min(CHUNK, most - done + 1)):
                done += len(chunk)
                if done > most:
                    file.truncate(0)
                    steps = archive.manual_steps(part.parent)
                    raise WorkError(f"{archive.url} sends more than the {most} bytes expected; {steps}")
                file.write(chunk)
                advance(done, expected)
        finally:
            file.flush()
            os.fsync(file.fileno())
    if expected is not None and done < expected:
        raise TransferError(f"the transfer broke off after {done} of {expected} bytes")


def _read(answer: http.client.HTTPResponse, at_most: int) -> bytes:
    try:
        return answer.read1(at_most)
    except (http.client.HTTPException, OSError) as error:
        raise TransferError(_reason(error)) from error


@contextmanager
def _progress(archive: Archive, part: Path) -> Iterator[Advance]:
    """A function to tell how many bytes are there, of how many: a bar on a terminal, one line otherwise."""
    if not sys.stderr.isatty():
        size = "" if archive.bytes is None else f" ({archive.bytes / 1e6:.1f} MB)"
        print(f"fetching {archive.url}{size} to {part.parent}", file=sys.stderr)
        yield lambda _done, _expected: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from resnext.screen import make_screen

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}", markup=False), *columns, console=make_screen(stderr=True)) as bar:
        task = bar.add_task(archive.name, total=archive.bytes)
        yield lambda done, expected: bar.update(task, completed=done, total=expected)


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
