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
from resnext.weights import foreign
from resnext.weights.contents import Raw
from resnext.weights.pickle_stream import Stream
from resnext.weights.pickle_values import settled
from resnext.weights.pickles import interpret
from resnext.weights.safetensors_file import looks_like_safetensors, read_safetensors
from resnext.weights.torch7 import looks_like_t7, read_t7
from resnext.weights.torch_files import MAGIC, read_legacy, read_zip
from resnext.weights.torch_tar import read_tar
from resnext.weights.torch_tensors import NAMES

FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")  # as timm and Hugging Face name them, beside config.json
CONFIG = "config.json"
LARGEST_CONFIG = 4 << 20  # bytes; ImageNet-21k's class names take less than 1 MB

PICKLE = re.compile(rb"\x80[\x02-\x05]")
# Protocols 0 and 1 have no magic number. They begin with a list, dict, tuple or name, and end with a full stop.
OLD_PICKLE = re.compile(
    rb"\([dlt][pqrSVIFLUXTKJMGNc(\]}.]|[\]}][pqr(.]|\(?c[\w.]+\n[\w.]+\n|\((?:S['\"]|I\d+\n|[\]}(][pqr(\]}])"
)
OLD_MAGIC = b"L%dL\n." % MAGIC  # start of a legacy torch file in protocol 1
TAR = b"ustar"
TAR_AT = 257


def read(path: Path) -> Raw:
    """Read the weights file ``path``, or the weights file in the folder ``path``.

    The result has plain values, dicts, lists, tensors and NumPy arrays. It does not share memory with the file, except
    for Torch7 files, which are memory-mapped. Raises RequestError, which begins with the path, if the file is no
    weights file, is damaged, or contains code.
    """
    path = Path(path)
    with _naming(path):
        path = _file_of(path)
    with _naming(path), open(path, "rb") as file:
        container, value, metadata = _read(path, file, os.fstat(file.fileno()).st_size)
    config = None
    if path.name in FOLDER_FILES:
        with _naming(path.parent / CONFIG):
            config = _config(path.parent / CONFIG)
    return Raw(path=path, container=container, value=value, metadata=metadata, config=config)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Convert errors in the ``with`` block to a RequestError that begins with ``path``."""
    try:
        yield
    except RequestError as error:
        said = error.args[0]
        raise RequestError(said if said.startswith(str(path)) else f"{path} {said}") from None
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror or error}") from None


def _file_of(path: Path) -> Path:
    """Find the regular file to read. Pipes and devices are refused, because opening one may block."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        for name in FOLDER_FILES:
            if (path / name).is_file():
                return path / name
        if any((path / f"{name}.index.json").is_file() for name in FOLDER_FILES):
            raise RequestError("has its weights in several files, which is not supported; save them as one file")
        raise RequestError(f"is a folder that is not a run directory and has no {' or '.join(FOLDER_FILES)}")
    if not stat.S_ISREG(mode):
        raise RequestError("is a pipe, socket or device, not a file")
    return path


def _read(path: Path, file: IO[bytes], size: int) -> tuple[str, Any, dict[str, str]]:
    """Return the file format, the value, and the metadata (safetensors only)."""
    head = file.read(foreign.HEAD)
    if not head:
        raise RequestError("is empty")
    is_t7 = looks_like_t7(head)
    if looks_like_safetensors(head) and not is_t7:
        return "safetensors", *read_safetensors(path, file, size)
    if head.startswith(b"PK\3\4"):
        return "torch zip", read_zip(file, size), {}
    if PICKLE.match(head) or head.startswith(OLD_MAGIC):
        return *_read_pickle(file, size), {}
    if head[TAR_AT : TAR_AT + len(TAR)] == TAR:
        return "torch tar", read_tar(file, size), {}
    what = foreign.foreign(head)
    if what is not None:
        raise RequestError(what)
    if is_t7:
        return "torch7", read_t7(path), {}
    if OLD_PICKLE.match(head) and _last_byte(file, size) == b".":
        return *_read_pickle(file, size), {}
    raise RequestError(foreign.text(head) or _unknown(head, size))


def _read_pickle(file: IO[bytes], size: int) -> tuple[str, Any]:
    """Read a legacy torch file, which begins with a magic number, or a plain pickle."""
    value = interpret(Stream(file, 0, size), NAMES)
    if type(value) is int and value == MAGIC:
        return "torch legacy", read_legacy(file, size)
    return "pickle", settled(value)


def _last_byte(file: IO[bytes], size: int) -> bytes:
    file.seek(size - 1)
    return file.read(1)


def _unknown(head: bytes, size: int) -> str:
    if not head.strip(b"\0"):
        return "contains only zeros; was the download interrupted?"
    return (
        f"is not a known weights file ({size:,} bytes, beginning with {head[:8].hex(' ')}); "
        "safetensors, torch, pickle and Torch7 files can be read"
    )


def _config(path: Path) -> dict[str, Any] | None:
    """Read ``config.json`` as a dict; None if there is no such file."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        data = file.read(LARGEST_CONFIG + 1)
    if len(data) > LARGEST_CONFIG:
        raise RequestError(f"is larger than {LARGEST_CONFIG:,} bytes")
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise RequestError("is JSON, but not an object")
    return config
