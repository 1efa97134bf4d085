"""Open the training and held-out data sets that the data settings describe."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from resnext.data.classes import class_difference
from resnext.detect.box_format import check_box_format
from resnext.detect.coco import parse_coco
from resnext.detect.dataset import DetectionDataset, explain_no_boxes, limited
from resnext.detect.divide import describe_split, divide
from resnext.detect.exif import decide_orientation
from resnext.detect.find_annotations import TRAIN, VAL, coco_file, has_annotations, image_folders, voc_files
from resnext.detect.find_images import first_that_holds, locate_images
from resnext.detect.parsed import Parsed, dataset_of, leave_out_groups
from resnext.detect.places import check_all_there
from resnext.detect.settings import SOURCES, DetectDataSettings
from resnext.detect.voc import VocImage, class_names, find_first_pixel, parsed_voc, read_voc
from resnext.errors import RequestError, nearest


def open_detection(settings: DetectDataSettings) -> tuple[DetectionDataset, DetectionDataset]:
    """Open train and val, reduced to the settings' limits. Raises RequestError for missing or invalid data.

    They come from two files or lists, or from one by ``val_fraction``. Val may have the classes in another order, with
    other ids, or only some of them; ``match_classes`` handles this. ``empty`` applies to training only.
    """
    if settings.val_fraction is not None:
        train, val = _open_parts(settings)
    else:
        found = {TRAIN: Found(settings, TRAIN), VAL: _find_val(settings)}
        train, val = (_dataset(found[split], [*found.values()], settings, split) for split in (TRAIN, VAL))
        check_known_categories(train, val)
    for dataset in (train, val):
        if why := explain_no_boxes(dataset):
            raise RequestError(why)
    return _limited(train, settings, TRAIN), _limited(val, settings, VAL)


def open_detection_split(settings: DetectDataSettings, split: str) -> DetectionDataset:
    """Open ``train`` or ``val`` alone. VOC's classes come from both splits, where both exist."""
    if split not in (TRAIN, VAL):
        raise RequestError(f"no split {split!r}{nearest(split, (TRAIN, VAL))}")
    if settings.val_fraction is not None:
        train, val = _open_parts(settings)
        return _limited(train if split == TRAIN else val, settings, split)
    found, other = [Found(settings, split)], VAL if split == TRAIN else TRAIN
    if found[0].needs_other and has_annotations(data_root(settings), settings, other):
        found.append(Found(settings, other))
    return _limited(_dataset(found[0], found, settings, split), settings, split)


class Found:
    """The annotations of a split and its image folder. Raises RequestError for missing or invalid files."""

    def __init__(self, settings: DetectDataSettings, split: str) -> None:
        root = data_root(settings)
        self.exif = settings.exif
        self.voc: list[VocImage] | None = None
        if settings.source == "voc":
            self.place, above, xml, self.images = voc_files(root, settings, split)
            self.voc = read_voc(xml, self.images, self.place, above)
        else:
            self.place = coco_file(root, settings, split)
            self.coco = parse_coco(self.place)
            self.images = first_that_holds(image_folders(root, settings, split, self.place), self.coco.files)

    @property
    def needs_other(self) -> bool:
        """Whether the split's classes depend on the other split too."""
        return self.voc is not None or bool(self.coco.groups)

    def parsed(self, both: Sequence["Found"]) -> Parsed:
        """Build the annotations with the classes of ``both`` splits, and locate the images. Raises RequestError."""
        if self.voc is None:
            parsed = leave_out_groups(self.coco, [found.coco for found in both])
        else:
            splits = [found.voc for found in both if found.voc]
            parsed = parsed_voc(self.voc, class_names(splits), self.place.name, find_first_pixel(splits))
        return locate_images(parsed, self.images, exif=self.exif)


def check_undivided(settings: DetectDataSettings) -> None:
    """Raise RequestError where ``val_fraction`` is given but the data has its own held-out images."""
    root = data_root(settings)
    if settings.train is None and has_annotations(root, settings, VAL):
        raise RequestError(
            f"{root} already has annotations for val: leave out data.val_fraction, or name in data.train what to split"
        )


def _find_val(settings: DetectDataSettings) -> Found:
    try:
        return Found(settings, VAL)
    except RequestError as error:
        if settings.val is not None or has_annotations(data_root(settings), settings, VAL):
            raise
        raise RequestError(f"{error}, or hold out a share of train with data.val_fraction 0.2") from None


def _open_parts(settings: DetectDataSettings) -> tuple[DetectionDataset, DetectionDataset]:
    """Open train and val from the annotations of train."""
    check_undivided(settings)
    found = Found(settings, TRAIN)
    parsed = found.parsed([found])
    check_box_format(parsed)
    parts = divide(parsed, settings)
    train, val = decide_orientation([_apply_policies(parts[split], found, settings, split) for split in (TRAIN, VAL)])
    how = describe_split(settings)
    return replace(train, split=how), replace(val, split=how)


def _dataset(found: Found, both: Sequence[Found], settings: DetectDataSettings, split: str) -> DetectionDataset:
    parsed = found.parsed(both)
    check_box_format(parsed)
    return decide_orientation([_apply_policies(parsed, found, settings, split)])[0]


def _apply_policies(parsed: Parsed, found: Found, settings: DetectDataSettings, split: str) -> DetectionDataset:
    """Build a data set with the policies of the settings, and check that its images exist."""
    dataset = dataset_of(
        parsed,
        found.images,
        exif=settings.exif,
        bad_boxes=settings.bad_boxes,
        empty=settings.empty if split == TRAIN else "keep",
    )
    check_all_there(found.images, dataset.files, str(found.place))
    return dataset


def _limited(dataset: DetectionDataset, settings: DetectDataSettings, split: str) -> DetectionDataset:
    limit = settings.limit_train if split == TRAIN else settings.limit_val
    return limited(dataset, limit, settings.split_seed)


def check_known_categories(train: DetectionDataset, val: DetectionDataset) -> None:
    """Raise RequestError where val has boxes of a class that train does not have."""
    boxes = np.bincount(val.labels[~val.crowd], minlength=len(val.classes))
    if any(count and name not in train.classes for name, count in zip(val.classes, boxes, strict=True)):
        difference = class_difference(train.classes, val.classes, train.name, val.name)
        raise RequestError(f"the categories of train ({train.name}) and val ({val.name}) differ: {difference}")


def data_root(settings: DetectDataSettings) -> Path:
    """Return the folder ``settings.path``. Raises RequestError unless it exists."""
    if settings.source not in SOURCES:
        raise RequestError(f"unknown data.source {settings.source!r}{nearest(settings.source, SOURCES)}")
    root = Path(settings.path).expanduser()
    if not root.is_dir():
        raise RequestError(f"data.path {root} {'is a file' if root.exists() else 'does not exist'}; expected a folder")
    return root
