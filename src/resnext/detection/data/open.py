"""Open the training and held-out data sets that the data settings describe."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from resnext.data.classes import describe_class_difference
from resnext.detection.data.annotated_split import AnnotatedSplit, find_data_root, get_reader, has_annotations
from resnext.detection.data.annotations import RawAnnotations, build_dataset
from resnext.detection.data.box_format import check_box_format
from resnext.detection.data.dataset import DetectionDataset, explain_no_boxes, random_subset
from resnext.detection.data.exif_orientation import decide_orientation
from resnext.detection.data.find_annotations import TRAIN, VAL
from resnext.detection.data.image_paths import check_images_exist
from resnext.detection.data.train_val_split import describe_split_rule, split_by_hash
from resnext.detection.settings import DetectDataSettings
from resnext.errors import RequestError, did_you_mean


def open_detection_data(settings: DetectDataSettings) -> tuple[DetectionDataset, DetectionDataset]:
    """Open train and val, reduced to the settings' limits. Raises RequestError for missing or invalid data.

    They come from two files or lists, or from one by ``val_fraction``. Val may have the classes in another order, with
    other ids, or only some of them; ``match_classes`` handles this. ``empty`` applies to training only.
    """
    if settings.val_fraction is not None:
        train, val = _open_hash_split(settings)
    else:
        found = {TRAIN: get_reader(settings)(settings, TRAIN), VAL: _read_val(settings)}
        train, val = (_build_split(found[split], [*found.values()], settings, split) for split in (TRAIN, VAL))
        check_known_categories(train, val)
    for dataset in (train, val):
        if why := explain_no_boxes(dataset):
            raise RequestError(why)
    return _limit_images(train, settings, TRAIN), _limit_images(val, settings, VAL)


def open_detection_split(settings: DetectDataSettings, split: str) -> DetectionDataset:
    """Open ``train`` or ``val`` alone. VOC's classes come from both splits, where both exist."""
    if split not in (TRAIN, VAL):
        raise RequestError(f"no split {split!r}{did_you_mean(split, (TRAIN, VAL))}")
    if settings.val_fraction is not None:
        train, val = _open_hash_split(settings)
        return _limit_images(train if split == TRAIN else val, settings, split)
    reader, other = get_reader(settings), VAL if split == TRAIN else TRAIN
    found = [reader(settings, split)]
    if found[0].needs_other_split and has_annotations(settings, other):
        found.append(reader(settings, other))
    return _limit_images(_build_split(found[0], found, settings, split), settings, split)


def check_no_val_annotations(settings: DetectDataSettings) -> None:
    """Raise RequestError where ``val_fraction`` is given but the data has its own held-out images."""
    if settings.train is None and has_annotations(settings, VAL):
        raise RequestError(
            f"{find_data_root(settings)} already has annotations for val: leave out data.val_fraction, or name in "
            "data.train what to split"
        )


def _read_val(settings: DetectDataSettings) -> AnnotatedSplit:
    try:
        return get_reader(settings)(settings, VAL)
    except RequestError as error:
        if settings.val is not None or has_annotations(settings, VAL):
            raise
        raise RequestError(f"{error}, or hold out a share of train with data.val_fraction 0.2") from None


def _open_hash_split(settings: DetectDataSettings) -> tuple[DetectionDataset, DetectionDataset]:
    """Open train and val from the annotations of train."""
    check_no_val_annotations(settings)
    found = get_reader(settings)(settings, TRAIN)
    parsed = found.build_annotations([found])
    check_box_format(parsed)
    parts = split_by_hash(parsed, settings)
    train, val = decide_orientation([_apply_policies(parts[split], found, settings, split) for split in (TRAIN, VAL)])
    how = describe_split_rule(settings)
    return replace(train, split_rule=how), replace(val, split_rule=how)


def _build_split(
    found: AnnotatedSplit, both: Sequence[AnnotatedSplit], settings: DetectDataSettings, split: str
) -> DetectionDataset:
    parsed = found.build_annotations(both)
    check_box_format(parsed)
    return decide_orientation([_apply_policies(parsed, found, settings, split)])[0]


def _apply_policies(
    parsed: RawAnnotations, found: AnnotatedSplit, settings: DetectDataSettings, split: str
) -> DetectionDataset:
    """Build a data set with the policies of the settings, and check that its images exist."""
    empty = settings.empty if split == TRAIN else "keep"
    dataset = build_dataset(parsed, found.images, exif=settings.exif, bad_boxes=settings.bad_boxes, empty=empty)
    check_images_exist(found.images, dataset.files, str(found.location))
    return dataset


def _limit_images(dataset: DetectionDataset, settings: DetectDataSettings, split: str) -> DetectionDataset:
    limit = settings.max_train_images if split == TRAIN else settings.max_val_images
    return random_subset(dataset, limit, settings.split_seed)


def check_known_categories(train: DetectionDataset, val: DetectionDataset) -> None:
    """Raise RequestError where val has boxes of a class that train does not have."""
    boxes = np.bincount(val.labels[~val.crowd], minlength=len(val.classes))
    if any(count and name not in train.classes for name, count in zip(val.classes, boxes, strict=True)):
        difference = describe_class_difference(train.classes, val.classes, train.name, val.name)
        raise RequestError(f"the categories of train ({train.name}) and val ({val.name}) differ: {difference}")
