"""Photographs that fit their stated size both as they are stored and upright: which of the two the boxes were drawn on.

A photograph that EXIF turns by 90° tells by its sides. One that is turned by 180°, mirrored or square does not; the
program that wrote the annotations treated it as the others, so what most of the others say decides for it.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from resnext.data.images import stored
from resnext.data.source import BadImage
from resnext.detect.dataset import DetectionDataset
from resnext.detect.find_images import MEASURED

THREADS = 16  # they wait for the disk
HEAD = 1 << 16  # bytes of a JPEG file, in which its tags begin
TAGS = (b"Exif\0\0", b"http://ns.adobe.com/xap")  # EXIF, and XMP, which may state the orientation as well
LEFT = "photographs that EXIF turns and that fit both ways, left as stored as most others are"
UNSURE = "photographs that EXIF turns and that fit both ways, turned upright, though no others tell (see data.exif)"
STORED, UPRIGHT, EITHER = "stored", "upright", "either"


def decide_orientation(parts: Sequence[DetectionDataset]) -> list[DetectionDataset]:
    """The parts of one annotation file; photographs that fit both ways stay as stored where most others do.

    ``counts`` says of how many that was decided without a sign. Reads the head of every file. Only JPEG files are
    asked, and none where ``exif`` is off.
    """
    readings = [_read_orientations(part) if part.exif else [] for part in parts]
    as_stored, upright = (sum(of_part.count(what) for of_part in readings) for what in (STORED, UPRIGHT))
    if any(what.startswith(MEASURED) for part in parts for what in part.counts):
        upright = 0  # sizes that were measured here are those of upright images
    said = LEFT if as_stored > upright else UNSURE if as_stored == upright else ""
    decided = []
    for part, of_part in zip(parts, readings, strict=True):
        either = of_part.count(EITHER)
        counts = part.counts | ({said: either} if said and either else {})
        decided.append(replace(part, either_as_stored=said == LEFT, counts=counts))
    return decided


def _read_orientations(dataset: DetectionDataset) -> list[str]:
    with ThreadPoolExecutor(THREADS) as pool:
        paths = (Path(dataset.root) / file for file in dataset.files)
        return list(pool.map(_read_orientation, paths, map(tuple, dataset.sizes.tolist())))


def _read_orientation(path: Path, stated: tuple[int, int]) -> str:
    """How a file fits its stated size; empty where EXIF does not turn it, or it does not fit or cannot be read."""
    try:
        if not path.is_file():
            return ""  # a pipe would never end
        with path.open("rb") as file:
            head = file.read(HEAD)
        if not (head.startswith(b"\xff\xd8") and any(tag in head for tag in TAGS)):
            return ""
        _, size, orientation = stored(path)
    except (BadImage, OSError):
        return ""  # training names it when it is read
    if orientation == 1:
        return ""
    turned = size[::-1] if orientation >= 5 else size
    if size == turned == stated:
        return EITHER
    return STORED if size == stated else UPRIGHT if turned == stated else ""
