"""ImageNet-1K's classes by synset (n01440764, as folders are named) and by word (tench, as in published weights)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files

import numpy as np

from resnext.data.dataset import DatasetWrapper

WNID_PATTERN = re.compile(r"n[0-9]{8}")
NUMBER_PATTERN = re.compile(r"0|[1-9][0-9]{0,2}", re.ASCII)
MIN_MATCHING_NAMES = 990  # of the 1000 names at the same index


@cache
def imagenet_synsets() -> tuple[str, ...]:
    """Return the 1000 synsets, sorted. This is the order of the outputs of every published classifier."""
    return tuple(files("resnext.data").joinpath("imagenet_synsets.txt").read_text("ascii").split())


@cache
def ilsvrc2012_synsets() -> tuple[str, ...]:
    """Return the same 1000 in the order of ILSVRC2012_ID 1 to 1000, the numbers in the devkit's ground truth.

    From the devkit's meta.mat, as two public lists have it: map_clsloc.txt of later devkits, and a dump of meta.mat.
    """
    return tuple(files("resnext.data").joinpath("ilsvrc2012_ids.txt").read_text("ascii").split())


@cache
def imagenet_classes() -> tuple[str, ...]:
    """Return the same classes by word, as in torchvision."""
    from torchvision.models import ResNet50_Weights

    return tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def resolve_output_synsets(classes: Sequence[str] | None, count: int) -> tuple[str, ...] | None:
    """Return the synset of each of a classifier's ``count`` outputs, or None if its classes are not ImageNet's.

    ``classes`` are its class names: ImageNet's 1000 by word, or synsets of any ImageNet. Without names (None), 1000
    outputs are taken for ImageNet's.
    """
    if classes is None:
        return imagenet_synsets() if count == 1000 else None
    if is_imagenet_classes(tuple(classes)):
        return imagenet_synsets()
    return tuple(classes) if all(WNID_PATTERN.fullmatch(name) for name in classes) else None


def synsets_from_numbers(names: Sequence[str]) -> tuple[str, ...] | None:
    """Return the synsets for class names 0, 1, 10 ... 999, as in ImageNet-V2; None if a name is not a number."""
    if not all(NUMBER_PATTERN.fullmatch(name) for name in names):
        return None
    return tuple(imagenet_synsets()[int(name)] for name in names)


def is_imagenet_classes(names: tuple[str, ...]) -> bool:
    """Whether these are ImageNet's 1000 classes in order, by synset or by word.

    Published lists of words differ in a few names, and some have synonyms ("tench, Tinca tinca").
    """
    if len(names) != 1000:
        return False
    words = sum(name.partition(",")[0] == word for name, word in zip(names, imagenet_classes(), strict=True))
    return names == imagenet_synsets() or words >= MIN_MATCHING_NAMES


@dataclass(frozen=True, eq=False)
class RelabelledDataset(DatasetWrapper):
    """Another data set with ``new_classes``; ``new_labels`` (int64) has the new label of each old label."""

    new_classes: tuple[str, ...]
    new_labels: np.ndarray

    @property
    def name(self) -> str:
        """Name of the data set, with the number of classes present if some are missing."""
        present, count = int(np.count_nonzero(self.new_labels >= 0)), len(self.classes)
        return self.dataset.name + (f" ({present:,} of {count:,} classes)" if present < count else "")

    @property
    def classes(self) -> tuple[str, ...]:
        """The new classes."""
        return self.new_classes

    @cached_property
    def labels(self) -> np.ndarray:
        """New labels, int64 [N]."""
        return np.asarray(self.new_labels[self.dataset.labels])
