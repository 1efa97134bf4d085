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
from http.client import HTTPMessage
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from resnext.errors import WorkError
from resnext.files import compute_sha256, sync_folder

CHUNK = 1 << 20
LARGEST = 16 << 30  # bytes; a larger size is broken or hostile
Advance = Callable[[int, int | None], None]  # (bytes received, bytes expected)
TEMPORARY_STATUSES = (408, 425, 429, 500, 502, 503, 504)  # of HTTP; trying again may help


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


def download(archive: Archive, folder: Path, *, timeout: float = 30, attempts: int = 4, pause: float = 1) -> Path:
    """Download an archive into ``folder``, unless it is there already, and return its path.

    ``timeout`` and ``pause`` are in seconds; ``attempts`` is the number of consecutive failures without new bytes that
    are allowed. Of several processes one downloads while the others wait. Raises WorkError with the manual steps.
    """
    target = folder / archive.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with hold_lock(folder / f".{archive.name}.lock", f"fetching {target}"):
            if not target.exists():
                _Transfer(archive, target, timeout).fetch(attempts, pause)
            elif wrong := find_mismatch(target, archive):
                raise WorkError(f"{target} is not {archive.url}: {wrong}; remove it to download it again")
    except OSError as error:
        raise WorkError(f"cannot write {target}: {error}; or {archive.manual_steps(folder)}") from error
    return target


@contextmanager
def hold_lock(path: Path, work: str) -> Iterator[None]:
    """Hold a file lock inside the block. If another process has it, say that it does the ``work``, and wait."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another process that is {work}", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


class _Transfer:
    """The transfer of an archive into ``NAME.part``; ``NAME.part.tag`` identifies the server's version of the file."""

    def __init__(self, archive: Archive, target: Path, timeout: float) -> None:
        self.archive, self.target, self.timeout = archive, target, timeout
        self.part = target.with_name(target.name + ".part")
        self.tag = target.with_name(target.name + ".part.tag")

    @property
    def size(self) -> int:
        """Number of bytes received so far."""
        return self.part.stat().st_size if self.part.exists() else 0

    def fetch(self, attempts: int, pause: float) -> None:
        """Receive the whole file, check it, and rename it to the target."""
        resumed = self.part.exists()
        self._receive(attempts, pause)
        wrong = find_mismatch(self.part, self.archive)
        if wrong and resumed:  # the earlier part may have been of another file: download once more from the start
            self._discard()
            self._receive(attempts, pause)
            wrong = find_mismatch(self.part, self.archive)
        if wrong:
            self._discard()
            raise self._failure(f"{self.archive.url} sent another file: {wrong}", "; or ")
        os.replace(self.part, self.target)
        self.tag.unlink(missing_ok=True)
        sync_folder(self.target.parent)

    def _discard(self) -> None:
        self.part.unlink()
        self.tag.unlink(missing_ok=True)

    def _failure(self, what: str, link: str = "; ") -> WorkError:
        return WorkError(f"{what}{link}{self.archive.manual_steps(self.target.parent)}")

    def _receive(self, attempts: int, pause: float) -> None:
        """Send request after request until all bytes are there."""
        failures = 0
        with _show_progress(self.archive, self.target.parent) as advance:
            while self.size != self.archive.bytes:
                before = self.size
                try:
                    self._receive_rest(advance)
                    return
                except TransferError as error:
                    failures = 1 if self.size > before else failures + 1
                    if failures >= attempts:
                        what = f"cannot fetch {self.archive.url}: {error}"
                        raise self._failure(what, "; try again later, or ") from error
                    time.sleep(pause * failures)

    def _receive_rest(self, advance: Advance) -> None:
        """Request the bytes after those received so far. Raises TransferError, or WorkError where retrying is useless.

        Nothing is continued that neither a checksum nor the server's tag would tell from another file's beginning.
        """
        have, tagged = self.size, self.tag.exists()
        if have > (self.archive.bytes or LARGEST) or (have and not self.archive.has_checksum and not tagged):
            self.part.unlink()
            have = 0
        headers = {"User-Agent": "resnext", "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if tagged:
                headers["If-Range"] = self.tag.read_text("latin-1")
        with self._open(headers) as answer:
            start = self._first_byte(answer, have)
            total = self._total_size(answer, start)
            needed, free = (total or start) - start, shutil.disk_usage(self.target.parent).free
            if free < needed:
                raise WorkError(
                    f"{self.target.parent} has {free} bytes free, but {self.archive.name} needs {needed} more"
                )
            self._save_tag(answer)
            advance(start, total)
            self._write_body(answer, start, total, advance)

    def _open(self, headers: dict[str, str]) -> http.client.HTTPResponse:
        """Send the request and return the answer, its body not read yet."""
        request = urllib.request.Request(self.archive.url, headers=headers)
        try:
            answer = urllib.request.build_opener(_NoDowngrade()).open(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # no bytes after those we have
                self.part.unlink(missing_ok=True)
            elif error.code not in TEMPORARY_STATUSES:
                raise self._failure(f"{self.archive.url} answers {error.code} {error.reason}") from error
            raise TransferError(f"the server answers {error.code} {error.reason}") from error
        except (http.client.HTTPException, OSError) as error:
            raise TransferError(_describe(error)) from error
        assert isinstance(answer, http.client.HTTPResponse)
        return answer

    def _first_byte(self, answer: http.client.HTTPResponse, have: int) -> int:
        """Return the offset of the answer's first byte: ``have`` if the server continues, else 0."""
        if answer.status != 206:
            return 0
        span = answer.headers.get("Content-Range", "")
        if not span.startswith(f"bytes {have}-"):
            self.part.unlink(missing_ok=True)
            raise TransferError(f"the server answers with range {span!r}, asked for {have}-")
        return have

    def _total_size(self, answer: http.client.HTTPResponse, start: int) -> int | None:
        """Return the size of the whole file if known. Raises WorkError if the server states an unacceptable one."""
        length = answer.headers.get("Content-Length") or ""
        if not length.isdecimal() or len(length) >= 20:
            return self.archive.bytes
        offered = start + int(length)
        if self.archive.bytes not in (None, offered):
            raise self._failure(f"{self.archive.url} offers {offered} bytes, expected {self.archive.bytes}")
        if offered > LARGEST:
            raise WorkError(f"{self.archive.url} offers {offered} bytes; files of more than {LARGEST} are not fetched")
        return offered

    def _write_body(self, answer: http.client.HTTPResponse, start: int, total: int | None, advance: Advance) -> None:
        """Write the answer's body at ``start``; never more than ``total`` bytes."""
        done, most = start, LARGEST if total is None else total
        with self.part.open("r+b" if start else "wb") as file:
            file.seek(start)
            try:
                while chunk := _read(answer, min(CHUNK, most - done + 1)):
                    done += len(chunk)
                    if done > most:
                        file.truncate(0)
                        raise self._failure(f"{self.archive.url} sends more than the {most} bytes expected")
                    file.write(chunk)
                    advance(done, total)
            finally:
                file.flush()
                os.fsync(file.fileno())
        if total is not None and done < total:
            raise TransferError(f"the transfer broke off after {done} of {total} bytes")

    def _save_tag(self, answer: http.client.HTTPResponse) -> None:
        """Save what identifies the server's version of the file, for If-Range. Weak tags cannot serve there."""
        tag = answer.headers.get("ETag") or ""
        if not tag or tag.startswith("W/"):
            tag = answer.headers.get("Last-Modified") or ""
        if tag:
            self.tag.write_text(tag, "latin-1", errors="ignore")
        else:
            self.tag.unlink(missing_ok=True)


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to what anybody on the way may change."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None and req.type == "https" and following.type != "https":
            raise urllib.error.URLError(f"it redirects from https to {following.type}")
        return following


def _read(answer: http.client.HTTPResponse, at_most: int) -> bytes:
    try:
        return answer.read1(at_most)
    except (http.client.HTTPException, OSError) as error:
        raise TransferError(_describe(error)) from error


def _describe(error: Exception) -> str:
    return str(getattr(error, "reason", "") or error) or type(error).__name__


@contextmanager
def _show_progress(archive: Archive, folder: Path) -> Iterator[Advance]:
    """Show a bar on a terminal, else one line. Yields the function to call with the bytes received and expected."""
    if not sys.stderr.isatty():
        size = "" if archive.bytes is None else f" ({archive.bytes / 1e6:.1f} MB)"
        print(f"fetching {archive.url}{size} to {folder}", file=sys.stderr)
        yield lambda _done, _expected: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from resnext.screen import make_screen

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}", markup=False), *columns, console=make_screen(stderr=True)) as bar:
        task = bar.add_task(archive.name, total=archive.bytes)
        yield lambda done, expected: bar.update(task, completed=done, total=expected)
