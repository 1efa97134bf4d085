"""Find the annotations and images of a data set in the folder layouts that common tools write.

Layouts of COCO and Pascal VOC come first, then those of Roboflow, CVAT, Label Studio, FiftyOne and MMDetection. A file
or folder for a whole data set (Label Studio's ``result.json``, CVAT's ``instances_default.json``, one folder of XML
files) is used as train where there is no separate val.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from resnext.data.classes import listing
from resnext.data.folder import is_image_name
from resnext.detect.find_images import compose_letters
from resnext.detect.places import names_in
from resnext.detect.settings import DetectDataSettings
from resnext.detect.voc import group_by_stem, listed, xml_in
from resnext.errors import RequestError

TRAIN, VAL = "train", "val"
FOLDERS = {
    TRAIN: ("train", "train2017", "train2014", "Train", "training"),
    VAL: ("val", "val2017", "val2014", "valid", "validation", "Val", "Validation", "test", "Test"),
}
# Files of one split; {} is one of its FOLDERS.
COCO_FILES = (
    "annotations/instances_{}.json",
    "{}/_annotations.coco.json",
    "annotations/{}.json",
    "{}.json",
    "{}/annotations.json",
    "{}/annotations/instances_default.json",
    "{}/result.json",
    "{}/labels.json",
)
XML_FOLDERS = ("{}", "{}/annotations", "{}/Annotations", "annotations/{}", "Annotations/{}")
# Files of a whole data set.
WHOLE_COCO = (
    "annotations/instances_default.json",
    "annotations/annotations.json",
    "_annotations.coco.json",
    "instances_default.json",
    "annotations.json",
    "result.json",
    "labels.json",
)
WHOLE_XML = ("Annotations", "annotations", ".")
LISTS = "ImageSets/Main"
WHOLE_LIST = "default.txt"
COCO_BEGINS = re.compile(rb'\A(\xef\xbb\xbf)?\s*\{.*?"(images|annotations|categories|licenses)"\s*:\s*\[', re.DOTALL)
VOC_BEGINS = re.compile(rb"<annotation[\s>]")
BEGINNING = 1 << 16  # bytes at the start of a file that are searched for the signature


def detection_source_at(path: str) -> str:
    """Guess ``coco`` or ``voc`` from the content of a folder; empty for neither."""
    root = Path(path).expanduser()
    if not root.is_dir():
        return ""
    files = [name for split in FOLDERS for name in _fill(COCO_FILES, split)]
    if any(name.endswith("_annotations.coco.json") and (root / name).is_file() for name in (*files, *WHOLE_COCO)):
        return "coco"
    if any(name.startswith("instances_") and name.endswith(".json") for name in names_in(root / "annotations")):
        return "coco"
    if any(_begins_with(root / name, COCO_BEGINS) for name in (*files, *WHOLE_COCO)):
        return "coco"
    if (root / "Annotations").is_dir() and ((root / "JPEGImages").is_dir() or (root / "ImageSets").is_dir()):
        return "voc"
    folders = [name for split in FOLDERS for name in _fill(XML_FOLDERS, split)]
    first = [xml for name in (*folders, *WHOLE_XML) for xml in xml_in(root / name)[:1]]
    return "voc" if any(_begins_with(xml, VOC_BEGINS) for xml in first) else ""


def has_annotations(root: Path, settings: DetectDataSettings, split: str) -> bool:
    """Return whether a split has annotations, where the settings say or in a usual place."""
    find = _voc_place if settings.source == "voc" else _coco_place
    return find(root, settings, split) is not None


def coco_file(root: Path, settings: DetectDataSettings, split: str) -> Path:
    """Find the annotations of a split, where the settings say or in the first usual place. Raises RequestError."""
    found = _coco_place(root, settings, split)
    if found is not None:
        return found
    said = _said(settings, split)
    if said is None:
        raise RequestError(_nothing(root, split, _describe(COCO_FILES, WHOLE_COCO, split), "coco") + _json_near(root))
    path = root / Path(said).expanduser()
    raise RequestError(f"data.{split} {path} {'is a folder' if path.is_dir() else 'does not exist'}{_json_near(root)}")


def image_folders(root: Path, settings: DetectDataSettings, split: str, annotations: Path) -> list[Path]:
    """List the possible image folders of a split: the one in the settings, else usual ones, likely ones first."""
    said = settings.train_images if split == TRAIN else settings.val_images
    if said is not None:
        return [root / Path(said).expanduser()]
    own = annotations.stem.removeprefix("instances_")
    names = [name for name in dict.fromkeys((own, *FOLDERS[split])) if name not in ("", ".", "..")]
    usual = [root / above / name for name in names for above in ("", "images")]
    beside = annotations.parent
    near = [
        folder / name
        for folder in (beside, _folder_around(beside, root))
        for name in (f"images/{own}", "images", "data")
    ]
    return list(dict.fromkeys([*usual, root / "images", beside, *near, root]))


class VocFiles(NamedTuple):
    """The files of one split in Pascal VOC's format."""

    place: Path  # the list or folder that defines the split
    above: Path  # the folder of its XML files
    xml: list[Path]
    images: Path  # the folder of its images


def voc_files(root: Path, settings: DetectDataSettings, split: str) -> VocFiles:
    """Find the files of a split, where the settings say or in the first usual place. Raises RequestError."""
    place = _voc_place(root, settings, split)
    if place is None:
        said = _said(settings, split)
        if said is not None:
            looked = _voc_places(root, settings, split)
            wanted = [os.path.relpath(path, root) if path.is_relative_to(root) else str(path) for path in looked]
            raise RequestError(f"data.{split} {said} is not there: {_nothing(root, split, ', '.join(wanted), 'voc')}")
        lists = [f"{LISTS}/{name}.txt" for name in _names_of_lists(root, settings, split)]
        wanted = [*lists, f"XML files in {_describe(XML_FOLDERS, WHOLE_XML, split)}"]
        raise RequestError(_nothing(root, split, ", ".join(wanted), "voc"))
    if place.is_dir():
        above, xml = place, xml_in(place)
    else:
        above = _annotations_of(root, place)
        xml = [above / f"{name}.xml" for name in listed(place)]
    return VocFiles(place, above, xml, _voc_folder(root, settings, split, place, above, xml))


def _coco_place(root: Path, settings: DetectDataSettings, split: str) -> Path | None:
    said = _said(settings, split)
    names = list(_fill(COCO_FILES, split)) if said is None else [str(Path(said).expanduser())]
    if said is None and split == TRAIN and (settings.val or _coco_place(root, settings, VAL) is None):
        names += WHOLE_COCO
    return next((root / name for name in names if (root / name).is_file()), None)


def _voc_place(root: Path, settings: DetectDataSettings, split: str) -> Path | None:
    """Find the list or folder that defines the split; None where there is none."""
    return next((path for path in _voc_places(root, settings, split) if path.is_file() or xml_in(path)), None)


def _voc_places(root: Path, settings: DetectDataSettings, split: str) -> Iterator[Path]:
    """List where a split may be defined: lists first, then folders, then what covers the whole data set."""
    said = _said(settings, split)
    lists = root / LISTS
    if said is not None:
        for above in (lists, root):
            yield from (above / f"{said}.txt", above / Path(said).expanduser())
        return
    yield from (lists / f"{name}.txt" for name in _names_of_lists(root, settings, split))
    yield from (root / name for name in _fill(XML_FOLDERS, split))
    if split == TRAIN and (settings.val or _voc_place(root, settings, VAL) is None):
        yield lists / WHOLE_LIST
        if not any(name.endswith(".txt") for name in names_in(lists)):
            yield from (root / name for name in WHOLE_XML)


def _names_of_lists(root: Path, settings: DetectDataSettings, split: str) -> Sequence[str]:
    """List the names of a split's lists. trainval.txt includes val.txt, so with it test.txt is held out."""
    if split == TRAIN:
        return "train", "trainval", *FOLDERS[TRAIN][1:]
    apart = settings.train or any((root / LISTS / f"{name}.txt").is_file() for name in FOLDERS[TRAIN])
    return FOLDERS[VAL] if apart else ("test", "Test")


def _annotations_of(root: Path, place: Path) -> Path:
    """Find the folder of the XML files of a list: ``Annotations`` next to its ``ImageSets``, or below root."""
    beside = place.parent.parent.parent / "Annotations"
    if beside.is_dir() and place.parent.parent.name == "ImageSets":
        return beside
    return next((root / name for name in WHOLE_XML[:2] if (root / name).is_dir()), root / "Annotations")


def _voc_folder(
    root: Path, settings: DetectDataSettings, split: str, place: Path, above: Path, xml: Sequence[Path]
) -> Path:
    """Find the image folder of the XML files: the one in the settings, or one that contains matching images."""
    said = settings.train_images if split == TRAIN else settings.val_images
    if said is not None:
        return root / Path(said).expanduser()
    beside = _folder_around(above, root)
    candidates = [beside / "JPEGImages", above, beside / "images", beside / "Images", root / "images" / place.stem]
    candidates += [root / images / name for name in FOLDERS[split] for images in ("images", "JPEGImages", "")]
    candidates += [root / "images", root / "JPEGImages", root]
    probes = [path.relative_to(above) for path in (*xml[:1], *xml[-1:])]
    for folder in candidates:
        if any(compose_letters(probe.stem) in group_by_stem(folder / probe.parent) for probe in probes):
            return folder
    with_images = (folder for folder in candidates if any(map(is_image_name, names_in(folder))))
    return next(with_images, next((folder for folder in candidates if folder.is_dir()), above))


def _folder_around(folder: Path, root: Path) -> Path:
    """Return the parent of ``folder``, but never above the data set's root."""
    return root if folder == root else folder.parent


def _said(settings: DetectDataSettings, split: str) -> str | None:
    return settings.train if split == TRAIN else settings.val


def _fill(patterns: Sequence[str], split: str) -> Iterator[str]:
    """Fill each name of the split into each pattern."""
    return (pattern.format(name) for pattern in patterns for name in FOLDERS[split])


def _describe(patterns: Sequence[str], whole: Sequence[str], split: str) -> str:
    """Describe the places that are searched; those of a whole data set for train only."""
    usual, *others = FOLDERS[split]
    wanted = [*(pattern.format(usual) for pattern in patterns), *(whole if split == TRAIN else ())]
    return f"{', '.join(wanted)} (also {', '.join(others)} for {usual})"


def _nothing(root: Path, split: str, wanted: str, source: str) -> str:
    """Describe what was searched for and what is there instead."""
    try:
        there = sorted(name for name in os.listdir(root) if not name.startswith("."))
    except OSError as error:
        raise RequestError(f"cannot list {root}: {error.strerror}") from error
    has = f"it contains {listing(there)}" if there else "it is empty"
    looks = detection_source_at(str(root))
    hint = f"; it looks like data.source {looks}" if looks not in ("", source) else ""
    return f"{root} has no annotations for {split}: looked for {wanted}; {has}{hint}; name them in data.{split}"


def _json_near(root: Path) -> str:
    """Describe the JSON files that are there."""
    below = [name for folder in ("", "annotations") for name in _json_in(root, folder)]
    return f"; JSON files there: {listing(below)}" if below else ""


def _json_in(root: Path, folder: str) -> list[str]:
    return sorted(os.path.join(folder, name) for name in names_in(root / folder) if name.endswith(".json"))


def _begins_with(path: Path, pattern: re.Pattern[bytes]) -> bool:
    """Return whether the start of a file matches; False where it cannot be read."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return pattern.search(file.read(BEGINNING)) is not None
    except OSError:
        return False
