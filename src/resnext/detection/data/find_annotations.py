"""Find the annotations and images of a data set in the folder layouts that common tools write.

Layouts of COCO and Pascal VOC come first, then those of Roboflow, CVAT, Label Studio, FiftyOne and MMDetection. A file
or folder for a whole data set (Label Studio's ``result.json``, CVAT's ``instances_default.json``, one folder of XML
files) is used as train where there is no separate val.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from resnext.data.classes import quote_names
from resnext.data.sources.image_folder import is_image_name
from resnext.detection.data.find_images import normalize_unicode
from resnext.detection.data.image_paths import list_file_names
from resnext.detection.data.voc import group_by_stem, list_xml_files, read_image_list
from resnext.detection.settings import DetectDataSettings, SourceName
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
COCO_SIGNATURE = re.compile(rb'\A(\xef\xbb\xbf)?\s*\{.*?"(images|annotations|categories|licenses)"\s*:\s*\[', re.DOTALL)
VOC_SIGNATURE = re.compile(rb"<annotation[\s>]")
HEAD_BYTES = 1 << 16  # bytes at the start of a file that are searched for the signature


def guess_detection_source(path: str) -> SourceName | Literal[""]:
    """Guess ``coco`` or ``voc`` from the content of a folder; empty for neither."""
    root = Path(path).expanduser()
    if not root.is_dir():
        return ""
    files = [name for split in FOLDERS for name in _expand_patterns(COCO_FILES, split)]
    if any(name.endswith("_annotations.coco.json") and (root / name).is_file() for name in (*files, *WHOLE_COCO)):
        return "coco"
    if any(name.startswith("instances_") and name.endswith(".json") for name in list_file_names(root / "annotations")):
        return "coco"
    if any(_has_signature(root / name, COCO_SIGNATURE) for name in (*files, *WHOLE_COCO)):
        return "coco"
    if (root / "Annotations").is_dir() and ((root / "JPEGImages").is_dir() or (root / "ImageSets").is_dir()):
        return "voc"
    folders = [name for split in FOLDERS for name in _expand_patterns(XML_FOLDERS, split)]
    first = [xml for name in (*folders, *WHOLE_XML) for xml in list_xml_files(root / name)[:1]]
    return "voc" if any(_has_signature(xml, VOC_SIGNATURE) for xml in first) else ""


def find_coco_file(root: Path, settings: DetectDataSettings, split: str) -> Path:
    """Find the annotations of a split, where the settings say or in the first usual place. Raises RequestError."""
    found = search_coco_file(root, settings, split)
    if found is not None:
        return found
    said = _get_setting(settings, split)
    if said is None:
        problem = _explain_not_found(root, split, _describe_locations(COCO_FILES, WHOLE_COCO, split), "coco")
    else:
        path = root / Path(said).expanduser()
        problem = f"data.{split} {path} {'is a folder' if path.is_dir() else 'does not exist'}"
    raise RequestError(problem + _describe_json_files(root))


def list_image_folders(root: Path, settings: DetectDataSettings, split: str, annotations: Path) -> list[Path]:
    """List the possible image folders of a split: the one in the settings, else usual ones, likely ones first."""
    said = settings.train_images if split == TRAIN else settings.val_images
    if said is not None:
        return [root / Path(said).expanduser()]
    own = annotations.stem.removeprefix("instances_")
    names = [name for name in dict.fromkeys((own, *FOLDERS[split])) if name not in ("", ".", "..")]
    usual = [root / above / name for name in names for above in ("", "images")]
    beside = annotations.parent
    both = (beside, _get_parent_folder(beside, root))
    near = [folder / name for folder in both for name in (f"images/{own}", "images", "data")]
    return list(dict.fromkeys([*usual, root / "images", beside, *near, root]))


def find_voc_files(root: Path, settings: DetectDataSettings, split: str) -> tuple[Path, Path, list[Path], Path]:
    """Find the files of a split, where the settings say or in the first usual place. Raises RequestError.

    Returns the list or folder that defines the split, the folder of its XML files, these files, and the image folder.
    """
    place = search_voc_split(root, settings, split)
    if place is None:
        said = _get_setting(settings, split)
        if said is not None:
            looked = _list_voc_candidates(root, settings, split)
            wanted = [os.path.relpath(path, root) if path.is_relative_to(root) else str(path) for path in looked]
            raise RequestError(
                f"data.{split} {said} is not there: {_explain_not_found(root, split, ', '.join(wanted), 'voc')}"
            )
        lists = [f"{LISTS}/{name}.txt" for name in _list_split_names(root, settings, split)]
        wanted = [*lists, f"XML files in {_describe_locations(XML_FOLDERS, WHOLE_XML, split)}"]
        raise RequestError(_explain_not_found(root, split, ", ".join(wanted), "voc"))
    if place.is_dir():
        above, xml = place, list_xml_files(place)
    else:
        above = _find_xml_folder(root, place)
        xml = [above / f"{name}.xml" for name in read_image_list(place)]
    return place, above, xml, _find_voc_images(root, settings, split, place, above, xml)


def search_coco_file(root: Path, settings: DetectDataSettings, split: str) -> Path | None:
    """Find the annotations of the split; None where there are none."""
    said = _get_setting(settings, split)
    names = list(_expand_patterns(COCO_FILES, split)) if said is None else [str(Path(said).expanduser())]
    if said is None and split == TRAIN and (settings.val or search_coco_file(root, settings, VAL) is None):
        names += WHOLE_COCO
    return next((root / name for name in names if (root / name).is_file()), None)


def search_voc_split(root: Path, settings: DetectDataSettings, split: str) -> Path | None:
    """Find the list or folder that defines the split; None where there is none."""
    return next(
        (path for path in _list_voc_candidates(root, settings, split) if path.is_file() or list_xml_files(path)), None
    )


def _list_voc_candidates(root: Path, settings: DetectDataSettings, split: str) -> Iterator[Path]:
    """List where a split may be defined: lists first, then folders, then what covers the whole data set."""
    said = _get_setting(settings, split)
    lists = root / LISTS
    if said is not None:
        for above in (lists, root):
            yield from (above / f"{said}.txt", above / Path(said).expanduser())
        return
    yield from (lists / f"{name}.txt" for name in _list_split_names(root, settings, split))
    yield from (root / name for name in _expand_patterns(XML_FOLDERS, split))
    if split == TRAIN and (settings.val or search_voc_split(root, settings, VAL) is None):
        yield lists / WHOLE_LIST
        if not any(name.endswith(".txt") for name in list_file_names(lists)):
            yield from (root / name for name in WHOLE_XML)


def _list_split_names(root: Path, settings: DetectDataSettings, split: str) -> Sequence[str]:
    """List the names of a split's lists. trainval.txt includes val.txt, so with it test.txt is held out."""
    if split == TRAIN:
        return "train", "trainval", *FOLDERS[TRAIN][1:]
    apart = settings.train or any((root / LISTS / f"{name}.txt").is_file() for name in FOLDERS[TRAIN])
    return FOLDERS[VAL] if apart else ("test", "Test")


def _find_xml_folder(root: Path, place: Path) -> Path:
    """Find the folder of the XML files of a list: ``Annotations`` next to its ``ImageSets``, or below root."""
    beside = place.parent.parent.parent / "Annotations"
    if beside.is_dir() and place.parent.parent.name == "ImageSets":
        return beside
    return next((root / name for name in WHOLE_XML[:2] if (root / name).is_dir()), root / "Annotations")


def _find_voc_images(
    root: Path, settings: DetectDataSettings, split: str, place: Path, above: Path, xml: Sequence[Path]
) -> Path:
    """Find the image folder of the XML files: the one in the settings, or one that contains matching images."""
    said = settings.train_images if split == TRAIN else settings.val_images
    if said is not None:
        return root / Path(said).expanduser()
    beside = _get_parent_folder(above, root)
    candidates = [beside / "JPEGImages", above, beside / "images", beside / "Images", root / "images" / place.stem]
    candidates += [root / images / name for name in FOLDERS[split] for images in ("images", "JPEGImages", "")]
    candidates += [root / "images", root / "JPEGImages", root]
    probes = [path.relative_to(above) for path in (*xml[:1], *xml[-1:])]
    for folder in candidates:
        if any(normalize_unicode(probe.stem) in group_by_stem(folder / probe.parent) for probe in probes):
            return folder
    with_images = (folder for folder in candidates if any(map(is_image_name, list_file_names(folder))))
    return next(with_images, next((folder for folder in candidates if folder.is_dir()), above))


def _get_parent_folder(folder: Path, root: Path) -> Path:
    """Return the parent of ``folder``, but never above the data set's root."""
    return root if folder == root else folder.parent


def _get_setting(settings: DetectDataSettings, split: str) -> str | None:
    return settings.train if split == TRAIN else settings.val


def _expand_patterns(patterns: Sequence[str], split: str) -> Iterator[str]:
    """Fill each name of the split into each pattern."""
    return (pattern.format(name) for pattern in patterns for name in FOLDERS[split])


def _describe_locations(patterns: Sequence[str], whole: Sequence[str], split: str) -> str:
    """Describe the places that are searched; those of a whole data set for train only."""
    usual, *others = FOLDERS[split]
    wanted = [*(pattern.format(usual) for pattern in patterns), *(whole if split == TRAIN else ())]
    return f"{', '.join(wanted)} (also {', '.join(others)} for {usual})"


def _explain_not_found(root: Path, split: str, wanted: str, source: str) -> str:
    """Describe what was searched for and what is there instead."""
    try:
        there = sorted(name for name in os.listdir(root) if not name.startswith("."))
    except OSError as error:
        raise RequestError(f"cannot list {root}: {error.strerror}") from error
    has = f"it contains {quote_names(there)}" if there else "it is empty"
    looks = guess_detection_source(str(root))
    hint = f"; it looks like data.source {looks}" if looks not in ("", source) else ""
    return f"{root} has no annotations for {split}: looked for {wanted}; {has}{hint}; name them in data.{split}"


def _describe_json_files(root: Path) -> str:
    """Describe the JSON files that are there."""
    names = [name for name in sorted(list_file_names(root)) if name.endswith(".json")]
    below = [name for name in sorted(list_file_names(root / "annotations")) if name.endswith(".json")]
    found = [*names, *(f"annotations/{name}" for name in below)]
    return f"; JSON files there: {quote_names(found)}" if found else ""


def _has_signature(path: Path, pattern: re.Pattern[bytes]) -> bool:
    """Return whether the start of a file matches; False where it cannot be read."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return pattern.search(file.read(HEAD_BYTES)) is not None
    except OSError:
        return False
