"""ImageNet's development kit: the synset of each image of the validation archive. Read without unpacking."""

import re
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO

from resnext.data.files.storage import exists, is_folder, join_path, open_file
from resnext.data.sources.matlab import read_structs
from resnext.errors import RequestError

DEVKIT_ARCHIVE = "ILSVRC2012_devkit_t12.tar.gz"
META_FILE, GROUND_TRUTH_FILE = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"
MAX_FILE_BYTES = 1 << 24  # bytes of one of its files
MAX_MEMBERS = 1000
WNID_PATTERN = re.compile(r"n[0-9]{8}")


def read_ground_truth(folders: list[str], wanted_by: str) -> list[str]:
    """Read the synset of validation image 1, 2, ... from the devkit in one of ``folders``, packed or unpacked.

    ``wanted_by`` is the path that needs it, for the error. Raises RequestError if the devkit is missing or not valid.
    """
    place = next((place for folder in folders for place in _candidate_paths(folder) if exists(place)), None)
    if place is None:
        raise RequestError(
            f"the classes of the images in {wanted_by} are not known: put {DEVKIT_ARCHIVE}, as downloaded or unpacked, "
            f"beside it (looked in {', '.join(folders)})"
        )
    files = _read_folder(place) if is_folder(place) else _read_archive(place)
    synsets = _parse_synsets(files[META_FILE], place)
    truth = []
    for number, line in enumerate(files[GROUND_TRUTH_FILE].decode("ascii", "replace").split(), 1):
        if not line.isdecimal() or len(line) > 9 or int(line) not in synsets:
            raise RequestError(
                f"{place}: line {number} of {GROUND_TRUTH_FILE} is {line[:40]!r}, expected 1 to {len(synsets)}"
            )
        truth.append(synsets[int(line)])
    return truth


def _candidate_paths(folder: str) -> Iterator[str]:
    for name in (DEVKIT_ARCHIVE, DEVKIT_ARCHIVE.partition(".")[0]):
        yield join_path(folder, name)


def _read_folder(folder: str) -> dict[str, bytes]:
    files = {}
    for name in (META_FILE, GROUND_TRUTH_FILE):
        if not exists(join_path(folder, name)):
            raise RequestError(f"{folder} has no {name}, so it is not the unpacked {DEVKIT_ARCHIVE}")
        with open_file(join_path(folder, name)) as file:
            files[name] = _read_bounded(file, f"{folder}/{name}")
    return files


def _read_archive(place: str) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    try:
        with open_file(place) as file, tarfile.open(fileobj=file, mode="r|gz") as tar:
            for count, member in enumerate(tar):
                if count >= MAX_MEMBERS or member.offset > MAX_MEMBERS * MAX_FILE_BYTES:
                    break
                name = next(
                    (name for name in (META_FILE, GROUND_TRUTH_FILE) if f"/{member.name}".endswith(f"/{name}")), None
                )
                content = tar.extractfile(member) if name and member.isreg() else None
                if name and content:
                    files[name] = _read_bounded(content, f"{place}: {member.name}")
                if len(files) == 2:
                    return files
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise RequestError(f"{place} is not a whole tar.gz: {error}") from error
    missing = next(name for name in (META_FILE, GROUND_TRUTH_FILE) if name not in files)
    raise RequestError(f"{place} has no {missing}, so it is not {DEVKIT_ARCHIVE} of ILSVRC2012's tasks 1 and 2")


def _read_bounded(file: IO[bytes], name: str) -> bytes:
    content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise RequestError(f"{name} has more than {MAX_FILE_BYTES} bytes, too many for a devkit")
    return content


def _parse_synsets(meta: bytes, place: str) -> dict[int, str]:
    """Map the ILSVRC2012 number of each class to its synset. Classes are the entries without children."""
    try:
        rows = read_structs(meta, "synsets", ("ILSVRC2012_ID", "WNID", "num_children"))
    except ValueError as error:
        raise RequestError(f"{place}: {META_FILE} cannot be read as MATLAB's: {error}") from error
    found: dict[int, str] = {}
    for number, wnid, children in rows:
        if children != 0:
            continue
        id_, word = int(number) if isinstance(number, float) and number.is_integer() else 0, str(wnid)
        if not WNID_PATTERN.fullmatch(word) or id_ in found or word in found.values():
            raise RequestError(f"{place}: {META_FILE} has class {number}, synset {word[:40]!r}, twice or misspelled")
        found[id_] = word
    if not found or sorted(found) != list(range(1, len(found) + 1)):
        raise RequestError(f"{place}: the {len(found)} classes of {META_FILE} are not numbered 1 to {len(found)}")
    return found
