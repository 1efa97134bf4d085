"""What every data set provides: images, labels and class names, whatever source they come from."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Protocol, cast

import numpy as np
from PIL import Image

from resnext.errors import WorkError


class BadImageError(WorkError):
    """One image cannot be used: ``path`` is its file, ``reason`` says why. Workers send it to the main process."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot use image {self.path}: {self.reason}"


class Dataset(Protocol):
    """One split (train or val) of a data source."""

    @property
    def name(self) -> str:
        """Name for messages and reports, such as ``cifar10 test``."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names. A label is an index into them."""

    @property
    def channels(self) -> int:
        """Number of channels of every image: 1 (grey) or 3 (RGB)."""

    @property
    def labels(self) -> np.ndarray:
        """Label of each image, int64 [N]."""

    @property
    def in_memory(self) -> bool:
        """Whether the decoded images are in memory, so that ``image`` reads no file."""

    def __len__(self) -> int: ...

    def image(self, index: int) -> Image.Image:
        """Return the decoded image, mode ``L`` or ``RGB``. Raises BadImage if it cannot be decoded."""

    def image_path(self, index: int) -> str:
        """Return the image's path below the root of the data, or for data in memory ``test[17]``."""


class FileDataset(Dataset, Protocol):
    """A split whose images are encoded files, such as JPEG or PNG."""

    def read_bytes(self, index: int) -> bytes:
        """Return the content of the image's file. Raises BadImage or WorkError if it cannot be read."""

    def decode_bytes(self, file: bytes, index: int) -> Image.Image:
        """Decode these bytes as ``image`` does. Raises BadImage naming the file."""


def as_file_dataset(dataset: Dataset) -> FileDataset | None:
    """Return the data set itself if its images are files, else None."""
    inner = dataset
    while isinstance(inner, DatasetWrapper):
        if not inner.keeps_files:
            return None
        inner = inner.dataset
    return cast(FileDataset, dataset) if hasattr(inner, "read_bytes") else None


def count_per_class(dataset: Dataset) -> np.ndarray:
    """Count the images of each class, int64 [classes]."""
    return np.bincount(dataset.labels, minlength=len(dataset.classes))


def hash_dataset_listing(dataset: Dataset) -> str:
    """Hash which images a split has, their order and their labels. Pixels are not read."""
    return hash_file_list(getattr(dataset, "file_names", ()), dataset.labels)


def hash_file_list(names: Iterable[bytes], *columns: np.ndarray) -> str:
    """Hash the base names of files and arrays with one row for each of them; folders do not matter."""
    digest = hashlib.blake2b(digest_size=16)
    for name in names:
        digest.update(name.rpartition(b"/")[2] + b"\0")
    for column in columns:
        digest.update(column.tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class ArrayDataset:
    """A split in memory: ``images`` uint8 [N, H, W] or [N, H, W, 3], ``labels`` int64 [N]."""

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
        """Return image ``index`` as a PIL image."""
        return Image.fromarray(self.images[index])

    def image_path(self, index: int) -> str:
        """Return split and index, such as ``test[17]``."""
        return f"{self.name.split()[-1]}[{index}]"


@dataclass(frozen=True, eq=False)
class DatasetWrapper:
    """A data set made from another one. It passes everything on; subclasses override what they change."""

    dataset: Dataset
    keeps_files: ClassVar[bool] = True  # whether image i is still what decoding its file gives

    @property
    def name(self) -> str:
        """Name of the inner data set."""
        return self.dataset.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of the inner data set."""
        return self.dataset.classes

    @property
    def channels(self) -> int:
        """Number of channels: 1 (grey) or 3 (RGB)."""
        return self.dataset.channels

    @property
    def in_memory(self) -> bool:
        """Whether the inner data set is in memory."""
        return self.dataset.in_memory

    @cached_property
    def labels(self) -> np.ndarray:
        """Labels, int64 [N]."""
        return self.dataset.labels

    def __len__(self) -> int:
        return len(self.dataset)

    def inner_index(self, index: int) -> int:
        """Return the index of image ``index`` in the inner data set."""
        return index

    def image(self, index: int) -> Image.Image:
        """Return the decoded image."""
        return self.dataset.image(self.inner_index(index))

    def read_bytes(self, index: int) -> bytes:
        """Return the content of the image's file; only for file data sets."""
        return cast(FileDataset, self.dataset).read_bytes(self.inner_index(index))

    def decode_bytes(self, file: bytes, index: int) -> Image.Image:
        """Decode the content of the image's file; only for file data sets."""
        return cast(FileDataset, self.dataset).decode_bytes(file, self.inner_index(index))

    def image_path(self, index: int) -> str:
        """Return the image's path."""
        return self.dataset.image_path(self.inner_index(index))


@dataclass(frozen=True, eq=False)
class Subset(DatasetWrapper):
    """The images of another data set at ``indices`` (int64 [n]), with the same name, classes and labels."""

    indices: np.ndarray

    @cached_property
    def labels(self) -> np.ndarray:
        """Labels of the subset, int64 [n]."""
        return np.asarray(self.dataset.labels[self.indices])

    @property
    def file_names(self) -> np.ndarray:
        """File names of a file data set, bytes [n]."""
        names: np.ndarray = self.dataset.file_names[self.indices]  # type: ignore[attr-defined]
        return names

    def __len__(self) -> int:
        return len(self.indices)

    def inner_index(self, index: int) -> int:
        """Return the index in the whole data set."""
        return int(self.indices[index])


@dataclass(frozen=True)
class Source:
    """Both splits of a data set, with its default image size, ``mean`` and ``std`` (per channel, scale 0 to 1)."""

    train: Dataset
    val: Dataset
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    split_rule: str  # one sentence: how train and val were separated
    extra_files: Mapping[str, str] = field(default_factory=dict)  # file name -> text of files that a run folder keeps


def choose_held_out(paths: Sequence[bytes], fraction: float, seed: int) -> np.ndarray:
    """Choose about ``fraction`` of ``paths`` to hold out, at least one and not all. Returns bool [n].

    The choice for a path depends only on the path and the seed, so adding files moves no other file. If one side
    would be empty, the path whose hash is nearest to it is moved there. At least two paths must differ.
    """
    draws = np.array([_hash_to_unit_interval(path, seed) for path in paths])
    held_out = draws < fraction
    if not held_out.any():
        return np.asarray(draws == draws.min())
    return np.asarray(draws < draws.max()) if held_out.all() else held_out


def _hash_to_unit_interval(path: bytes, seed: int) -> float:
    """Hash a path and a seed to a number in [0, 1), the same on every machine."""
    text = b"%d\0%s" % (seed, path.replace(os.fsencode(os.sep), b"/"))
    return int.from_bytes(hashlib.blake2b(text, digest_size=6).digest(), "big") / (1 << 48)


def random_subset(dataset: Dataset, limit: int | None, seed: int) -> Dataset:
    """Draw ``limit`` images with ``seed``, keeping their order. A smaller data set is returned unchanged."""
    if limit is None or limit >= len(dataset):
        return dataset
    drawn = np.random.Generator(np.random.Philox(key=seed)).permutation(len(dataset))[:limit]
    return Subset(dataset, np.sort(drawn))
