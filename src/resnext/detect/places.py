"""Image files as annotations name them: names that stay in their folder, and whether the files are there."""

import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from resnext.data.classes import listing
from resnext.errors import RequestError

DRIVE = re.compile(r"^[A-Za-z]:[\\/]")
MANY = 5000  # names in a folder, above which none is looked for that is spelled nearly so


def checked_name(name: str, where: str) -> str:
    """A file's name below its folder. Raises RequestError for one that leads out of it; ``where`` says who names it."""
    if not is_inside(name):
        raise RequestError(f"{where} names {name!r}, which leads out of the folder of the images")
    return name


def is_inside(name: str) -> bool:
    """Whether a path, whatever system wrote it, stays below the folder that it is joined to."""
    path = PurePosixPath(name.replace("\\", "/"))
    drive = DRIVE.match(name) or (os.name == "nt" and ":" in name)
    return not (path.is_absolute() or ".." in path.parts or drive)


def missing_files(root: Path, names: Sequence[str]) -> list[str]:
    """Those of ``names`` that are no file below ``root``, by one listing of each folder."""
    folders: dict[str, set[str]] = {}
    missing = []
    for name in names:
        folder, _, base = name.rpartition("/")
        if folder not in folders:
            folders[folder] = set(names_in(root / folder))
        if base not in folders[folder]:
            missing.append(name)
    return missing


def names_in(folder: Path) -> list[str]:
    """What lies in a folder, folders left out; nothing where it is none."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if not entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return []
    except OSError as error:
        raise RequestError(f"cannot list {folder}: {error.strerror}") from error


def check_all_there(root: Path, names: Sequence[str], said_by: str) -> None:
    """Raise RequestError unless every image is there: the first few that are not, how many, and what is near."""
    missing = missing_files(root, names)
    if not missing:
        return
    if not root.is_dir():
        raise RequestError(
            f"the folder of the images of {said_by}, {root}, {'is a file' if root.exists() else 'does not exist'}"
        )
    how_many = "none" if len(missing) == len(names) else f"{len(names) - len(missing)}"
    raise RequestError(
        f"{how_many} of the {len(names)} images of {said_by} are in {root}; missing are {listing(missing)}"
        f"{_near(root, missing[0])}"
    )


def _near(root: Path, name: str) -> str:
    """A clause about a file that is called nearly so, or about what the folder holds instead."""
    folder, _, base = name.rpartition("/")
    there = sorted(name for name in names_in(root / folder) if not name.startswith("."))
    close = get_close_matches(base, there, n=1, cutoff=0.8) if len(there) <= MANY else []
    if close:
        return f" (there is {close[0]!r})"
    return f" (the folder holds {listing(there)})" if there else f" ({root / folder} holds no files)"
