"""ImageNet's development kit: the synset of each image of the validation archive. Read without unpacking."""

import hashlib
import tarfile
import zlib
from typing import IO

from resnext.data.files.storage import exists, is_folder, join_path, open_file
from resnext.data.imagenet_classes import ilsvrc2012_synsets
from resnext.errors import RequestError

DEVKIT_ARCHIVE = "ILSVRC2012_devkit_t12.tar.gz"
GROUND_TRUTH_FILE = "data/ILSVRC2012_validation_ground_truth.txt"
MAX_FILE_BYTES = 1 << 24
MAX_MEMBERS = 1000
VAL_IMAGES = 50000
# of the synsets of all 50,000 images, one a line, as TensorFlow Datasets has them (imagenet2012/validation_labels.txt)
VAL_SYNSETS_SHA256 = "313fc3f23c864dde9183c9a368809065765dd1b657a6904fded44e3e46d34604"


def read_ground_truth(folders: list[str], wanted_by: str) -> list[str]:
    """Read the synset of validation image 1, 2, ... from the devkit in one of ``folders``, packed or unpacked.

    ``wanted_by`` is the path that needs it, for the error. Raises RequestError if the devkit is missing or not valid.
    """
    names = (DEVKIT_ARCHIVE, DEVKIT_ARCHIVE.partition(".")[0])
    place = next(filter(exists, (join_path(folder, name) for folder in folders for name in names)), None)
    if place is None:
        raise RequestError(
            f"the classes of the images in {wanted_by} are not known: put {DEVKIT_ARCHIVE}, as downloaded or unpacked, "
            f"beside it (looked in {', '.join(folders)})"
        )
    content = _read_from_folder(place) if is_folder(place) else _read_from_archive(place)
    synsets, truth = ilsvrc2012_synsets(), []
    for number, line in enumerate(content.decode("ascii", "replace").split(), 1):
        if not line.isdecimal() or len(line) > 9 or not 1 <= int(line) <= len(synsets):
            raise RequestError(
                f"{place}: line {number} of {GROUND_TRUTH_FILE} is {line[:40]!r}, expected 1 to {len(synsets)}"
            )
        truth.append(synsets[int(line) - 1])
    listing = "".join(f"{wnid}\n" for wnid in truth).encode()
    if len(truth) == VAL_IMAGES and hashlib.sha256(listing).hexdigest() != VAL_SYNSETS_SHA256:
        raise RequestError(f"{place}: {GROUND_TRUTH_FILE} is not that of ILSVRC2012; download the devkit again")
    return truth


def _read_from_folder(folder: str) -> bytes:
    path = join_path(folder, GROUND_TRUTH_FILE)
    if not exists(path):
        raise RequestError(f"{folder} has no {GROUND_TRUTH_FILE}, so it is not the unpacked {DEVKIT_ARCHIVE}")
    with open_file(path) as file:
        return _read_bounded(file, path)


def _read_from_archive(place: str) -> bytes:
    try:
        with open_file(place) as file, tarfile.open(fileobj=file, mode="r|gz") as tar:
            for count, member in enumerate(tar):
                if count >= MAX_MEMBERS or member.offset > MAX_MEMBERS * MAX_FILE_BYTES:
                    break
                content = tar.extractfile(member) if f"/{member.name}".endswith(f"/{GROUND_TRUTH_FILE}") else None
                if content and member.isreg():
                    return _read_bounded(content, f"{place}: {member.name}")
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise RequestError(f"{place} is not a whole tar.gz: {error}") from error
    raise RequestError(f"{place} has no {GROUND_TRUTH_FILE}, so it is not {DEVKIT_ARCHIVE} of tasks 1 and 2")


def _read_bounded(file: IO[bytes], name: str) -> bytes:
    content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise RequestError(f"{name} has more than {MAX_FILE_BYTES} bytes, too many for a list of numbers")
    return content
