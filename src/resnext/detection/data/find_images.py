"""Find the images of a split below their folder, in whatever form a tool wrote their paths, and their sizes.

A path in the annotations is used unchanged where it is a file below the folder. Otherwise the files below the folder
are searched for the same path in another spelling (backslashes, Unicode form), for the path without its first folders,
and, for an absolute path or one with ``..``, for the only file of that name. Files outside the folder are never opened.
"""

import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from resnext.data.classes import quote_names
from resnext.data.dataset import BadImageError
from resnext.data.decode.pillow import read_image_size
from resnext.data.sources.image_folder import walk_files
from resnext.detection.data.annotations import RawAnnotations
from resnext.detection.data.faulty_files import FaultyFilesError
from resnext.detection.data.image_paths import DRIVE, find_missing_files, is_inside, list_file_names
from resnext.environment import count_available_cores
from resnext.errors import RequestError

FOUND_BY_SPELLING = "images found under another spelling of their path (backslashes, Unicode form)"
FOUND_BY_NAME = "images found by file name, not at their path in the annotations"
MEASURED_SIZES = "image sizes missing in the annotations, read from the images"


def locate_images(parsed: RawAnnotations, root: Path, *, exif: bool = True) -> RawAnnotations:
    """Resolve the image paths below ``root`` and fill in missing sizes. Raises RequestError.

    Images that are not found keep their path. With ``exif``, a missing size is that of the upright image.
    """
    counts = dict(parsed.counts)
    files = _find_images(root, parsed.files, parsed.describe_image, counts)
    sizes = _fill_in_sizes(root, files, parsed, exif, counts)
    return replace(parsed, files=files, sizes=sizes, counts=counts)


def find_image_folder(folders: Iterable[Path], names: Sequence[str]) -> Path:
    """Find the first folder with the first or last image; else the first that exists."""
    candidates = list(folders)
    probes = (*names[:1], *names[-1:])
    for holds in (_has_path, _has_name):
        for folder in candidates:
            if any(holds(folder, name) for name in probes):
                return folder
    return next((folder for folder in candidates if folder.is_dir()), candidates[0])


def _has_path(folder: Path, name: str) -> bool:
    return is_inside(name) and os.path.isfile(folder / name)


def _has_name(folder: Path, name: str) -> bool:
    """Return whether the path exists in another spelling, or without some of its first folders."""
    parts = split_path(name)
    ends = [parts[start:] for start in range(len(parts))]
    return any(end[-1] in map(normalize_unicode, list_file_names(folder.joinpath(*end[:-1]))) for end in ends)


def normalize_unicode(text: str) -> str:
    """Normalize to Unicode's composed form (NFC), so that equal letters compare equal."""
    return unicodedata.normalize("NFC", text)


def split_path(name: str) -> tuple[str, ...]:
    """Split a Unix or Windows path into folders and file name, without ``.`` and ``..``."""
    path = normalize_unicode(DRIVE.sub("", name)).replace("\\", "/")
    return tuple(part for part in path.split("/") if part not in ("", ".", ".."))


def _find_images(
    root: Path, names: Sequence[str], describe_image: Callable[[int], str], counts: dict[str, int]
) -> tuple[str, ...]:
    """Find each image below ``root``; ``counts`` gets the number of those not at their path."""
    gone = set(find_missing_files(root, [name for name in names if is_inside(name)]))
    lost = [place for place, name in enumerate(names) if name in gone or not is_inside(name)]
    if not lost:
        return tuple(names)
    there = _list_by_name(root)
    files = list(names)
    stated = {name: name for name in names if is_inside(name) and name not in gone}
    for place in lost:
        name, where = names[place], describe_image(place)
        found = _find_file(name, there, root, where)
        if found is None:
            continue
        if stated.setdefault(found, name) != name:
            raise RequestError(
                f"{where} names {name!r}, and another image is {stated[found]!r}: both match only {found!r} in {root}"
            )
        files[place] = found
        how = FOUND_BY_SPELLING if split_path(found) == split_path(name) and is_inside(name) else FOUND_BY_NAME
        counts[how] = counts.get(how, 0) + 1
    return tuple(files)


def _list_by_name(root: Path) -> dict[str, list[str]]:
    """List all files below ``root`` (relative paths with slashes) by normalized file name."""
    found: dict[str, list[str]] = {}
    for path in walk_files(str(root)) if root.is_dir() else ():
        below = os.path.relpath(path, root).replace(os.sep, "/")
        found.setdefault(normalize_unicode(os.path.basename(path)), []).append(below)
    return found


def _find_file(name: str, there: dict[str, list[str]], root: Path, where: str) -> str | None:
    """Find the file that a path means. Raises RequestError for several, and for none if the path is outside root."""
    parts, inside = split_path(name), is_inside(name)
    shared = {file: _count_common_end(split_path(file), parts) for file in there.get(parts[-1] if parts else "", ())}
    if inside:  # its folders must match: val/a.jpg is not train/a.jpg
        shared = {file: length for file, length in shared.items() if length == len(split_path(file))}
    longest = max(shared.values(), default=0)
    best = [file for file, length in shared.items() if length == longest]
    if len(best) > 1:
        raise RequestError(
            f"{where} names {name!r}, which matches {quote_names(sorted(best))} in {root}; give more of its path"
        )
    if best:
        return best[0]
    if inside:
        return None
    raise RequestError(
        f"{where} names {name!r}, which is outside the image folder, and no file in {root} is called "
        f"{parts[-1] if parts else name!r}"
    )


def _count_common_end(first: Sequence[str], second: Sequence[str]) -> int:
    """Count the parts that two paths have in common at their ends."""
    pairs = list(zip(reversed(first), reversed(second), strict=False))
    return next((place for place, (a, b) in enumerate(pairs) if a != b), len(pairs))


def _fill_in_sizes(
    root: Path, files: Sequence[str], parsed: RawAnnotations, exif: bool, counts: dict[str, int]
) -> np.ndarray:
    """Fill in missing sizes from the images. Raises FaultyFilesError naming all that cannot be read."""
    unknown = np.flatnonzero((parsed.sizes < 1).any(axis=1))
    if not len(unknown):
        return parsed.sizes
    faults: list[tuple[Path, str]] = []

    def read_size(place: int) -> tuple[int, int]:
        path = root / files[place]
        try:
            return read_image_size(path, exif)
        except BadImageError as error:
            faults.append((path, f"{path}, whose size is missing in {parsed.name}: {error.reason}"))
            return 0, 0

    sizes = parsed.sizes.copy()
    with ThreadPoolExecutor(count_available_cores()) as pool:
        sizes[unknown] = list(pool.map(read_size, unknown.tolist()))
    if faults:
        what = f"of {len(unknown)} images without a size in the annotations"
        raise FaultyFilesError(parsed.name, what, sorted(faults))
    counts[MEASURED_SIZES] = len(unknown)
    return sizes
