"""ImageNet-5K (Section 5.2): the 1,000 classes of ImageNet-1K and the largest other classes of ImageNet-22K.

There is no official validation set. As in the paper, it is ImageNet-1K's, with labels among all the classes.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from resnext.data.classes import quote_names
from resnext.data.dataset import Dataset, Source, count_per_class
from resnext.data.files.storage import exists
from resnext.data.sources.image_folder import natural_image_source
from resnext.data.sources.imagenet1k import open_imagenet_split
from resnext.data.sources.synset_layouts import LAYOUT_HINT, open_synsets, select_classes
from resnext.errors import RequestError
from resnext.settings import DataSettings

CLASS_LIST_FILE = "imagenet5k-classes.csv"


class SelectedClass(NamedTuple):
    """A class of ImageNet-5K, its number of training images, and its part: ``1k`` or ``extra``."""

    wnid: str
    images: int
    part: str


def open_imagenet5k(settings: DataSettings) -> Source:
    """Open both splits: train from ImageNet-22K (``data.path``), val from ImageNet-1K (``data.val_path``)."""
    if settings.path is None or settings.val_path is None:
        raise RequestError(
            "data.source imagenet5k needs data.path, ImageNet-22K, and data.val_path, ImageNet-1K with its validation "
            f"set; for data.path {LAYOUT_HINT}"
        )
    val = open_imagenet_split(settings, "val")
    if not exists(settings.path):
        raise RequestError(f"data.path {settings.path} does not exist; {LAYOUT_HINT}")
    everything = open_synsets(settings.path, "imagenet5k train", settings)
    counts = dict(zip(everything.classes, count_per_class(everything).tolist(), strict=True))
    rows = choose_classes(counts, val.classes, settings.extra_classes)
    classes = [row.wnid for row in rows]
    train = select_classes(everything, classes, "imagenet5k train")
    extra = sum(row.part == "extra" for row in rows)
    split = (
        f"{len(train)} training images of {len(classes)} classes, {extra} of them not in ImageNet-1K; "
        f"ImageNet-1K's {len(val)} validation images are held out"
    )
    val = select_classes(val, classes, "imagenet5k val")
    return natural_image_source(train, val, settings, split, {CLASS_LIST_FILE: format_csv(rows)})


def open_imagenet5k_split(settings: DataSettings, split: str) -> Dataset:
    """Open one split. Both splits are read, since the classes depend on both."""
    source = open_imagenet5k(settings)
    return source.train if split == "train" else source.val


def choose_classes(counts: Mapping[str, int], required: Iterable[str], extra: int) -> list[SelectedClass]:
    """Choose the required classes and the ``extra`` largest others, sorted by wnid; ties go to the earlier wnid."""
    required = sorted(required)
    missing = [wnid for wnid in required if not counts.get(wnid)]
    if missing:
        raise RequestError(
            f"data.path lacks {len(missing)} of the {len(required)} classes of the validation set, "
            f"{quote_names(missing)}; add their images from ImageNet-1K's training set"
        )
    others = sorted(set(counts) - set(required), key=lambda wnid: (-counts[wnid], wnid))
    if len(others) < extra:
        raise RequestError(
            f"data.extra_classes {extra} is more than the {len(others)} classes of data.path that are not among the "
            f"{len(required)} of the validation set"
        )
    rows = [SelectedClass(wnid, counts[wnid], "1k") for wnid in required]
    return sorted(rows + [SelectedClass(wnid, counts[wnid], "extra") for wnid in others[:extra]])


def format_csv(rows: Iterable[SelectedClass]) -> str:
    """Format the classes as CSV, with a header."""
    return "".join(f"{wnid},{images},{part}\n" for wnid, images, part in (SelectedClass._fields, *rows))
