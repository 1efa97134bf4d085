"""A split as its files state it, whatever their format, and the data set that the policies make of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnext.detect.boxes import Annotated, sorted_out
from resnext.detect.dataset import DetectionDataset, without_empty


@dataclass(frozen=True, eq=False, kw_only=True)
class Parsed:
    """Images, classes and every box of the files, also those that no policy would let through."""

    name: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    image_ids: np.ndarray  # int64 [N]
    files: tuple[str, ...]
    sizes: np.ndarray  # int64 [N, 2]: width, height
    found: Annotated
    own_ids: bool = False  # whether image_ids and category_ids are only counted here, as the format has none
    box_name: Callable[[int], str]  # of an annotation, for messages: where it stands and what it says


def dataset_of(
    parsed: Parsed, root: Path, *, exif: bool = True, bad_boxes: str = "error", empty: str = "keep"
) -> DetectionDataset:
    """The split with its images below ``root``; the policies are the settings'. Raises RequestError for bad boxes."""
    counts: dict[str, int] = {}
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
        own_ids=parsed.own_ids,
        counts=counts,
        **arrays,
    )
    return without_empty(dataset) if empty == "drop" else dataset
