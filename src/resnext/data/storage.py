"""Where bytes lie: a local path, or any URL that fsspec knows (s3://, gs://, file://, memory:// ...)."""

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

from resnext.data.classes import listing
from resnext.errors import RequestError, WorkError

AT_ONCE = 16  # requests under way, where many places are asked for the same thing
HANDLES = 128  # local files a process holds open
AHEAD = 8 << 20  # bytes that reading on from a remote place fetches at a time
MOST_PLACES = 1_000_000  # that one pattern may name
TAGS = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "created")  # what tells two versions apart
BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")
MAGIC = re.compile(r"[*?\[]")


class Stamp(NamedTuple):
    """What tells a file from what stood at the same place before: its bytes, and its time or a store's ETag."""

    size: int
    tag: str


def system_of(place: str) -> tuple[Any, str]:
    """fsspec's file system and its own name of the place. Asked anew in every process, which makes forks safe."""
    if "://" not in place:
        return LocalFileSystem(), os.path.abspath(os.path.expanduser(place))
    try:
        return cast("tuple[Any, str]", fsspec.core.url_to_fs(place))
    except ImportError as error:
        raise RequestError(f"{place} needs a package: {error}; pip install 'resnext[remote]' brings s3://") from error
    except ValueError as error:
        raise RequestError(f"{place} is no place that can be reached: {error}") from error


def is_local(place: str) -> bool:
    return isinstance(system_of(place)[0], LocalFileSystem)


def joined(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}" if folder.strip("/") else f"{folder}{name}"


def base_name(place: str) -> str:
    return PurePosixPath(place).name


def exists(place: str) -> bool:
    system, path = system_of(place)
    with asked(place):
        return bool(system.exists(path))


def is_folder(place: str) -> bool:
    system, path = system_of(place)
    with asked(place):
        return bool(system.isdir(path))


def names_in(folder: str) -> list[str]:
    """Base names of what lies in a folder, hidden ones left out, plain sorted."""
    system, path = system_of(folder)
    with asked(folder):
        names = [base_name(str(found).rstrip("/")) for found in system.ls(path, detail=False)]
    return sorted(name for name in names if name and not name.startswith("."))


def stamp_of(place: str) -> Stamp | None:
    """None where nothing is. Raises RequestError for a folder, and for a store that cannot be asked."""
    system, path = system_of(place)
    with asked(place):
        try:
            if isinstance(system, LocalFileSystem):
                status = os.stat(path)
                if not stat.S_ISREG(status.st_mode):
                    raise RequestError(f"{place} is not a file")
                return Stamp(status.st_size, str(status.st_mtime_ns))
            info = system.info(path)
        except FileNotFoundError:
            return None
    if info["type"] != "file" or info.get("size") is None:
        raise RequestError(f"{place} is not a file")
    return Stamp(int(info["size"]), next((str(info[tag]) for tag in TAGS if info.get(tag)), ""))


def identity_of(place: str, stamp: Stamp) -> str:
    """What a cache knows this version of this file by."""
    return f"{place if '://' in place else system_of(place)[1]}\0{stamp.size}\0{stamp.tag}"


def stamps_of(places: Sequence[str]) -> list[Stamp]:
    """Of all places. Raises RequestError that names those where nothing is."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        stamps = list(pool.map(stamp_of, places))
    missing = [place for place, stamp in zip(places, stamps, strict=True) if stamp is None]
    if missing:
        raise RequestError(f"missing: {listing(missing)}, of {len(places)} that the pattern or folder names")
    return cast("list[Stamp]", stamps)


def opened(place: str) -> IO[bytes]:
    """A file to read and seek in."""
    system, path = system_of(place)
    with asked(place):
        if isinstance(system, LocalFileSystem):
            return open(path, "rb")
        return cast("IO[bytes]", system.open(path, "rb", block_size=AHEAD, cache_type="readahead"))


def read_range(place: str, stamp: Stamp, offset: int, size: int, what: str) -> bytes:
    """``size`` bytes from ``offset`` on, of the file that had this stamp. Raises WorkError naming it and ``what``."""
    try:
        system, path = system_of(place)
        if isinstance(system, LocalFileSystem):
            content = _handle(path, stamp).read(offset, size)
        else:
            content = system.cat_file(path, start=offset, end=offset + size) if size else b""
    except Exception as error:  # every store has its own kinds
        raise WorkError(f"cannot read {what} of {place}: {_reason(error)}") from error
    if len(content) != size:
        raise WorkError(
            f"cannot read {what} of {place}: it gives {len(content)} of {size} bytes at {offset}; "
            "the file was cut off after it was indexed"
        )
    return content


class _Handle:
    """An open local file. Reading by position shares no state, so threads and forked processes may do it too."""

    def __init__(self, path: str, stamp: Stamp) -> None:
        self.file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed when it falls out of the cache
        status = os.fstat(self.file.fileno())
        now = Stamp(status.st_size, str(status.st_mtime_ns))
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


@lru_cache(HANDLES)
def _handle(path: str, stamp: Stamp) -> _Handle:
    return _Handle(path, stamp)


def expand(pattern: str, endings: tuple[str, ...]) -> list[str]:
    """The places a pattern names, in its order: ``{000..127}`` and ``{a,b}`` as they count, ``*`` and folders sorted.

    A place that is there as it is spelled is taken as it is. Of a folder count the names with one of ``endings``.
    Raises RequestError for what names nothing, for a pattern that cannot be read and for a place named twice.
    """
    places = [place for part in _braces(pattern) for place in _expand_one(part, endings)]
    if len(set(places)) < len(places):
        twice = next(place for i, place in enumerate(places) if place in places[:i])
        raise RequestError(f"{pattern} names {twice} twice")
    return places


def _expand_one(pattern: str, endings: tuple[str, ...]) -> list[str]:
    system, path = system_of(pattern)
    with asked(pattern):
        if system.isdir(path):
            found = [joined(pattern, name) for name in names_in(pattern) if name.endswith(endings)]
            if not found:
                raise RequestError(f"{pattern} has no files ending in {' '.join(endings)}")
            return found
        if not MAGIC.search(pattern) or system.exists(path):
            return [pattern]
        matching = sorted(str(match) for match in system.glob(path) if not base_name(str(match)).startswith("."))
    if not matching:
        raise RequestError(f"{pattern} matches nothing")
    return matching if isinstance(system, LocalFileSystem) else [system.unstrip_protocol(match) for match in matching]


def _braces(pattern: str) -> list[str]:
    """Every text that the braces stand for, the last one counting fastest."""
    if not re.search(r"[{}]", pattern) or exists(pattern):
        return [pattern]
    texts, choices = BRACES.split(pattern)[::2], [_choices(inner, pattern) for inner in BRACES.findall(pattern)]
    if any("{" in text or "}" in text for text in texts):
        raise RequestError(f"{pattern} has a brace without its partner")
    count = 1
    for chosen in choices:
        count *= len(chosen)
        if count > MOST_PLACES:
            raise RequestError(f"{pattern} names more than {MOST_PLACES} places")
    return [
        "".join(part for pair in zip(texts, (*chosen, ""), strict=True) for part in pair)
        for chosen in product(*choices)
    ]


def _choices(inner: str, pattern: str) -> list[str]:
    """What one pair of braces stands for."""
    span = RANGE.fullmatch(inner)
    if span is None:
        words = inner.split(",")
        if len(words) < 2 or not all(words):
            raise RequestError(f"{{{inner}}} of {pattern} is neither a range such as {{000..127}} nor a list {{a,b}}")
        return words
    first, last = span.groups()
    padded = any(len(end) > 1 and end.startswith("0") for end in (first, last))
    if padded and len(first) != len(last):
        raise RequestError(f"{{{inner}}} of {pattern} is ragged: both ends need the same number of digits")
    if len(last) > 9 or int(last) < int(first):
        raise RequestError(f"{{{inner}}} of {pattern} must rise, to no more than 999,999,999")
    if int(last) - int(first) >= MOST_PLACES:
        raise RequestError(f"{pattern} names more than {MOST_PLACES} places")
    return [str(number).zfill(len(first) if padded else 0) for number in range(int(first), int(last) + 1)]


@contextmanager
def asked(place: str) -> Iterator[None]:
    """Within, whatever a file system or a store says against it is a RequestError that names the place."""
    try:
        yield
    except (RequestError, WorkError):
        raise
    except Exception as error:  # botocore, aiohttp ...: every store has its own kinds
        raise RequestError(f"cannot read {place}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
