"""A data set that keeps its decoded images in memory, so that a small data set of files is decoded once.

Images are kept as they are first read. They lie in anonymous shared memory, which loading processes inherit by fork:
what one of them decodes, all of them have in the next epoch.
"""

import math
import mmap
import multiprocessing
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from PIL import Image

from resnext.data.dataset import BadImageError, Dataset, DatasetWrapper, Source
from resnext.errors import RequestError

MEMORY_SHARE = 0.5  # of this machine's memory that both splits may take together
SAMPLED_IMAGES = 64  # images of a split whose sizes are read before anything is kept
EMPTY, KEPT = 0, 1


@dataclass(frozen=True, eq=False)
class MemoryCache(DatasetWrapper):
    """Another data set whose decoded images are kept. Images of another size than ``pixels`` are decoded each time."""

    keeps_files: ClassVar[bool] = False  # an image is read from memory, so its file is not
    pixels: np.ndarray  # uint8 [N, H, W] or [N, H, W, 3], shared between processes
    states: np.ndarray  # uint8 [N], EMPTY or KEPT, shared between processes

    @property
    def file_names(self) -> np.ndarray:
        """File names of a file data set, bytes [n]."""
        names: np.ndarray = self.dataset.file_names  # type: ignore[attr-defined]
        return names

    def image(self, index: int) -> Image.Image:
        """Return the image from memory, or decode and keep it. Raises BadImage each time for a bad one."""
        if self.states[index] == KEPT:
            return Image.fromarray(self.pixels[index])
        image = self.dataset.image(index)
        if image.size[::-1] == self.pixels.shape[1:3]:
            self.pixels[index] = np.asarray(image)
            self.states[index] = KEPT  # last: another process may look at it at any time
        return image


def cache_source(source: Source, workers: int | None, start_method: str | None) -> Source:
    """Keep the decoded images of both splits in memory; a split that is in memory already stays as it is.

    ``workers`` and ``start_method`` are those of the loading processes. Raises RequestError if the images do not have
    one size or do not fit into MEMORY_SHARE of the memory, or if loading processes could not share them.
    """
    splits = [split for split in (source.train, source.val) if not split.in_memory]
    method = start_method or multiprocessing.get_start_method()
    if splits and workers != 0 and method != "fork":
        raise RequestError(
            f"data.cache memory is shared with loading processes by fork, but their start method is {method}: set "
            "data.workers 0, or data.start_method fork"
        )
    shapes = [(len(split), *_find_image_shape(split)) for split in splits]
    needed = sum(map(math.prod, shapes))
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > MEMORY_SHARE * available:
        raise RequestError(
            f"data.cache memory would take {needed / 2**30:.1f} GiB for the decoded images, more than "
            f"{MEMORY_SHARE:.0%} of this machine's {available / 2**30:.1f} GiB: leave it out, or use fewer images "
            "(data.max_train_images)"
        )
    caches: dict[int, Dataset] = {
        id(split): MemoryCache(split, _allocate_shared(shape), _allocate_shared(shape[:1]))
        for split, shape in zip(splits, shapes, strict=True)
    }
    train, val = (caches.get(id(split), split) for split in (source.train, source.val))
    return replace(source, train=train, val=val)


def _allocate_shared(shape: tuple[int, ...]) -> np.ndarray:
    """Allocate zeros, uint8, that forked processes share. Memory is taken when it is first written."""
    memory = mmap.mmap(-1, math.prod(shape))  # not /dev/shm, which containers keep small
    return np.frombuffer(memory, np.uint8).reshape(shape)


def _find_image_shape(dataset: Dataset) -> tuple[int, ...]:
    """Return the shape that a sample of the images has: (H, W) or (H, W, 3). Raises RequestError if sizes differ."""
    sizes: dict[tuple[int, int], int] = {}
    for index in range(0, len(dataset), max(1, len(dataset) // SAMPLED_IMAGES)):
        with suppress(BadImageError):  # on_bad_image says later what happens
            sizes.setdefault(dataset.image(index).size, index)
    if not sizes:
        raise RequestError(f"data.cache memory: none of a sample of the images of {dataset.name} can be read")
    if len(sizes) > 1:
        (size, first), (other, second) = list(sizes.items())[:2]
        raise RequestError(
            f"data.cache memory keeps images of one size, but {dataset.image_path(first)} is {size[0]}x{size[1]} and "
            f"{dataset.image_path(second)} is {other[0]}x{other[1]}: leave it out"
        )
    ((width, height),) = sizes
    return (height, width, 3) if dataset.channels == 3 else (height, width)
