"""From the data settings to both splits of images with boxes: where files lie when nobody says so."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from resnext.data.classes import class_difference, listing
from resnext.detect.coco import parse_coco
from resnext.detect.dataset import DetectionDataset, limited
from resnext.detect.parsed import Parsed, dataset_of
from resnext.detect.places import check_all_there, first_that_holds, names_in
from resnext.detect.settings import SOURCES, DetectDataSettings
from resnext.detect.voc import VocImage, class_names, listed, parsed_voc, read_voc, xml_in
from resnext.errors import RequestError, nearest

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


def open_detection(settings: DetectDataSettings) -> tuple[DetectionDataset, DetectionDataset]:
    """Train and val, cut to ``limit_train`` and ``limit_val``. Raises RequestError for what is missing or wrong.

    Val may have the classes in another order, under other ids, or only some; ``match_classes`` sees to it. ``empty`` is
    for training alone: held-out images all stay.
    """
    found = {split: Found(settings, split) for split in (TRAIN, VAL)}
    train, val = (_dataset(found[split], [*found.values()], settings, split) for split in (TRAIN, VAL))
    check_known_categories(train, val)
    return train, val


def open_detection_split(settings: DetectDataSettings, split: str) -> DetectionDataset:
    """``train`` or ``val`` alone; of coco the other need not be there. VOC's classes come from all that is there."""
    if split not in (TRAIN, VAL):
        raise RequestError(f"no split {split!r}{nearest(split, (TRAIN, VAL))}")
    found = [Found(settings, split)]
    if settings.source == "voc" and _voc_place(data_root(settings), settings, VAL if split == TRAIN else TRAIN):
        found.append(Found(settings, VAL if split == TRAIN else TRAIN))
    return _dataset(found[0], found, settings, split)


class Found:
    """A split's annotations, read, and where its images lie. Raises RequestError for what is missing or wrong."""

    def __init__(self, settings: DetectDataSettings, split: str) -> None:
        root = data_root(settings)
        self.voc: list[VocImage] | None = None
        if settings.source == "voc":
            self.place, xml, self.images = _voc_files(root, settings, split)
            self.voc = read_voc(xml, self.images, self.place)
        else:
            self.place = coco_file(root, settings, split)
            self.coco = parse_coco(self.place)
            self.images = first_that_holds(image_folders(root, settings, split, self.place), self.coco.files)

    def parsed(self, both: Sequence["Found"]) -> Parsed:
        """The split, under the classes of ``both``."""
        if self.voc is None:
            return self.coco
        return parsed_voc(self.voc, class_names([found.voc for found in both if found.voc]), self.place.name)


def _dataset(found: Found, both: Sequence[Found], settings: DetectDataSettings, split: str) -> DetectionDataset:
    dataset = dataset_of(
        found.parsed(both),
        found.images,
        exif=settings.exif,
        bad_boxes=settings.bad_boxes,
        empty=settings.empty if split == TRAIN else "keep",
    )
    check_all_there(found.images, dataset.files, str(found.place))
    limit = settings.limit_train if split == TRAIN else settings.limit_val
    return limited(dataset, limit, settings.split_seed)


def check_known_categories(train: DetectionDataset, val: DetectionDataset) -> None:
    """Raise RequestError where val has boxes of a class that train does not have."""
    boxes = np.bincount(val.labels[~val.crowd], minlength=len(val.classes))
    if any(count and name not in train.classes for name, count in zip(val.classes, boxes, strict=True)):
        difference = class_difference(train.classes, val.classes, train.name, val.name)
        raise RequestError(f"the categories of train ({train.name}) and val ({val.name}) differ: {difference}")


def data_root(settings: DetectDataSettings) -> Path:
    """The folder ``settings.path``. Raises RequestError unless it is there."""
    if settings.source not in SOURCES:
        raise RequestError(f"no data.source {settings.source!r}{nearest(settings.source, SOURCES)}")
    root = Path(settings.path).expanduser()
    if not root.is_dir():
        raise RequestError(f"data.path {root} {'is a file' if root.exists() else 'does not exist'}; expected a folder")
    return root


def coco_file(root: Path, settings: DetectDataSettings, split: str) -> Path:
    """The annotations of a split: those the settings name, or the first usual place. Raises RequestError."""
    said = _said(settings, split)
    if said is not None:
        path = root / Path(said).expanduser()
        if not path.is_file():
            raise RequestError(
                f"data.{split} {path} {'is a folder' if path.is_dir() else 'does not exist'}{_json_near(root)}"
            )
        return path
    found = next((root / name for name in COCO_FILES[split] if (root / name).is_file()), None)
    if found is None:
        raise RequestError(_nothing(root, split, COCO_FILES[split][:3]) + _json_near(root))
    return found


def image_folders(root: Path, settings: DetectDataSettings, split: str, annotations: Path) -> list[Path]:
    """Where the images of a split may lie: as the settings say, else the usual folders, likely ones first."""
    said = settings.train_images if split == TRAIN else settings.val_images
    if said is not None:
        return [root / Path(said).expanduser()]
    own = annotations.stem.removeprefix("instances_")
    names = [name for name in dict.fromkeys((own, *FOLDERS[split])) if name not in ("", ".", "..")]
    usual = [root / above / name for name in names for above in ("", "images")]
    return list(dict.fromkeys([*usual, root / "images", annotations.parent, root]))


def _voc_files(root: Path, settings: DetectDataSettings, split: str) -> tuple[Path, list[Path], Path]:
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
