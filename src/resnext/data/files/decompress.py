"""Decompress tars into the cache folder, once, since a compressed file does not allow reading at an offset.

This costs disk space. In return the order of images and resuming are exact, without a shuffle buffer.
"""

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from tarfile import BLOCKSIZE
from typing import IO

from fsspec.compression import compr

from resnext.data.files.download import data_folder, hold_lock
from resnext.data.files.storage import base_name, cache_key, get_file_versions, open_file
from resnext.errors import RequestError, WorkError
from resnext.files import report_write_errors, sync_folder

CHUNK = 1 << 20
MIN_FREE_BYTES = 1 << 28  # bytes of the disk to leave free
COMPRESSIONS = {"gz": "gzip", "tgz": "gzip", "bz2": "bz2", "xz": "xz", "zst": "zstd"}  # ending -> fsspec's name
SIGNATURES = {b"\x1f\x8b": "gz", b"BZh": "bz2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zst"}


def detect_compression(beginning: bytes) -> str:
    """Detect the compression from a file's first bytes; an empty text if there is none."""
    return next((kind for first, kind in SIGNATURES.items() if beginning.startswith(first)), "")


def is_compressed_name(place: str) -> bool:
    """Whether a path ends as a compressed tar does."""
    return place.rpartition(".")[2].lower() in COMPRESSIONS


def decompress_tar(place: str) -> str:
    """Decompress a tar into the cache folder, unless it is there already, and return the path of the plain tar."""
    stamp = get_file_versions([place])[0]
    identity = cache_key(place, stamp).encode("utf-8", "surrogateescape")
    folder = data_folder() / "decompressed"
    target = folder / f"{hashlib.sha256(identity).hexdigest()[:16]}-{base_name(place).rpartition('.')[0]}"
    with report_write_errors(target):
        folder.mkdir(parents=True, exist_ok=True)
        with hold_lock(folder / f".{target.name}.lock", f"decompressing {place}"):
            if not target.exists():
                _write_decompressed(place, stamp.size, target)
    return str(target)


def _write_decompressed(place: str, size: int, target: Path) -> None:
    """Decompress to ``NAME.part`` and rename it. A file left by a killed process is overwritten."""
    _check_free_space(place, target.parent, size)  # a lower bound: the decompressed size is not known
    print(f"decompressing {place} into {target.parent}, once", file=sys.stderr)
    part = target.with_name(target.name + ".part")
    try:
        with open_file(place) as file, part.open("wb") as out:
            end = b""
            for written, chunk in enumerate(_iterate_content(file, place)):
                if written % 64 == 0:
                    _check_free_space(place, target.parent, 64 * CHUNK)
                out.write(chunk)
                end = (end + chunk)[-BLOCKSIZE:]
            if end != bytes(BLOCKSIZE):  # zstandard reports no error for a stream that was cut off
                raise WorkError(f"{place} was cut off, or is not a compressed tar: its content lacks a tar's end mark")
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, target)
        sync_folder(target.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _iterate_content(file: IO[bytes], place: str) -> Iterator[bytes]:
    """Iterate over the decompressed content in pieces of CHUNK bytes."""
    kind = COMPRESSIONS[place.rpartition(".")[2].lower()]
    if kind not in compr:
        raise RequestError(f"{place} needs the package zstandard: pip install zstandard")
    try:
        with compr[kind](file, mode="rb") as stream:
            while chunk := stream.read(CHUNK):
                yield chunk
    except Exception as error:  # every decompressor and every store has its own exceptions
        raise WorkError(f"{place} is not a whole {kind} file: {error}") from error


def _check_free_space(place: str, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + MIN_FREE_BYTES:
        raise WorkError(
            f"{folder} has {free} bytes free, too few to decompress {place}; "
            "set RESNEXT_DATA to another folder, or decompress it yourself"
        )
