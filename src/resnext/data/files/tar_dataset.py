"""A data set of images in tar archives, read by their offset without unpacking."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from resnext.data.encoded_dataset import EncodedDataset
from resnext.data.files.storage import FileVersion, base_name, read_range
from resnext.data.files.tar_index import TarIndex


@dataclass(frozen=True, eq=False)
class TarDataset(EncodedDataset):
    """One split in tar archives: image i is ``sizes[i]`` bytes at ``offsets[i]`` of archive ``shards[i]``.

    An archive that cannot be read raises WorkError, which names archive and member and is never skipped.
    """

    name: str
    classes: tuple[str, ...]
    channels: int
    archives: tuple[tuple[str, FileVersion], ...]
    shards: np.ndarray  # int32 [N], into archives
    file_names: np.ndarray  # names of the members, bytes [N]
    offsets: np.ndarray  # int64 [N]
    sizes: np.ndarray  # int64 [N]
    labels: np.ndarray  # int64 [N]
    exif: bool = True

    @staticmethod
    def from_indexes(
        name: str, indexes: Sequence[TarIndex], labels: np.ndarray, classes: tuple[str, ...], channels: int, exif: bool
    ) -> "TarDataset":
        """Make a data set of all members of the archives, in order; ``labels`` int64 [N] for all of them."""
        shards = np.repeat(np.arange(len(indexes), dtype=np.int32), [len(index) for index in indexes])
        names, offsets, sizes = (
            np.concatenate([getattr(index, column) for index in indexes]) for column in ("names", "offsets", "sizes")
        )
        archives = tuple((index.path, index.version) for index in indexes)
        return TarDataset(name, classes, channels, archives, shards, names, offsets, sizes, labels, exif)

    def read_bytes(self, index: int) -> bytes:
        """Return the content of the image's file. Raises WorkError if the archive cannot be read."""
        place, stamp = self.archives[self.shards[index]]
        size = int(self.sizes[index])
        return read_range(place, stamp, int(self.offsets[index]), size, os.fsdecode(bytes(self.file_names[index])))

    def image_path(self, index: int) -> str:
        """Return archive and member as ``shard.tar:member``."""
        return f"{base_name(self.archives[self.shards[index]][0])}:{os.fsdecode(bytes(self.file_names[index]))}"

    def select(self, indices: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], name: str) -> "TarDataset":
        """Select the images at ``indices``, in that order, with new labels, classes and name."""
        columns = {column: getattr(self, column)[indices] for column in ("shards", "file_names", "offsets", "sizes")}
        return replace(self, name=name, classes=classes, labels=labels, **columns)
