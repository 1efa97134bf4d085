"""Annotations of a split before any policy is applied, and the data set built from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from resnext.detection.data.box_policy import RawBoxes, apply_box_policy
from resnext.detection.data.dataset import DetectionDataset, drop_empty_images


@dataclass(frozen=True, eq=False, kw_only=True)
class RawAnnotations:
    """Images, classes and all boxes of a split, bad boxes included."""

    name: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    image_ids: np.ndarray  # int64 [N]
    files: tuple[str, ...]
    sizes: np.ndarray  # int64 [N, 2]: width, height; below 1 where there is none
    boxes: RawBoxes
    has_generated_ids: bool = False  # whether image_ids and category_ids are generated, as the format has none
    describe_box: Callable[[int], str]  # of a box index, for messages: file, annotation and values
    describe_image: Callable[[int], str] = "image {}".format  # of an image index, for messages: where its file is named
    group_ids: tuple[int, ...] = ()  # ids of categories that may be groups of others (see ``drop_group_categories``)
    counts: dict[str, int] = field(default_factory=dict)  # what was changed or left out: {what: how often}


def drop_group_categories(annotations: RawAnnotations, others: Sequence[RawAnnotations]) -> RawAnnotations:
    """Drop the group categories that have no box in any split, the same ones in all splits."""
    classes, boxed = _list_class_names([annotations]), _list_class_names(others)
    names = dict(zip(annotations.category_ids, annotations.classes, strict=True))
    gone = {id_: names[id_] for id_ in annotations.group_ids if names[id_] in classes or names[id_] not in boxed}
    if not gone:
        return annotations
    keep = np.array([id_ not in gone for id_ in names])
    left = {f"category left out ({name!r}: a supercategory of others, without boxes)": 1 for name in gone.values()}
    return replace(
        annotations,
        classes=tuple(name for id_, name in names.items() if id_ not in gone),
        category_ids=tuple(id_ for id_ in names if id_ not in gone),
        boxes=annotations.boxes._replace(labels=(np.cumsum(keep) - 1)[annotations.boxes.labels]),
        group_ids=(),
        counts=annotations.counts | left,
    )


def _list_class_names(splits: Sequence[RawAnnotations]) -> set[str]:
    return {
        name
        for parsed in splits
        for id_, name in zip(parsed.category_ids, parsed.classes, strict=True)
        if id_ not in parsed.group_ids
    }


def build_dataset(
    annotations: RawAnnotations, root: Path, *, exif: bool = True, bad_boxes: str = "error", empty: str = "keep"
) -> DetectionDataset:
    """Build the data set of a split with images below ``root``. Raises RequestError for bad boxes."""
    counts = dict(annotations.counts)
    boxes, sizes = annotations.boxes, annotations.sizes
    offsets, arrays = apply_box_policy(boxes, sizes, bad_boxes, annotations.describe_box, counts)
    dataset = DetectionDataset(
        name=annotations.name,
        classes=annotations.classes,
        category_ids=annotations.category_ids,
        root=str(root),
        files=annotations.files,
        image_ids=annotations.image_ids,
        sizes=sizes,
        offsets=offsets,
        exif=exif,
        has_generated_ids=annotations.has_generated_ids,
        counts=counts,
        **arrays,
    )
    return drop_empty_images(dataset) if empty == "drop" else dataset
