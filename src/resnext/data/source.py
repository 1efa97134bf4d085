"""What a data set is to the rest of the package: images, labels and class names, not where they came from."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, cast

import numpy as np
from PIL import Image

from resnext.errors import WorkError


class BadImage(WorkError):
    """One image cannot be used. ``path`` names the file, ``reason`` says why. Pickles, so that workers can send it."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot use image {self.path}: {self.reason}"


class Dataset(Protocol):
    """One split of a source."""

    @property
    def name(self) -> str:
        """For people: ``cifar10 test``."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a label is an index into them."""

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (RGB)."""

    @property
    def labels(self) -> np.ndarray:
        """int64 [N]."""

    @property
    def in_memory(self) -> bool:
        """Whether ``image`` costs no reading and decoding."""

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image.Image:
        """The image, fully decoded, mode ``L`` or ``RGB``. Raises BadImage naming the file."""

    def where(self, index: int) -> str:
        """The image's path under the data's root, or ``test[17]``."""


class Files(Dataset, Protocol):
    """A split whose images are files of any format."""

    def encoded(self, index: int) -> bytes:
        """The image's file as it is. Raises BadImage or WorkError where it cannot be read."""

    def decoded(self, file: bytes, index: int) -> Image.Image:
        """What ``image`` makes of those bytes. Raises BadImage naming the file."""


def files_of(dataset: Dataset) -> Files | None:
    """The data set itself where its images are files; else None."""
    inner = dataset
    while hasattr(inner, "dataset"):  # a view of another
        inner = inner.dataset
    return cast(Files, dataset) if hasattr(inner, "encoded") and hasattr(dataset, "encoded") else None


def listing_digest(dataset: Dataset) -> str:
    """A digest of which images a split holds, in which order and under which labels; their pixels are not read."""
    return digest_of(getattr(dataset, "file_names", ()), dataset.labels)


def digest_of(names: Iterable[bytes], *columns: np.ndarray) -> str:
    """A digest of the base names of files, which are the same wherever these lie, and of what is known of each."""
    digest = hashlib.blake2b(digest_size=16)
    for name in names:
        digest.update(name.rpartition(b"/")[2] + b"\0")
    for column in columns:
        digest.update(column.tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class ArrayDataset:
    """A split that lives in memory: ``images`` uint8 [N, H, W] or [N, H, W, 3], ``labels`` int64 [N]."""

    name: str
    classes: tuple[str, ...]
    channels: int
    images: np.ndarray
    labels: np.ndarray
    in_memory: bool = True

    def __post_init__(self) -> None:
        assert self.images.dtype == np.uint8
        assert self.labels.dtype == np.int64
        assert self.images.shape[3:] == ((3,) if self.channels == 3 else ())
        assert self.labels.shape == self.images.shape[:1]
        assert not len(self) or 0 <= self.labels.min() <= self.labels.max() < len(self.classes)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index])

    def where(self, index: int) -> str:
        return f"{self.name.split()[-1]}[{index}]"


@dataclass(frozen=True, eq=False)
class Subset:
    """The images of another data set at ``indices`` (int64 [n]); names, classes and labels stay what they were."""

    dataset: Dataset
    indices: np.ndarray

    @property
    def name(self) -> str:
        return self.dataset.name

    @property
    def classes(self) -> tuple[str, ...]:
        return self.dataset.classes

    @property
    def channels(self) -> int:
        return self.dataset.channels

    @property
    def in_memory(self) -> bool:
        return self.dataset.in_memory

    @cached_property
    def labels(self) -> np.ndarray:
        return self.dataset.labels[self.indices]

    @property
    def file_names(self) -> np.ndarray:
        """Of a data set of files: bytes [n]."""
        names: np.ndarray = self.dataset.file_names[self.indices]  # type: ignore[attr-defined]
        return names

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> Image.Image:
        return self.dataset.image(int(self.indices[index]))

    def encoded(self, index: int) -> bytes:
        """Of a data set of files."""
        return cast(Files, self.dataset).encoded(int(self.indices[index]))

    def decoded(self, file: bytes, index: int) -> Image.Image:
        """Of a data set of files."""
        return cast(Files, self.dataset).decoded(file, int(self.indices[index]))

    def where(self, index: int) -> str:
        return self.dataset.where(int(self.indices[index]))


@dataclass(frozen=True)
class Source:
    """Both splits of a data set, and its usual view. ``mean`` and ``std`` are on the scale of 0 to 1."""

    train: Dataset
    val: Dataset
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    split: str  # one sentence: how train and val were divided
    lists: Mapping[str, str] = field(default_factory=dict)  # file name -> text, to be kept with a run


def choose_held_out(paths: Sequence[bytes], fraction: float, seed: int) -> np.ndarray:
    """bool [n]: which of ``paths`` are held out; about ``fraction`` of them, at least one, and not all.

    A path's side is a function of the path and the seed, so that added files move none. Only where one side would have
    nothing, the path nearest to it changes over. There must be two paths that differ.
    """
    draws = np.array([_draw(path, seed) for path in paths])
    held_out = draws < fraction
    if not held_out.any():
        return np.asarray(draws == draws.min())
    return np.asarray(draws < draws.max()) if held_out.all() else held_out


def _draw(path: bytes, seed: int) -> float:
    """A number in [0, 1) for a path under a seed, the same on every machine."""
    text = b"%d\0%s" % (seed, path.replace(os.fsencode(os.sep), b"/"))
    return int.from_bytes(hashlib.blake2b(text, digest_size=6).digest(), "big") / (1 << 48)


def limited(dataset: Dataset, limit: int | None, seed: int) -> Dataset:
    """``limit`` images drawn by ``seed``, in their old order; the data set itself when it has no more than that."""
    if limit is None or limit >= len(dataset):
        return dataset
    drawn = np.random.Generator(np.random.Philox(key=seed)).permutation(len(dataset))[:limit]
    return Subset(dataset, np.sort(drawn))
