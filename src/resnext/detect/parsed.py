"""Annotations of a split before any policy is applied, and the data set built from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from resnext.detect.boxes import Annotated, sorted_out
from resnext.detect.dataset import DetectionDataset, without_empty


@dataclass(frozen=True, eq=False, kw_only=True)
class Parsed:
    """Images, classes and all boxes of a split, bad boxes included."""

    name: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    image_ids: np.ndarray  # int64 [N]
    files: tuple[str, ...]
    sizes: np.ndarray  # int64 [N, 2]: width, height; below 1 where there is none
    found: Annotated
    own_ids: bool = False  # whether image_ids and category_ids are generated, as the format has none
    box_name: Callable[[int], str]  # of a box index, for messages: file, annotation and values
    image_name: Callable[[int], str] = "image {}".format  # of an image index, for messages: where its file is named
    groups: tuple[int, ...] = ()  # ids of categories that may be groups of others (see ``drop_group_categories``)
    counts: dict[str, int] = field(default_factory=dict)  # what was changed or left out: {what: how often}


def leave_out_groups(parsed: Parsed, others: Sequence[Parsed]) -> Parsed:
    """Drop the group categories that have no box in any split, the same ones in all splits."""
    classes, boxed = _names_but_groups([parsed]), _names_but_groups(others)
    names = dict(zip(parsed.category_ids, parsed.classes, strict=True))
    gone = {id_: names[id_] for id_ in parsed.groups if names[id_] in classes or names[id_] not in boxed}
    if not gone:
        return parsed
    keep = np.array([id_ not in gone for id_ in names])
    left = {f"category left out ({name!r}: a supercategory of others, without boxes)": 1 for name in gone.values()}
    return replace(
        parsed,
        classes=tuple(name for id_, name in names.items() if id_ not in gone),
        category_ids=tuple(id_ for id_ in names if id_ not in gone),
        found=parsed.found._replace(labels=(np.cumsum(keep) - 1)[parsed.found.labels]),
        groups=(),
        counts=parsed.counts | left,
    )


def _names_but_groups(splits: Sequence[Parsed]) -> set[str]:
    return {
        name
        for parsed in splits
        for id_, name in zip(parsed.category_ids, parsed.classes, strict=True)
        if id_ not in parsed.groups
    }


def dataset_of(
    parsed: Parsed, root: Path, *, exif: bool = True, bad_boxes: str = "error", empty: str = "keep"
) -> DetectionDataset:
    """Build the data set of a split with images below ``root``. Raises RequestError for bad boxes."""
    counts = dict(parsed.counts)
    offsets, arrays = sorted_out(parsed.found, parsed.sizes, bad_boxes, parsed.box_name, counts)
    dataset = DetectionDataset(
        name=parsed.name,
        classes=parsed.classes,
        category_ids=parsed.category_ids,
        root=str(root),
        files=parsed.files,
        image_ids=parsed.image_ids,
        sizes=parsed.sizes,
        offsets=offsets,
        exif=exif,
        either_as_stored=False,
        split="",
        own_ids=parsed.own_ids,
        counts=counts,
        **arrays,
    )
    return without_empty(dataset) if empty == "drop" else dataset
