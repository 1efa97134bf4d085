"""The folder that pictures and tables are written to: only files of our own are ever replaced."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from resnext.errors import RequestError
from resnext.files import check_folder, disk_named, written_whole

INDEX = ".resnext-paper.json"  # name -> SHA-256 of what we wrote there last, and of what stood there before
LARGEST_INDEX = 1 << 20  # bytes


def check_files(folder: Path, names: Iterable[str]) -> None:
    """Raise RequestError where nothing can be put into ``folder``, or a file there is not ours or was changed since."""
    check_folder(folder, "--out")
    index = _index(folder)
    for name in names:
        path = folder / name
        if path.is_symlink() or (path.exists() and _digest(path) not in index.get(name, [])):
            raise RequestError(
                f"{path} is there and is not as resnext wrote it; move it away, or give --out another folder"
            )


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write ``files`` into ``folder``, made where it is missing.

    Raises what ``check_files`` does, before anything is written, and WorkError when the disk refuses.
    """
    check_files(folder, files)
    with disk_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
    index = _index(folder)
    index |= {name: [hashlib.sha256(data).hexdigest(), *index.get(name, [])][:2] for name, data in files.items()}
    with written_whole(folder / INDEX, "w") as file:  # first: whenever this is killed, each file is known
        json.dump(index, file, indent=1)
    for name, data in files.items():
        with written_whole(folder / name) as file:
            file.write(data)


def _index(folder: Path) -> dict[str, list[str]]:
    path = folder / INDEX
    try:
        if path.stat().st_size > LARGEST_INDEX:
            return {}
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return {name: v for name, v in values.items() if isinstance(v, list)} if isinstance(values, dict) else {}


def _digest(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
