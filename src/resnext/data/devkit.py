"""ImageNet's development kit: which synset each image of the validation archive shows. Read where it lies."""

import io
import math
import re
import struct
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from resnext.data.storage import exists, is_folder, joined, opened
from resnext.errors import RequestError

DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
META, TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"
LARGEST = 1 << 24  # bytes of one of its files, and of what is compressed in meta.mat
MOST_SYNSETS = 100_000
COMPRESSED = 15  # the type of a compressed part in MATLAB 5
MOST_MEMBERS = 1000
WNID = re.compile(r"n[0-9]{8}")


def ground_truth(folders: list[str], wanted_by: str) -> list[str]:
    """The synset of validation image 1, 2, ... by the devkit that lies in one of ``folders``, packed or not.

    Raises RequestError where there is none (naming ``wanted_by``, what needs it), or none that can be right.
    """
    place = next((place for folder in folders for place in _candidates(folder) if exists(place)), None)
    if place is None:
        raise RequestError(
            f"{wanted_by} does not say what its images show: put {DEVKIT}, as downloaded or unpacked, beside it "
            f"(looked in {', '.join(folders)})"
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
    """ILSVRC2012's own number of each class -> its synset; classes are the entries without children."""
    with _readable(place):
        from scipy.io import loadmat, whosmat

        _check_inflated(meta)
        shapes = {name: shape for name, shape, _ in whosmat(io.BytesIO(meta))}
        if math.prod(shapes.get("synsets", (0,))) not in range(1, MOST_SYNSETS):
            raise ValueError(f"it holds {shapes}")
        found: dict[int, str] = {}
        for entry in loadmat(io.BytesIO(meta), squeeze_me=True, variable_names=["synsets"])["synsets"].ravel():
            if int(entry["num_children"]) == 0:
                number, wnid = int(entry["ILSVRC2012_ID"]), str(entry["WNID"])
                if not WNID.fullmatch(wnid) or number in found or wnid in found.values():
                    raise RequestError(f"{place}: {META} has class {number}, synset {wnid[:40]!r}, twice or misspelled")
                found[number] = wnid
    if not found or sorted(found) != list(range(1, len(found) + 1)):
        raise RequestError(f"{place}: the {len(found)} classes of {META} are not numbered 1 to {len(found)}")
    return found


def _check_inflated(meta: bytes) -> None:
    """Raises ValueError for a file whose parts are no MATLAB 5, or grow beyond bounds when they are decompressed."""
    if meta[124:128] != b"\x00\x01IM":
        raise ValueError("its header is not that of MATLAB 5")
    position = 128
    while position + 8 <= len(meta):
        kind, size = struct.unpack_from("<II", meta, position)
        if kind == COMPRESSED:
            inflater = zlib.decompressobj()
            inflater.decompress(meta[position + 8 : position + 8 + size], LARGEST)
            if inflater.unconsumed_tail:
                raise ValueError(f"it grows beyond {LARGEST} bytes when decompressed")
        position += 8 + size


@contextmanager
def _readable(place: str) -> Iterator[None]:
    try:
        yield
    except RequestError:
        raise
    except Exception as error:  # SciPy raises all kinds on what is no MATLAB file
        raise RequestError(f"{place}: {META} cannot be read as MATLAB's: {error or type(error).__name__}") from error
