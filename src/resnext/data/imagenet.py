"""ImageNet-1K's classes: folders are named by synset (n01440764), published classifiers by word (tench)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import cast

import numpy as np
from PIL import Image

from resnext.data.source import Dataset, Files

SYNSET = re.compile(r"n[0-9]{8}")
NUMBER = re.compile(r"0|[1-9][0-9]{0,2}", re.ASCII)
ENOUGH = 990  # of the 1000 names, in the same places


@cache
def imagenet_synsets() -> tuple[str, ...]:
    """The 1000 synsets, sorted: the order of the outputs of every published classifier."""
    return tuple(files("resnext.data").joinpath("imagenet_synsets.txt").read_text("ascii").split())


@cache
def imagenet_classes() -> tuple[str, ...]:
    """The same classes by word, as torchvision has them."""
    from torchvision.models import ResNet50_Weights

    return tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])


def output_synsets(classes: Sequence[str] | None, count: int) -> tuple[str, ...] | None:
    """The synset of each of a classifier's ``count`` outputs; None where it is not one of ImageNet's.

    ``classes`` are its names: ImageNet's 1000 by word, or synsets of any ImageNet; None where 1000 outputs have no
    names.
    """
    if classes is None:
        return imagenet_synsets() if count == 1000 else None
    if names_imagenet(tuple(classes)):
        return imagenet_synsets()
    return tuple(classes) if all(SYNSET.fullmatch(name) for name in classes) else None


def synsets_by_number(names: Sequence[str]) -> tuple[str, ...] | None:
    """The synsets that names such as 0, 1, 10 ... 999 stand for, as ImageNet-V2 has them; None for any other names."""
    if not all(NUMBER.fullmatch(name) for name in names):
        return None
    return tuple(imagenet_synsets()[int(name)] for name in names)


def names_imagenet(names: tuple[str, ...]) -> bool:
    """Whether these are ImageNet's 1000 classes in order, by synset or by word.

    Lists of words differ in a few, and some go on ("tench, Tinca tinca").
    """
    if len(names) != 1000:
        return False
    words = sum(name.partition(",")[0] == word for name, word in zip(names, imagenet_classes(), strict=True))
    return names == imagenet_synsets() or words >= ENOUGH


@dataclass(frozen=True, eq=False)
class Relabelled:
    """Another data set under other ``classes``; ``places`` (int64) has the new label of each old one."""

    dataset: Dataset
    classes: tuple[str, ...]
    places: np.ndarray

    @property
    def name(self) -> str:
        present = int(np.count_nonzero(self.places >= 0))
        return self.dataset.name + (
            f" ({present:,} of {len(self.classes):,} classes)" if present < len(self.classes) else ""
        )

    @property
    def channels(self) -> int:
        return self.dataset.channels

    @cached_property
    def labels(self) -> np.ndarray:
        return self.places[self.dataset.labels]

    @property
    def in_memory(self) -> bool:
        return self.dataset.in_memory

    def __len__(self) -> int:
        return len(self.dataset)

    def image(self, index: int) -> Image.Image:
        return self.dataset.image(index)

    def encoded(self, index: int) -> bytes:
        """Of a data set of files."""
        return cast(Files, self.dataset).encoded(index)

    def decoded(self, file: bytes, index: int) -> Image.Image:
        """Of a data set of files."""
        return cast(Files, self.dataset).decoded(file, index)

    def where(self, index: int) -> str:
        return self.dataset.where(index)
