"""ImageNet-1K's classes: folders are named by synset (n01440764), published classifiers by word (tench)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files

import numpy as np
from PIL import Image

from resnext.data.source import Dataset

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


def imagenet1k_subset(classes: Sequence[str]) -> np.ndarray:
    """Where ImageNet-1K's synsets are among ``classes``, in the official order: int64 [K], empty where none is.

    Of a classifier of ImageNet-5K these are the outputs that count in the 1K-way evaluation of Section 5.2.
    """
    places = {name: index for index, name in enumerate(classes)}
    return np.array([places[synset] for synset in imagenet_synsets() if synset in places], dtype=np.int64)


def by_synset(dataset: Dataset, classes: Sequence[str] | None) -> Dataset:
    """``dataset`` with the 1000 classes of an ImageNet classifier, where its own are synsets, all or some of them.

    ``classes`` are the classifier's, None where it has 1000 outputs without names. Any other data set comes back as it
    is.
    """
    synsets = imagenet_synsets()
    words = imagenet_classes() if classes is None else tuple(classes)
    if not names_imagenet(words) or not set(dataset.classes) <= set(synsets):
        return dataset
    places = {synset: index for index, synset in enumerate(synsets)}
    return Relabelled(dataset, words, np.array([places[synset] for synset in dataset.classes], dtype=np.int64))


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
        present = len(self.dataset.classes)
        return self.dataset.name + (f" ({present} of {len(self.classes):,} classes)" if present < 1000 else "")

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

    def where(self, index: int) -> str:
        return self.dataset.where(index)
