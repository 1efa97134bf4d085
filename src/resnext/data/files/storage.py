"""Read files by a local path or any URL that fsspec supports (s3://, gs://, file://, memory:// ...)."""

import math
import os
import re
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from itertools import product
from pathlib import PurePosixPath
from typing import IO, Any, NamedTuple, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from resnext.data.classes import quote_names
from resnext.errors import RequestError, WorkError

MAX_CONCURRENT_REQUESTS = 16  # requests sent at the same time
MAX_OPEN_FILES = 128  # local files a process keeps open
READ_AHEAD_BYTES = 8 << 20  # bytes of one request when a remote file is read in sequence
MAX_EXPANDED_PATHS = 1_000_000  # paths one pattern may expand to
VERSION_FIELDS = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "created")  # the first found counts
BRACE_PATTERN = re.compile(r"\{([^{}]*)\}")
RANGE_PATTERN = re.compile(r"([0-9]+)\.\.([0-9]+)")
GLOB_PATTERN = re.compile(r"[*?\[]")


class FileVersion(NamedTuple):
    """Identifies one version of a file: its size, and its modification time or the store's ETag."""

    size: int
    tag: str


def resolve_filesystem(place: str) -> tuple[Any, str]:
    """Return the fsspec file system of a path or URL and the path in it. Not cached, so it is safe after a fork."""
    if "://" not in place:
        return LocalFileSystem(), os.path.abspath(os.path.expanduser(place))
    try:
        return cast("tuple[Any, str]", fsspec.core.url_to_fs(place))
    except ImportError as error:
        raise RequestError(f"{place} needs a package: {error}; pip install 'resnext[remote]' brings s3://") from error
    except ValueError as error:
        raise RequestError(f"{place} is not a path or URL that can be read: {error}") from error


def is_local(place: str) -> bool:
    """Whether the path or URL is on a local disk."""
    return isinstance(resolve_filesystem(place)[0], LocalFileSystem)


def join_path(folder: str, name: str) -> str:
    """Join a folder (path or URL) and a name."""
    return f"{folder.rstrip('/')}/{name}" if folder.strip("/") else f"{folder}{name}"


def base_name(place: str) -> str:
    """Return the last part of a path or URL."""
    return PurePosixPath(place).name


def exists(place: str) -> bool:
    """Whether there is a file or folder. Raises RequestError if the store cannot be read."""
    system, path = resolve_filesystem(place)
    with wrap_storage_errors(place):
        return bool(system.exists(path))


def is_folder(place: str) -> bool:
    """Whether there is a folder. Raises RequestError if the store cannot be read."""
    system, path = resolve_filesystem(place)
    with wrap_storage_errors(place):
        return bool(system.isdir(path))


def list_names(folder: str) -> list[str]:
    """List the base names in a folder, sorted, without hidden ones."""
    system, path = resolve_filesystem(folder)
    with wrap_storage_errors(folder):
        names = [base_name(str(found).rstrip("/")) for found in system.ls(path, detail=False)]
    return sorted(name for name in names if name and not name.startswith("."))


def get_file_version(place: str) -> FileVersion | None:
    """Return the version of a file, or None if it does not exist."""
    system, path = resolve_filesystem(place)
    with wrap_storage_errors(place):
        try:
            if isinstance(system, LocalFileSystem):
                status = os.stat(path)
                if not stat.S_ISREG(status.st_mode):
                    raise RequestError(f"{place} is not a file")
                return FileVersion(status.st_size, str(status.st_mtime_ns))
            info = system.info(path)
        except FileNotFoundError:
            return None
    if info["type"] != "file" or info.get("size") is None:
        raise RequestError(f"{place} is not a file")
    return FileVersion(int(info["size"]), next((str(info[tag]) for tag in VERSION_FIELDS if info.get(tag)), ""))


def cache_key(place: str, stamp: FileVersion) -> str:
    """Return a text that identifies this version of this file in a cache."""
    return f"{place if '://' in place else resolve_filesystem(place)[1]}\0{stamp.size}\0{stamp.tag}"


def get_file_versions(places: Sequence[str]) -> list[FileVersion]:
    """Return the version of each file. Raises RequestError naming the files that do not exist."""
    with ThreadPoolExecutor(MAX_CONCURRENT_REQUESTS) as pool:
        stamps = list(pool.map(get_file_version, places))
    missing = [place for place, stamp in zip(places, stamps, strict=True) if stamp is None]
    if missing:
        raise RequestError(f"missing: {quote_names(missing)}, of {len(places)} files that the pattern or folder names")
    return cast("list[FileVersion]", stamps)


def open_file(place: str) -> IO[bytes]:
    """Open a local or remote file for reading; the result can seek."""
    system, path = resolve_filesystem(place)
    with wrap_storage_errors(place):
        if isinstance(system, LocalFileSystem):
            return open(path, "rb")
        return cast("IO[bytes]", system.open(path, "rb", block_size=READ_AHEAD_BYTES, cache_type="readahead"))


def read_range(place: str, stamp: FileVersion, offset: int, size: int, what: str) -> bytes:
    """Read ``size`` bytes from ``offset`` of this version of a file. ``what`` describes them in errors."""
    try:
        system, path = resolve_filesystem(place)
        if isinstance(system, LocalFileSystem):
            content = _open_local_file(path, stamp).read(offset, size)
        else:
            content = system.cat_file(path, start=offset, end=offset + size) if size else b""
    except Exception as error:  # every store has its own exceptions
        raise WorkError(f"cannot read {what} of {place}: {_describe_error(error)}") from error
    if len(content) != size:
        raise WorkError(
            f"cannot read {what} of {place}: it gives {len(content)} of {size} bytes at {offset}; "
            "the file was cut off after it was indexed"
        )
    return content


class _LocalFile:
    """An open local file. ``read`` does not use the file position, so threads and forked processes can share it."""

    def __init__(self, path: str, stamp: FileVersion) -> None:
        self.file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed when it is evicted from the cache
        status = os.fstat(self.file.fileno())
        now = FileVersion(status.st_size, str(status.st_mtime_ns))
        if now != stamp:
            self.file.close()
            raise OSError(f"the file changed after it was indexed ({stamp.size} bytes then, {now.size} now)")

    def read(self, offset: int, size: int) -> bytes:
        parts = []
        while size > 0 and (part := os.pread(self.file.fileno(), size, offset)):
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
        return b"".join(parts)

    def __del__(self) -> None:
        if hasattr(self, "file"):
            self.file.close()


_open_local_file = lru_cache(MAX_OPEN_FILES)(_LocalFile)


def expand_pattern(pattern: str, endings: tuple[str, ...]) -> list[str]:
    """Expand a pattern to paths: ``{000..127}`` and ``{a,b}`` in the order written, ``*`` and folders sorted.

    A path that exists literally is not expanded. A folder stands for its files with one of ``endings``.
    """
    places = [place for part in _expand_braces(pattern) for place in _expand_glob(part, endings)]
    if len(set(places)) < len(places):
        twice = next(place for i, place in enumerate(places) if place in places[:i])
        raise RequestError(f"{pattern} names {twice} twice")
    return places


def _expand_glob(pattern: str, endings: tuple[str, ...]) -> list[str]:
    system, path = resolve_filesystem(pattern)
    with wrap_storage_errors(pattern):
        if system.isdir(path):
            found = [join_path(pattern, name) for name in list_names(pattern) if name.endswith(endings)]
            if not found:
                raise RequestError(f"{pattern} has no files ending in {' '.join(endings)}")
            return found
        if not GLOB_PATTERN.search(pattern) or system.exists(path):
            return [pattern]
        matching = sorted(str(match) for match in system.glob(path) if not base_name(str(match)).startswith("."))
    if not matching:
        raise RequestError(f"{pattern} matches nothing")
    return matching if isinstance(system, LocalFileSystem) else [system.unstrip_protocol(match) for match in matching]


def _expand_braces(pattern: str) -> list[str]:
    """Expand all braces of a pattern; the last one varies fastest."""
    if not re.search(r"[{}]", pattern) or exists(pattern):
        return [pattern]
    parts = BRACE_PATTERN.split(pattern)
    texts, choices = parts[::2], [_parse_brace(inner, pattern) for inner in parts[1::2]]
    if any("{" in text or "}" in text for text in texts):
        raise RequestError(f"{pattern} has a brace without its counterpart")
    if math.prod(map(len, choices)) > MAX_EXPANDED_PATHS:
        raise RequestError(f"{pattern} names more than {MAX_EXPANDED_PATHS} files")
    return [
        "".join(part for pair in zip(texts, (*chosen, ""), strict=True) for part in pair)
        for chosen in product(*choices)
    ]


def _parse_brace(inner: str, pattern: str) -> list[str]:
    """Return the alternatives in one pair of braces."""
    span = RANGE_PATTERN.fullmatch(inner)
    if span is None:
        words = inner.split(",")
        if len(words) < 2 or not all(words):
            raise RequestError(f"{{{inner}}} of {pattern} is neither a range such as {{000..127}} nor a list {{a,b}}")
        return words
    first, last = span.groups()
    padded = any(len(end) > 1 and end.startswith("0") for end in (first, last))
    if padded and len(first) != len(last):
        raise RequestError(f"{{{inner}}} of {pattern} is not valid: both ends need the same number of digits")
    if len(last) > 9 or int(last) < int(first):
        raise RequestError(f"{{{inner}}} of {pattern} must be a rising range, up to 999,999,999")
    if int(last) - int(first) >= MAX_EXPANDED_PATHS:
        raise RequestError(f"{pattern} names more than {MAX_EXPANDED_PATHS} files")
    return [str(number).zfill(len(first) if padded else 0) for number in range(int(first), int(last) + 1)]


@contextmanager
def wrap_storage_errors(place: str) -> Iterator[None]:
    """Raise any error of a file system or a store inside the block as a RequestError that names the path."""
    try:
        yield
    except (RequestError, WorkError):
        raise
    except Exception as error:  # botocore, aiohttp ...: every store has its own exceptions
        raise RequestError(f"cannot read {place}: {_describe_error(error)}") from error


def _describe_error(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
