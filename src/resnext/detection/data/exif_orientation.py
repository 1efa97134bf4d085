"""Decide whether boxes were drawn on images as stored or turned upright by EXIF, where the size fits both.

The annotated size shows this for an image that EXIF turns by 90°, but not for one that is turned by 180°, mirrored or
square. The annotation tool treated all images alike, so the majority of the others decides.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from resnext.data.dataset import BadImageError
from resnext.data.decode.pillow import read_header
from resnext.detection.data.dataset import DetectionDataset
from resnext.detection.data.find_images import MEASURED_SIZES

READ_THREADS = 16  # they mostly wait for the disk
HEAD_BYTES = 1 << 16  # bytes at the start of a JPEG file that contain its tags
EXIF_MARKERS = (b"Exif\0\0", b"http://ns.adobe.com/xap")  # EXIF, and XMP, which may also state the orientation
KEPT_AS_STORED = "images that EXIF turns and whose size fits both ways, kept as stored like most others"
TURNED_UNSURE = "images that EXIF turns and whose size fits both ways, turned upright without evidence (see data.exif)"
STORED, UPRIGHT, EITHER = "stored", "upright", "either"


def decide_orientation(parts: Sequence[DetectionDataset]) -> list[DetectionDataset]:
    """Decide for the splits of one annotation file whether images that fit both ways stay as stored.

    They do where most other images are stored so. ``counts`` gets the number of images decided this way. Reads the
    start of every file; considers only JPEG files, and none where ``exif`` is off.
    """
    readings = [_classify_orientations(part) if part.exif else [] for part in parts]
    as_stored, upright = (sum(of_part.count(what) for of_part in readings) for what in (STORED, UPRIGHT))
    if any(what.startswith(MEASURED_SIZES) for part in parts for what in part.counts):
        upright = 0  # sizes we measured ourselves are those of upright images and prove nothing
    said = KEPT_AS_STORED if as_stored > upright else TURNED_UNSURE if as_stored == upright else ""
    decided = []
    for part, of_part in zip(parts, readings, strict=True):
        either = of_part.count(EITHER)
        counts = part.counts | ({said: either} if said and either else {})
        decided.append(replace(part, keeps_stored_orientation=said == KEPT_AS_STORED, counts=counts))
    return decided


def _classify_orientations(dataset: DetectionDataset) -> list[str]:
    with ThreadPoolExecutor(READ_THREADS) as pool:
        paths = (Path(dataset.root) / file for file in dataset.files)
        return list(pool.map(_classify_orientation, paths, map(tuple, dataset.sizes.tolist())))


def _classify_orientation(path: Path, stated: tuple[int, int]) -> str:
    """Return which orientation fits the annotated size; empty without an EXIF turn, a fit, or a readable file."""
    try:
        if not path.is_file():
            return ""  # reading a pipe would never end
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        if not (head.startswith(b"\xff\xd8") and any(tag in head for tag in EXIF_MARKERS)):
            return ""
        _, size, orientation = read_header(path)
    except (BadImageError, OSError):
        return ""  # training reports it when it reads the image
    if orientation == 1:
        return ""
    turned = size[::-1] if orientation >= 5 else size
    if size == turned == stated:
        return EITHER
    return STORED if size == stated else UPRIGHT if turned == stated else ""
