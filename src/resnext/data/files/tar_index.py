"""Index of tar archives: offset and size of every member, so that images are read without unpacking.

The headers are read once, and the index is cached. For a tar within a tar, as in ImageNet's archive, the offsets are in
the outer file.
"""

import io
import os
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import IO, NamedTuple

import numpy as np

from resnext.data.files.decompress import decompress_tar, detect_compression, is_compressed_name
from resnext.data.files.index_cache import Arrays, load_arrays, lock_indexing, save_arrays
from resnext.data.files.storage import FileVersion, cache_key, get_file_versions, open_file, wrap_storage_errors
from resnext.errors import RequestError

MAX_PARALLEL_ARCHIVES = 8  # archives indexed in parallel
BLOCK = tarfile.BLOCKSIZE
MAX_HEADER_BYTES = 1 << 20  # bytes of one read; a longer header is broken or hostile
MAX_NAME_BYTES = 512
MAX_MEMBER_BYTES = 1 << 30  # bytes of an image or label; a tar within a tar may be larger
MAX_MEMBERS = 1 << 25


class Member(NamedTuple):
    """A regular file in an archive; ``offset`` is in the outermost file."""

    name: bytes
    offset: int
    size: int


@dataclass(frozen=True, eq=False)
class TarIndex:
    """The members of one archive, in its order: ``names`` bytes [N], ``offsets`` and ``sizes`` int64 [N]."""

    path: str  # path or URL of the plain tar
    version: FileVersion
    names: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray | None = None  # int64 [N], if the index has them

    def __len__(self) -> int:
        return len(self.names)


IndexBuilder = Callable[[IO[bytes], str, int], Arrays]  # (open archive, its path, its size in bytes) -> arrays


def index_archives(places: Sequence[str], kind: str, build: IndexBuilder) -> list[TarIndex]:
    """Load the index of each archive from the cache, or make it with ``build``; ``kind`` is part of the cache key.

    A compressed tar is first decompressed into the cache.
    """
    plain = [decompress_tar(place) if is_compressed_name(place) else place for place in places]
    stamps = get_file_versions(plain)
    make = partial(_build_index, kind, build)
    found = [_load_cached_index(kind, place, stamp) for place, stamp in zip(plain, stamps, strict=True)]
    if None in found:
        with lock_indexing():
            found = [found[i] or _load_cached_index(kind, plain[i], stamps[i]) for i in range(len(plain))]
            missing = [i for i, done in enumerate(found) if done is None]
            if missing:
                more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
                print(f"indexing {plain[missing[0]]}{more}, once", file=sys.stderr)
            with ThreadPoolExecutor(MAX_PARALLEL_ARCHIVES) as pool:
                made = pool.map(make, [plain[i] for i in missing], [stamps[i] for i in missing])
                for i, index in zip(missing, made, strict=True):
                    found[i] = index
    return [index for index in found if index is not None]


def index_flat(file: IO[bytes], place: str, size: int) -> Arrays:
    """Index the members of an archive."""
    return members_to_arrays(iterate_members(file, place, 0, size), place)


def index_nested(file: IO[bytes], place: str, size: int) -> Arrays:
    """Index the members of the tars in an archive, named as ``n01440764.tar/n01440764_18.JPEG``."""
    return members_to_arrays(_iterate_nested_members(file, place, size), place)


def _iterate_nested_members(file: IO[bytes], place: str, size: int) -> Iterator[Member]:
    for outer in iterate_members(file, place, 0, size, max_member_bytes=size):
        if not outer.name.endswith(b".tar"):
            raise RequestError(f"{place} should hold one tar for each class, but has {os.fsdecode(outer.name)}")
        within = f"{place}: {os.fsdecode(outer.name)}"
        for inner in iterate_members(file, within, outer.offset, outer.size):
            yield Member(outer.name + b"/" + inner.name, inner.offset, inner.size)


def iterate_members(
    file: IO[bytes], place: str, start: int, size: int, *, max_member_bytes: int = MAX_MEMBER_BYTES
) -> Iterator[Member]:
    """Iterate over the regular files of the tar at ``start`` with ``size`` bytes; folders are skipped."""
    window = _Window(file, start, size)
    with wrap_storage_errors(place):
        kind = detect_compression(window.read(8))
        window.seek(0)
        if kind:
            raise RequestError(f"{place} is compressed ({kind}), so its name must end in .tar.{kind}")
        try:
            with tarfile.TarFile(fileobj=window, mode="r") as tar:
                while (member := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined]  # else tarfile keeps them all in memory
                    if _is_file(member, place, size, max_member_bytes):
                        yield Member(_member_name(member, place), start + member.offset_data, member.size)
                end = tar.offset
        except RequestError:
            raise
        except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
            raise RequestError(f"{place} is not a whole tar archive: {error}") from error
        window.seek(end)
        mark = window.read(BLOCK)
    if mark != bytes(BLOCK):
        what = "is damaged" if len(mark) == BLOCK else "was cut off"
        raise RequestError(f"{place} {what}: at byte {start + end} there is neither a member nor the end of the tar")


class _Window(io.RawIOBase):
    """A part of a file as a file for tarfile. One read gives at most MAX_HEADER_BYTES."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self.file, self.start, self.size, self.position = file, start, size, 0

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        assert whence == io.SEEK_SET
        self.position = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        self.file.seek(self.start + self.position)
        content = self.file.read(max(0, min(size, self.size - self.position)))
        self.position += len(content)
        return content


def _is_file(member: tarfile.TarInfo, place: str, size: int, largest: int) -> bool:
    """Whether a member is a regular file; False for a folder. Raises RequestError for anything else."""
    name = member.name
    if not 0 <= member.size <= size - member.offset_data:
        raise RequestError(
            f"{place} was cut off: {name} should have {member.size} bytes, which end after the archive's {size}"
        )
    if member.isdir():
        return False
    if not member.isreg() or member.issparse():
        raise RequestError(f"{place}: {name} is not a regular file; links, devices and sparse files are not read")
    if member.size > largest:
        raise RequestError(f"{place}: {name} has {member.size} bytes; more than {largest} cannot be an image")
    return True


def _member_name(member: tarfile.TarInfo, place: str) -> bytes:
    name = member.name.encode("utf-8", "surrogateescape").removeprefix(b"./")
    if not name or len(name) > MAX_NAME_BYTES or b"\0" in name:
        raise RequestError(f"{place} has a member whose name cannot be used: {os.fsdecode(name[:80])}")
    return name


def members_to_arrays(found: Iterator[Member], place: str) -> Arrays:
    """Collect the members into arrays. Raises RequestError for no members, too many, or a name that occurs twice."""
    names, offsets, sizes = [], [], []
    for member in found:
        names.append(member.name)
        offsets.append(member.offset)
        sizes.append(member.size)
        if len(names) > MAX_MEMBERS:
            raise RequestError(f"{place} has more than {MAX_MEMBERS} members")
    if not names:
        raise RequestError(f"{place} is an empty tar archive")
    arrays = {"names": np.array(names), "offsets": np.array(offsets, np.int64), "sizes": np.array(sizes, np.int64)}
    twice = find_duplicate(arrays["names"])
    if twice is not None:
        raise RequestError(f"{place} has {os.fsdecode(twice)} twice")
    return arrays


def find_duplicate(names: np.ndarray) -> bytes | None:
    """Return a name that occurs more than once, or None."""
    ordered = np.sort(names)
    same = np.flatnonzero(ordered[1:] == ordered[:-1])
    return bytes(ordered[same[0]]) if len(same) else None


def _build_index(kind: str, build: IndexBuilder, place: str, stamp: FileVersion) -> TarIndex:
    with open_file(place) as file:
        arrays = build(file, place, stamp.size)
    save_arrays(_index_cache_key(kind, place, stamp), arrays)
    return TarIndex(place, stamp, **arrays)


def _load_cached_index(kind: str, place: str, stamp: FileVersion) -> TarIndex | None:
    arrays = load_arrays(_index_cache_key(kind, place, stamp), partial(_is_valid_index, stamp.size))
    return None if arrays is None else TarIndex(place, stamp, **arrays)


def _index_cache_key(kind: str, place: str, stamp: FileVersion) -> str:
    return f"tar {kind}\0{cache_key(place, stamp)}"


def _is_valid_index(size: int, arrays: Arrays) -> bool:
    """Whether arrays from the cache are valid for an archive of ``size`` bytes."""
    if not {"names", "offsets", "sizes"} <= set(arrays) <= {"names", "offsets", "sizes", "labels"}:
        return False
    names, offsets, sizes = (arrays[name] for name in ("names", "offsets", "sizes"))
    if any(array.shape != (len(names),) for array in arrays.values()) or not len(names):
        return False
    if names.dtype.kind != "S" or any(array.dtype != np.int64 for name, array in arrays.items() if name != "names"):
        return False
    return bool(min(offsets.min(), sizes.min()) >= 0 and (offsets <= size - sizes).all())
