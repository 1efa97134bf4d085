"""Detect the format of a weights file from its content, and read it.

File names and extensions are ignored: a ``.pth`` may be a zip, a sequence of pickles, a tar or a Torch7 file.
"""

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from resnext.errors import RequestError
from resnext.weights.network_spec import RawCheckpoint
from resnext.weights.readers import unknown
from resnext.weights.readers.pickle.machine import interpret
from resnext.weights.readers.pickle.stream import PickleStream
from resnext.weights.readers.pickle.values import resolve
from resnext.weights.readers.safetensors_file import can_be_safetensors, read_safetensors
from resnext.weights.readers.torch7 import can_be_t7, read_t7
from resnext.weights.readers.torch_legacy import LEGACY_MAGIC, read_legacy
from resnext.weights.readers.torch_tar import read_tar
from resnext.weights.readers.torch_tensors import ALLOWED_NAMES
from resnext.weights.readers.torch_zip import read_zip

WEIGHTS_FILE_NAMES = ("model.safetensors", "pytorch_model.bin")  # of timm and Hugging Face, beside config.json
CONFIG_FILE_NAME = "config.json"
MAX_CONFIG_BYTES = 4 << 20  # bytes; ImageNet-21k's class names take less than 1 MB

PICKLE_PATTERN = re.compile(rb"\x80[\x02-\x05]")
# Protocols 0 and 1 have no magic number. They begin with a list, dict, tuple or name, and end with a full stop.
OLD_PICKLE_PATTERN = re.compile(
    rb"\([dlt][pqrSVIFLUXTKJMGNc(\]}.]|[\]}][pqr(.]|\(?c[\w.]+\n[\w.]+\n|\((?:S['\"]|I\d+\n|[\]}(][pqr(\]}])"
)
OLD_LEGACY_START = b"L%dL\n." % LEGACY_MAGIC  # start of a legacy torch file in protocol 1
TAR_MAGIC = b"ustar"
TAR_MAGIC_OFFSET = 257


def read_weights_file(path: Path) -> RawCheckpoint:
    """Read the weights file ``path``, or the weights file in the folder ``path``.

    The result does not share memory with the file, except for Torch7 files, which are memory-mapped. Raises
    RequestError, which begins with the path, if the file is no weights file, is damaged, or contains code.
    """
    path = Path(path)
    with _prefix_errors(path):
        path = _resolve_file(path)
    with _prefix_errors(path), open(path, "rb") as file:
        container, value, metadata = _detect_and_read(path, file, os.fstat(file.fileno()).st_size)
    config = _read_config(path.parent / CONFIG_FILE_NAME) if path.name in WEIGHTS_FILE_NAMES else None
    return RawCheckpoint(path=path, file_format=container, value=value, metadata=metadata, config=config)


@contextmanager
def _prefix_errors(path: Path) -> Iterator[None]:
    """Convert errors in the ``with`` block to a RequestError that begins with ``path``."""
    try:
        yield
    except RequestError as error:
        said = error.args[0]
        raise RequestError(said if said.startswith(str(path)) else f"{path} {said}") from None
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror or error}") from None


def _resolve_file(path: Path) -> Path:
    """Find the regular file to read. Pipes and devices are refused, because opening one may block."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        for name in WEIGHTS_FILE_NAMES:
            if (path / name).is_file():
                return path / name
        if any((path / f"{name}.index.json").is_file() for name in WEIGHTS_FILE_NAMES):
            raise RequestError("has its weights in several files, which is not supported; save them as one file")
        raise RequestError(f"is a folder that is not a run directory and has no {' or '.join(WEIGHTS_FILE_NAMES)}")
    if not stat.S_ISREG(mode):
        raise RequestError("is a pipe, socket or device, not a file")
    return path


def _detect_and_read(path: Path, file: IO[bytes], size: int) -> tuple[str, Any, dict[str, str]]:
    """Return the file format, the value, and the metadata (safetensors only)."""
    head = file.read(unknown.HEAD_BYTES)
    if not head:
        raise RequestError("is empty")
    is_t7 = can_be_t7(head)
    if can_be_safetensors(head) and not is_t7:
        return "safetensors", *read_safetensors(path, file, size)
    if head.startswith(b"PK\3\4"):
        return "torch zip", read_zip(file, size), {}
    if PICKLE_PATTERN.match(head) or head.startswith(OLD_LEGACY_START):
        return *_read_pickle(file, size), {}
    if head[TAR_MAGIC_OFFSET : TAR_MAGIC_OFFSET + len(TAR_MAGIC)] == TAR_MAGIC:
        return "torch tar", read_tar(file, size), {}
    what = unknown.describe_binary(head)
    if what is not None:
        raise RequestError(what)
    if is_t7:
        return "torch7", read_t7(path), {}
    file.seek(size - 1)
    if OLD_PICKLE_PATTERN.match(head) and file.read(1) == b".":
        return *_read_pickle(file, size), {}
    raise RequestError(unknown.describe_text(head) or _describe_unknown(head, size))


def _read_pickle(file: IO[bytes], size: int) -> tuple[str, Any]:
    """Read a legacy torch file, which begins with a magic number, or a plain pickle."""
    value = interpret(PickleStream(file, 0, size), ALLOWED_NAMES)
    if type(value) is int and value == LEGACY_MAGIC:
        return "torch legacy", read_legacy(file, size)
    return "pickle", resolve(value)


def _describe_unknown(head: bytes, size: int) -> str:
    if not head.strip(b"\0"):
        return "contains only zeros; was the download interrupted?"
    return (
        f"is not a known weights file ({size:,} bytes, beginning with {head[:8].hex(' ')}); "
        "safetensors, torch, pickle and Torch7 files can be read"
    )


def _read_config(path: Path) -> dict[str, Any] | None:
    """Read ``config.json`` as a dict; None if there is no such file."""
    if not path.is_file():
        return None
    with _prefix_errors(path), open(path, "rb") as file:
        data = file.read(MAX_CONFIG_BYTES + 1)
        if len(data) > MAX_CONFIG_BYTES:
            raise RequestError(f"is larger than {MAX_CONFIG_BYTES:,} bytes")
        try:
            config = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"is not JSON: {error}") from None
        if not isinstance(config, dict):
            raise RequestError("is JSON, but not an object")
        return config
