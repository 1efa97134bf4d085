"""Check image paths in annotations: they must stay inside the image folder, and the files must exist."""

import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from resnext.data.classes import quote_names
from resnext.errors import RequestError

DRIVE = re.compile(r"^[A-Za-z]:[\\/]")
MAX_LISTED_NAMES = 5000  # files in a folder, above which no similar name is searched


def check_image_name(name: str, where: str) -> None:
    """Raise RequestError for a path out of the image folder; ``where`` is its source."""
    if not is_inside(name):
        raise RequestError(f"{where} names {name!r}, which is outside the image folder")


def is_inside(name: str) -> bool:
    """Return whether a relative path stays inside its folder, in Unix or Windows notation."""
    path = PurePosixPath(name.replace("\\", "/"))
    drive = DRIVE.match(name) or (os.name == "nt" and ":" in name)
    return not (path.is_absolute() or ".." in path.parts or drive)


def find_missing_files(root: Path, names: Sequence[str]) -> list[str]:
    """Return the ``names`` that are not files below ``root``; each folder is listed once."""
    folders: dict[str, set[str]] = {}
    missing = []
    for name in names:
        folder, _, base = name.rpartition("/")
        if folder not in folders:
            folders[folder] = set(list_file_names(root / folder))
        if base not in folders[folder]:
            missing.append(name)
    return missing


def list_file_names(folder: Path) -> list[str]:
    """List the files in a folder, without subfolders; empty where it is not a folder."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if not entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return []
    except OSError as error:
        raise RequestError(f"cannot list {folder}: {error.strerror}") from error


def check_images_exist(root: Path, names: Sequence[str], said_by: str) -> None:
    """Raise RequestError unless all images exist, with the first missing ones and similar names."""
    missing = find_missing_files(root, names)
    if not missing:
        return
    if not root.is_dir():
        problem = "is a file" if root.exists() else "does not exist"
        raise RequestError(f"the image folder of {said_by}, {root}, {problem}")
    how_many = "none" if len(missing) == len(names) else f"{len(names) - len(missing)}"
    raise RequestError(
        f"{how_many} of the {len(names)} images of {said_by} are in {root}; missing: {quote_names(missing)}"
        f"{_suggest_similar(root, missing[0])}"
    )


def _suggest_similar(root: Path, name: str) -> str:
    """Describe a file with a similar name, or what the folder contains instead."""
    folder, _, base = name.rpartition("/")
    there = sorted(name for name in list_file_names(root / folder) if not name.startswith("."))
    close = get_close_matches(base, there, n=1, cutoff=0.8) if len(there) <= MAX_LISTED_NAMES else []
    if close:
        return f" (did you mean {close[0]!r}?)"
    return f" (the folder contains {quote_names(there)})" if there else f" ({root / folder} contains no files)"
