"""Read Pascal VOC's format: an XML file per image, and lists of image names for the splits.

- Boxes: VOC counts pixels from 1 and includes both ends, so columns xmin to xmax are xmin - 1 to xmax in our
  coordinates, where the width is x2 - x1. Many tools write our coordinates into the same tags. A coordinate of 0 shows
  this, as VOC has none: then all boxes of both splits are taken unchanged.
- ``difficult`` objects are treated as crowds: not trained on, not counted as missed, and detections on them are
  ignored, as in VOC's own evaluation. One difference: COCO's evaluation measures the overlap with a crowd as the share
  of the detection inside it, so a small detection inside a difficult object is ignored too, where VOC requires an IoU.
- Classes are the names in the XML files of both splits, sorted, which is VOC's own order; ids count from 1. Images are
  numbered from 1 in the order of the list.
"""

import os
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NoReturn

import numpy as np

from resnext.data.classes import quote_names
from resnext.data.sources.image_folder import is_image_name
from resnext.detection.data.annotations import RawAnnotations
from resnext.detection.data.box_policy import MAX_SIDE, RawBoxes
from resnext.detection.data.faulty_files import FaultyFilesError
from resnext.detection.data.find_images import normalize_unicode, split_path
from resnext.detection.data.image_paths import check_image_name, find_missing_files, list_file_names
from resnext.errors import RequestError

MAX_BYTES = 1 << 23  # of one XML file
MAX_LIST_BYTES = 1 << 28
FROM_ZERO = "boxes taken unchanged: a coordinate of 0 shows that the files do not count from 1"
CORNER_TAGS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocObject:
    """One object of an image; ``box`` is xmin, ymin, xmax, ymax as in the file, NaN where not a number."""

    name: str
    box: tuple[float, float, float, float]
    is_difficult: bool


@dataclass(frozen=True)
class VocImage:
    """The content of an XML file."""

    xml: Path
    file: str  # image path as in the XML file, or relative to the image folder
    size: tuple[int, int]  # width, height; 0, 0 where missing
    objects: tuple[VocObject, ...]


def read_voc(xml_files: Sequence[Path], images: Path, said_by: Path, xml_folder: Path | None = None) -> list[VocImage]:
    """Read image names, boxes and class names of XML files.

    The image has the stem of the XML file or the name stated in it. ``said_by`` is the split's list or folder;
    subfolders of ``xml_folder`` correspond to those of ``images``. Raises RequestError naming all files that are
    missing or invalid.
    """
    if not xml_files:
        raise RequestError(f"{said_by} has no annotations: expected Pascal VOC XML files")
    folder = xml_folder or xml_files[0].parent
    absent = find_missing_files(folder, [path.relative_to(folder).as_posix() for path in xml_files])
    if absent:
        missing = f"{len(absent)} of {len(xml_files)} annotations are not in {folder}"
        raise RequestError(f"{said_by}: {missing}; missing: {quote_names(absent)}")
    found, faults, list_images = [], [], cache(group_by_stem)
    for path in xml_files:
        below = path.parent.relative_to(folder)
        try:
            names = list_images(images / below).get(normalize_unicode(path.stem), [])
            found.append(_read_annotation(path, [(below / name).as_posix() for name in names]))
        except RequestError as error:
            faults.append((path, str(error)))
    if faults:
        raise FaultyFilesError(str(said_by), f"of {len(xml_files)} annotations", faults)
    return found


def list_class_names(splits: Sequence[Sequence[VocImage]]) -> tuple[str, ...]:
    """List the class names of all splits, sorted. Raises RequestError where there are none."""
    names = {found.name for images in splits for image in images for found in image.objects}
    if not names:
        folder = splits[0][0].xml.parent
        raise RequestError(f"the annotations in {folder} have no objects, so there is nothing to detect")
    return tuple(sorted(names))


def find_first_pixel(splits: Sequence[Sequence[VocImage]]) -> int:
    """Find the number of the first pixel: 1 as in VOC, or 0 where a box of any split starts there."""
    corners = (found.box for images in splits for image in images for found in image.objects)
    return 0 if any(0 <= side < 1 for x1, y1, _, _ in corners for side in (x1, y1)) else 1


def convert_voc(
    images: Sequence[VocImage], classes: tuple[str, ...], name: str, first_pixel: int = 1
) -> RawAnnotations:
    """Convert the output of ``read_voc``, bad boxes included; ``first_pixel`` is the number of the first pixel."""
    label_of = {name: label for label, name in enumerate(classes)}
    objects = [(place, found) for place, image in enumerate(images) for found in image.objects]

    def box_name(place: int) -> str:
        of_image, one = objects[place]
        return f"{images[of_image].xml}: the box {_format_voc_box(one.box)} of a {one.name!r}"

    return RawAnnotations(
        name=name,
        classes=classes,
        category_ids=tuple(range(1, len(classes) + 1)),
        has_generated_ids=True,
        image_ids=np.arange(1, len(images) + 1, dtype=np.int64),
        files=tuple(image.file for image in images),
        sizes=np.array([image.size for image in images], np.int64).reshape(-1, 2),
        boxes=RawBoxes(
            image=np.array([place for place, _ in objects], np.int64),
            labels=np.array([label_of[one.name] for _, one in objects], np.int64),
            stated=np.array([_convert_box(one.box, first_pixel) for _, one in objects], np.float64).reshape(-1, 4),
            crowd=np.array([one.is_difficult for _, one in objects], bool),
            areas=np.full(len(objects), np.nan),
        ),
        describe_box=box_name,
        describe_image=lambda place: str(images[place].xml),
        counts={FROM_ZERO: len(objects)} if first_pixel == 0 and objects else {},
    )


def _convert_box(box: tuple[float, float, float, float], first_pixel: int) -> tuple[float, float, float, float]:
    """Convert corners that count from ``first_pixel`` to x, y, width, height."""
    x1, y1, x2, y2 = box
    return x1 - first_pixel, y1 - first_pixel, x2 - x1 + first_pixel, y2 - y1 + first_pixel


def read_image_list(path: Path) -> list[str]:
    """Read a list of ImageSets/Main; the second column of per-class lists is ignored."""
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            raise RequestError(f"{path} is larger than the {MAX_LIST_BYTES} bytes that are read as a list of images")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise RequestError(f"{path} is not a list of image names: {error}") from error
    names = [line.split()[0] for line in lines if line.strip()]
    for place, name in enumerate(names, 1):
        check_image_name(name, f"{path}: name {place}")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise RequestError(f"{path} lists {twice[0]!r} twice")
    if not names:
        raise RequestError(f"{path} lists no images")
    return names


def list_xml_files(folder: Path) -> list[Path]:
    """List the XML files of a folder, sorted."""
    return [folder / name for name in sorted(list_file_names(folder)) if name.lower().endswith(".xml")]


def group_by_stem(folder: Path) -> dict[str, list[str]]:
    """Group the image files of a folder by stem, in Unicode's composed form."""
    found: dict[str, list[str]] = {}
    for name in sorted(list_file_names(folder)):
        if is_image_name(name):
            found.setdefault(normalize_unicode(os.path.splitext(name)[0]), []).append(name)
    return found


def _read_annotation(path: Path, pictures: list[str]) -> VocImage:
    root = _parse_xml(path)
    if root.tag != "annotation":
        raise RequestError(f"{path} is XML but not Pascal VOC: its root is <{root.tag}>, not <annotation>")
    width, height = (_read_side(root, key, path) for key in ("width", "height"))
    size = (width, height) if width and height else (0, 0)
    file = _choose_image(path, root, pictures)
    elements = enumerate(root.iterfind("object"), start=1)
    return VocImage(path, file, size, tuple(_read_object(one, f"{path}: object {place}") for place, one in elements))


def _choose_image(path: Path, root: ET.Element, own: list[str]) -> str:
    """Choose the image: the one in ``own`` (files with the XML file's stem), else the one named in the XML."""
    stated = _read_text(root, "filename") or _read_text(root, "path")
    if len(own) == 1:
        return own[0]
    if not own:
        return stated or f"{path.stem}.jpg"
    same = [name for name in own if split_path(name)[-1:] == split_path(stated)[-1:]]
    if len(same) != 1:
        raise RequestError(f"{path}: several images match, {quote_names(own)}; name one of them in <filename>")
    return same[0]


class _NoDoctypeBuilder(ET.TreeBuilder):
    """Rejects document types, and so entity declarations."""

    def doctype(self, *_: object) -> NoReturn:
        """Raise ValueError."""
        raise ValueError("it declares a document type, which is not allowed in annotations")


def _parse_xml(path: Path) -> ET.Element:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > MAX_BYTES:
        raise RequestError(f"{path} is larger than the {MAX_BYTES} bytes that are read as an annotation")
    try:
        parser = ET.XMLParser(target=_NoDoctypeBuilder())
        parser.feed(content)
        root: ET.Element = parser.close()
    except (ET.ParseError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
        raise RequestError(f"{path} cannot be read as XML: {error}") from None
    return root


def _read_text(element: ET.Element, tag: str) -> str:
    """Read the stripped text of a tag; empty where it is missing."""
    return (element.findtext(tag) or "").strip()


def _read_side(root: ET.Element, key: str, path: Path) -> int:
    """Read a side in pixels; 0 where there is none."""
    text = _read_text(root, f"size/{key}")
    value = _parse_number(text or "0")
    if value.is_integer() and 0 <= value <= MAX_SIDE:
        return int(value)
    raise RequestError(f"{path}: <{key}> must be a whole number of pixels up to {MAX_SIDE}, not {text[:80]!r}")


def _read_object(element: ET.Element, where: str) -> VocObject:
    name = _read_text(element, "name")
    if not name:
        raise RequestError(f"{where} has no <name>")
    box = element.find("bndbox")
    if box is None:
        raise RequestError(f"{where} ({name}) has no <bndbox>")
    x1, y1, x2, y2 = (_parse_number(_read_text(box, side)) for side in CORNER_TAGS)
    difficult = _read_text(element, "difficult") or "0"
    if difficult not in ("0", "1"):
        raise RequestError(f"{where} ({name}): <difficult> must be 0 or 1, not {difficult[:80]!r}")
    return VocObject(name, (x1, y1, x2, y2), difficult == "1")


def _parse_number(text: str) -> float:
    """Parse a number; NaN for other text."""
    try:
        return float("nan") if "_" in text else float(text)
    except ValueError:
        return float("nan")


def _format_voc_box(box: tuple[float, float, float, float]) -> str:
    return ", ".join(f"{side} {value:g}" for side, value in zip(CORNER_TAGS, box, strict=True))
