"""The output folder of plots and tables: only files that this program wrote are replaced."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from resnext.errors import RequestError
from resnext.files import atomic_write, check_folder, report_write_errors

INDEX = ".resnext-paper.json"  # file name -> SHA-256 of the version we wrote last, and of the one before
MAX_INDEX_BYTES = 1 << 20  # bytes


def check_out_files(folder: Path, names: Iterable[str]) -> None:
    """Check that files can be written. Raises RequestError if not, or if a file there is not as we wrote it."""
    check_folder(folder, "--out")
    index = _read_index(folder)
    for name in names:
        path = folder / name
        if path.is_symlink() or (path.exists() and _hash_file(path) not in index.get(name, [])):
            raise RequestError(
                f"{path} exists and is not as resnext wrote it; move it away, or give another folder with --out"
            )


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write ``files`` into ``folder``, which is created if missing.

    Checks first as ``check_out_files`` does. Raises WorkError if the disk cannot be written.
    """
    check_out_files(folder, files)
    with report_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    index = _read_index(folder)
    index |= {name: [hashlib.sha256(data).hexdigest(), *index.get(name, [])][:2] for name, data in files.items()}
    with atomic_write(folder / INDEX, "w") as file:  # first, so that the index knows every file even if this is killed
        json.dump(index, file, indent=1)
    for name, data in files.items():
        with atomic_write(folder / name) as file:
            file.write(data)


def _read_index(folder: Path) -> dict[str, list[str]]:
    path = folder / INDEX
    try:
        if path.stat().st_size > MAX_INDEX_BYTES:
            return {}
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return {name: v for name, v in values.items() if isinstance(v, list)} if isinstance(values, dict) else {}


def _hash_file(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
