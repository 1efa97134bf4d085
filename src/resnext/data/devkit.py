"""ImageNet's development kit: the synset of each image of the validation archive. Read without unpacking."""

import re
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO

from resnext.data.matlab import read_structs
from resnext.data.storage import exists, is_folder, joined, opened
from resnext.errors import RequestError

DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
META, TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"
LARGEST = 1 << 24  # bytes of one of its files
MOST_MEMBERS = 1000
WNID = re.compile(r"n[0-9]{8}")


def ground_truth(folders: list[str], wanted_by: str) -> list[str]:
    """Read the synset of validation image 1, 2, ... from the devkit in one of ``folders``, packed or unpacked.

    ``wanted_by`` is the path that needs it, for the error. Raises RequestError if the devkit is missing or not valid.
    """
    place = next((place for folder in folders for place in _candidates(folder) if exists(place)), None)
    if place is None:
        raise RequestError(
            f"the classes of the images in {wanted_by} are not known: put {DEVKIT}, as downloaded or unpacked, "
            f"beside it (looked in {', '.join(folders)})"
        )
    files = _unpacked(place) if is_folder(place) else _packed(place)
    synsets = _synsets(files[META], place)
    truth = []
    for number, line in enumerate(files[TRUTH].decode("ascii", "replace").split(), 1):
        if not line.isdecimal() or len(line) > 9 or int(line) not in synsets:
            raise RequestError(f"{place}: line {number} of {TRUTH} is {line[:40]!r}, expected 1 to {len(synsets)}")
        truth.append(synsets[int(line)])
    return truth


def _candidates(folder: str) -> Iterator[str]:
    for name in (DEVKIT, DEVKIT.partition(".")[0]):
        yield joined(folder, name)


def _unpacked(folder: str) -> dict[str, bytes]:
    files = {}
    for name in (META, TRUTH):
        if not exists(joined(folder, name)):
            raise RequestError(f"{folder} has no {name}, so it is not the unpacked {DEVKIT}")
        with opened(joined(folder, name)) as file:
            files[name] = _bounded(file, f"{folder}/{name}")
    return files


def _packed(place: str) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    try:
        with opened(place) as file, tarfile.open(fileobj=file, mode="r|gz") as tar:
            for count, member in enumerate(tar):
                if count >= MOST_MEMBERS or member.offset > MOST_MEMBERS * LARGEST:
                    break
                name = next((name for name in (META, TRUTH) if f"/{member.name}".endswith(f"/{name}")), None)
                content = tar.extractfile(member) if name and member.isreg() else None
                if name and content:
                    files[name] = _bounded(content, f"{place}: {member.name}")
                if len(files) == 2:
                    return files
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise RequestError(f"{place} is not a whole tar.gz: {error}") from error
    missing = next(name for name in (META, TRUTH) if name not in files)
    raise RequestError(f"{place} has no {missing}, so it is not {DEVKIT} of ILSVRC2012's tasks 1 and 2")


def _bounded(file: IO[bytes], name: str) -> bytes:
    content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise RequestError(f"{name} has more than {LARGEST} bytes, too many for a devkit")
    return content


def _synsets(meta: bytes, place: str) -> dict[int, str]:
    """Map the ILSVRC2012 number of each class to its synset. Classes are the entries without children."""
    try:
        rows = read_structs(meta, "synsets", ("ILSVRC2012_ID", "WNID", "num_children"))
    except ValueError as error:
        raise RequestError(f"{place}: {META} cannot be read as MATLAB's: {error}") from error
    found: dict[int, str] = {}
    for number, wnid, children in rows:
        if children != 0:
            continue
        id_, word = int(number) if isinstance(number, float) and number.is_integer() else 0, str(wnid)
        if not WNID.fullmatch(word) or id_ in found or word in found.values():
            raise RequestError(f"{place}: {META} has class {number}, synset {word[:40]!r}, twice or misspelled")
        found[id_] = word
    if not found or sorted(found) != list(range(1, len(found) + 1)):
        raise RequestError(f"{place}: the {len(found)} classes of {META} are not numbered 1 to {len(found)}")
    return found
