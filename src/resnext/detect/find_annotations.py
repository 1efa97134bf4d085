"""Where the annotations and the images of a data set lie when nobody says so: the layouts that tools write."""

import os
from collections.abc import Iterator
from pathlib import Path

from resnext.data.classes import listing
from resnext.detect.places import names_in
from resnext.detect.settings import DetectDataSettings
from resnext.detect.voc import listed, xml_in
from resnext.errors import RequestError

TRAIN, VAL = "train", "val"
FOLDERS = {
    TRAIN: ("train", "train2017", "train2014"),
    VAL: ("val", "val2017", "val2014", "valid", "validation", "test"),
}
COCO_FILES = {
    split: tuple(
        [f"annotations/instances_{name}.json" for name in names] + [f"{name}/_annotations.coco.json" for name in names]
    )
    for split, names in FOLDERS.items()
}
LISTS = "ImageSets/Main"


def detection_source_at(path: str) -> str:
    """``coco`` or ``voc`` where a folder looks like one of them; empty where it does not."""
    root = Path(path).expanduser()
    if not root.is_dir():
        return ""
    folders = ("annotations", *(name for name in ("train", "val", "valid") if (root / name).is_dir()))
    names = {folder: names_in(root / folder) for folder in folders}
    if any(name.startswith("instances_") and name.endswith(".json") for name in names["annotations"]):
        return "coco"
    if any("_annotations.coco.json" in found for found in names.values()):
        return "coco"
    if (root / "Annotations").is_dir() and ((root / "JPEGImages").is_dir() or (root / "ImageSets").is_dir()):
        return "voc"
    if any(name.lower().endswith(".xml") for folder in folders[1:] for name in names[folder]):
        return "voc"
    return ""


def has_annotations(root: Path, settings: DetectDataSettings, split: str) -> bool:
    """Whether a split has annotations, where the settings say or in a usual place of the source's."""
    find = _voc_place if settings.source == "voc" else _coco_place
    return find(root, settings, split) is not None


def coco_file(root: Path, settings: DetectDataSettings, split: str) -> Path:
    """The annotations of a split: those the settings name, or the first usual place. Raises RequestError."""
    found = _coco_place(root, settings, split)
    if found is not None:
        return found
    said = _said(settings, split)
    if said is None:
        raise RequestError(_nothing(root, split, COCO_FILES[split][:3]) + _json_near(root))
    path = root / Path(said).expanduser()
    raise RequestError(f"data.{split} {path} {'is a folder' if path.is_dir() else 'does not exist'}{_json_near(root)}")


def _coco_place(root: Path, settings: DetectDataSettings, split: str) -> Path | None:
    said = _said(settings, split)
    names = COCO_FILES[split] if said is None else (Path(said).expanduser(),)
    return next((root / name for name in names if (root / name).is_file()), None)


def image_folders(root: Path, settings: DetectDataSettings, split: str, annotations: Path) -> list[Path]:
    """Where the images of a split may lie: as the settings say, else the usual folders, likely ones first."""
    said = settings.train_images if split == TRAIN else settings.val_images
    if said is not None:
        return [root / Path(said).expanduser()]
    own = annotations.stem.removeprefix("instances_")
    names = [name for name in dict.fromkeys((own, *FOLDERS[split])) if name not in ("", ".", "..")]
    usual = [root / above / name for name in names for above in ("", "images")]
    return list(dict.fromkeys([*usual, root / "images", annotations.parent, root]))


def voc_files(root: Path, settings: DetectDataSettings, split: str) -> tuple[Path, list[Path], Path]:
    """The list or folder that is the split, its XML files, and the folder of its images."""
    place = _voc_place(root, settings, split)
    if place is None:
        said = _said(settings, split)
        looked = list(_voc_places(root, settings, split))
        wanted = [os.path.relpath(path, root) if path.is_relative_to(root) else str(path) for path in looked]
        what = f"data.{split} {said} is not there: " if said is not None else ""
        raise RequestError(what + _nothing(root, split, wanted))
    xml = xml_in(place) if place.is_dir() else [_annotations_of(root, place) / f"{name}.xml" for name in listed(place)]
    return place, xml, _voc_folder(root, settings, split, place, xml)


def _voc_place(root: Path, settings: DetectDataSettings, split: str) -> Path | None:
    """The list or folder that is the split; None where there is none."""
    return next((path for path in _voc_places(root, settings, split) if path.is_file() or xml_in(path)), None)


def _voc_places(root: Path, settings: DetectDataSettings, split: str) -> Iterator[Path]:
    """Lists first, then folders. trainval.txt has val.txt in it: where it trains, test.txt is held out."""
    said = _said(settings, split)
    lists = root / LISTS
    if said is not None:
        for above in (lists, root):
            yield from (above / f"{said}.txt", above / Path(said).expanduser())
        return
    both = (lists / "train.txt").is_file()
    if split == TRAIN:
        yield from (lists / "train.txt", lists / "trainval.txt")
    else:
        yield from (lists / f"{name}.txt" for name in (("val", "test") if both or settings.train else ("test",)))
    yield from (root / name for name in FOLDERS[split])


def _annotations_of(root: Path, place: Path) -> Path:
    """The folder of the XML files that a list is about: ``Annotations`` beside its ``ImageSets``, or below root."""
    beside = place.parent.parent.parent / "Annotations"
    return beside if beside.is_dir() and place.parent.parent.name == "ImageSets" else root / "Annotations"


def _voc_folder(root: Path, settings: DetectDataSettings, split: str, place: Path, xml: list[Path]) -> Path:
    """The folder of the images: as the settings say, beside the annotations, or among them."""
    said = settings.train_images if split == TRAIN else settings.val_images
    if said is not None:
        return root / Path(said).expanduser()
    above = xml[0].parent
    candidates = [above.parent / "JPEGImages", above, above.parent / "images", root / "images" / place.stem, root]
    stems = {path.stem for path in (*xml[:1], *xml[-1:])}
    for folder in candidates:
        if any(os.path.splitext(name)[0] in stems and not name.endswith(".xml") for name in names_in(folder)):
            return folder
    return next((folder for folder in candidates if folder.is_dir()), above)


def _said(settings: DetectDataSettings, split: str) -> str | None:
    return settings.train if split == TRAIN else settings.val


def _nothing(root: Path, split: str, wanted: list[str] | tuple[str, ...]) -> str:
    """What was looked for and what is there instead."""
    try:
        there = sorted(name for name in os.listdir(root) if not name.startswith("."))
    except OSError as error:
        raise RequestError(f"cannot list {root}: {error.strerror}") from error
    has = f"it holds {listing(there)}" if there else "it is empty"
    return f"{root} has no annotations for {split}: looked for {', '.join(wanted)}; {has}; name them in data.{split}"


def _json_near(root: Path) -> str:
    """A clause about the JSON files that are there."""
    below = [name for folder in ("", "annotations") for name in _json_in(root, folder)]
    return f"; JSON files there are {listing(below)}" if below else ""


def _json_in(root: Path, folder: str) -> list[str]:
    return sorted(os.path.join(folder, name) for name in names_in(root / folder) if name.endswith(".json"))
