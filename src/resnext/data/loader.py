"""The data loader: batches that do not depend on the number of workers, the start method or the step of resuming.

The order of an epoch is a function of (seed, epoch); the augmentation of an image is one of (seed, epoch, index).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import get_worker_info

from resnext.data.class_balance import BalancedSampler, number_visits
from resnext.data.dataset import BadImageError, Dataset, as_file_dataset
from resnext.data.preprocessing import check_choice
from resnext.data.seeding import ORDER_KEY, derive_seed
from resnext.data.transforms.from_jpeg import JpegTransform
from resnext.data.workers import BatchReader, SampleKey, check_start_method, load_batches
from resnext.environment import count_available_cores
from resnext.errors import RequestError
from resnext.settings import BadImagePolicy, Sampling

Transform = Callable[[Image.Image], Tensor]
MAX_DEFAULT_WORKERS = 8


class Batch(NamedTuple):
    """The batch of one rank in one step. Skipped images are absent; ``bad_images`` has their error messages."""

    images: Tensor  # [B, C, S, S], uint8, or float32 where the transform gives that; [0, C, 0, 0] when all were skipped
    labels: Tensor  # int64 [B]
    indices: Tensor  # int64 [B], into the data set
    bad_images: tuple[str, ...] = ()

    def pin_memory(self) -> "Batch":
        """Return the same batch in page-locked memory, so that copies to a GPU can be asynchronous."""
        return self._replace(images=self.images.pin_memory(), labels=self.labels.pin_memory())


class TrainLoader:
    """Training batches: each epoch has its own order, and each image its own random augmentation.

    ``batch_size`` is the global batch over all ranks. Rank r takes the r-th contiguous part of each global batch, so
    the order does not depend on ``world_size``. Without ``drop_last`` the last batch may be smaller, and the parts of
    the ranks may differ by one image.

    ``repeats`` above 1 is repeated augmentation (Hoffer et al. 2019; Berman et al. 2019). An epoch visits the first
    ceil(N / repeats) images of its order ``repeats`` times each, cut to N visits in all. All visits of an image are in
    one global batch (or in two, at its edges), first visits before second ones. So with ``repeats`` ranks, or a
    multiple, each rank sees an image once, as with torchvision's RASampler, and the order does not depend on the
    number of ranks.

    With ``sampling`` balanced the order has all classes equally often instead of all images once: ``BalancedSampler``.
    Later visits of an image get other augmentation.

    Raises RequestError for a batch size that cannot be trained with, and for an unknown policy or start method.
    """

    def __init__(
        self,
        dataset: Dataset,
        transform: Transform,
        *,
        seed: int,
        batch_size: int,
        drop_last: bool,
        workers: int,
        start_method: str | None = None,
        on_bad_image: BadImagePolicy = "error",
        repeats: int = 1,
        sampling: Sampling = "uniform",
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        assert workers >= 0
        assert repeats >= 1
        check_choice("on_bad_image", on_bad_image, get_args(BadImagePolicy))
        check_start_method(start_method)
        check_batch_size(len(dataset), batch_size, world_size)
        _check_batch_norm(len(dataset), batch_size, drop_last, world_size)
        self.dataset, self.seed, self.batch_size = dataset, seed, batch_size
        self.transform = transform
        self.workers, self.start_method, self.repeats = workers, start_method, repeats
        self.rank, self.world_size = rank, world_size
        self.steps_per_epoch = len(dataset) // batch_size if drop_last else -(-len(dataset) // batch_size)
        self._sampler = BalancedSampler(dataset.labels, seed) if sampling == "balanced" else None
        self._reader = _BatchReader(dataset, transform, seed, skip=on_bad_image == "skip")

    def order(self, epoch: int) -> np.ndarray:
        """Return the data set's indices in the order of this epoch, int64 [N]."""
        return self._visit_order(epoch)[0]

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Iterate over the epoch's batches from ``first_step`` on; they equal those of a whole epoch at these steps.

        Closing or dropping the iterator stops its workers. Raises BadImage for an image that cannot be used if
        ``on_bad_image`` is error, and WorkError if a worker dies.
        """
        assert 0 <= first_step <= self.steps_per_epoch
        cuts = [self._rank_slice(step) for step in range(first_step, self.steps_per_epoch)]
        keys = _BatchKeys(epoch, *self._visit_order(epoch), cuts)
        return load_batches(self._reader, keys, self.workers, self.start_method)

    def _visit_order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return image index and visit number (0 is the first) of each visit of the epoch, both int64 [N]."""
        count = len(self.dataset)
        generator = np.random.Generator(np.random.PCG64(derive_seed(self.seed, epoch, ORDER_KEY)))
        if self._sampler is None:
            order = generator.permutation(count)
            number = np.zeros_like(order)
        else:
            order = generator.permutation(self._sampler.draw(epoch, -(-count // self.repeats)))
            number = number_visits(order)
        if self.repeats == 1:
            return order, number
        visits = np.arange(count)
        drawn, repeat = visits // self.repeats, visits % self.repeats
        within = np.lexsort((repeat, visits // self.batch_size))  # stable: sorts each global batch by repeat
        return order[drawn][within], (number[drawn] * self.repeats + repeat)[within]

    def _rank_slice(self, step: int) -> tuple[int, int]:
        """Return start and end, in the epoch's order, of this rank's part of a global batch."""
        start = step * self.batch_size
        length = min(self.batch_size, len(self.dataset) - start)
        first, end = divide_among_ranks(length, self.rank, self.world_size)
        return start + first, start + end


def iterate_eval_batches(
    dataset: Dataset,
    transform: Transform,
    *,
    batch_size: int,
    workers: int = 0,
    start_method: str | None = None,
    on_bad_image: BadImagePolicy = "error",
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """Iterate over every image once, in order. Rank r gets the r-th contiguous part of the data set, without padding.

    Raises BadImageError for an image that cannot be used, unless ``on_bad_image`` is skip.
    """
    assert batch_size >= 1
    assert workers >= 0
    check_start_method(start_method)
    first, end = divide_among_ranks(len(dataset), rank, world_size)
    cuts = [(start, min(start + batch_size, end)) for start in range(first, end, batch_size)]
    keys = _BatchKeys(0, np.arange(len(dataset)), np.zeros(len(dataset), np.int64), cuts)
    return load_batches(
        _BatchReader(dataset, transform, None, skip=on_bad_image == "skip"), keys, workers, start_method
    )


def default_workers(dataset: Dataset) -> int:
    """Return the default number of workers: 0 for a data set in memory, else ``default_file_workers``."""
    return 0 if dataset.in_memory else default_file_workers()


def default_file_workers() -> int:
    """Return one worker for each core this process may use, at most MAX_DEFAULT_WORKERS."""
    return min(MAX_DEFAULT_WORKERS, count_available_cores())


def divide_among_ranks(count: int, rank: int, world_size: int) -> tuple[int, int]:
    """Return start and end of the contiguous part of ``count`` images that is rank ``rank``'s."""
    first, end = (count * r // world_size for r in (rank, rank + 1))
    return first, end


class _BatchReader(BatchReader[Batch]):
    """Reads batches of images with labels. With ``skip``, images that cannot be decoded are left out."""

    def __init__(self, dataset: Dataset, transform: Transform, seed: int | None, skip: bool) -> None:
        super().__init__(dataset, seed)
        self.dataset, self.transform, self.skip = dataset, transform, skip

    def read_batch(self, keys: list[SampleKey]) -> Batch:
        """Read a batch. Only images that cannot be decoded are skipped, never images that could not be fetched."""
        images = _BatchBuffer(len(keys))
        indices: list[int] = []
        bad: list[str] = []
        for key in keys:
            try:
                self._read_image(key, images)
            except BadImageError as error:
                if not self.skip:
                    raise
                bad.append(str(error))
                continue
            indices.append(key[1])
        labels = torch.from_numpy(np.asarray(self.dataset.labels[np.array(indices, np.int64)], np.int64))
        empty = torch.empty((0, self.dataset.channels, 0, 0), dtype=torch.uint8)
        stacked = images.tensor[: images.count] if images.count and images.tensor is not None else empty
        return Batch(stacked, labels, torch.tensor(indices, dtype=torch.int64), tuple(bad))

    def _read_image(self, key: SampleKey, images: "_BatchBuffer") -> None:
        """Add the image of ``key``. JPEG files are decoded by the transform itself if it can; else Pillow decodes."""
        index, transform = key[1], self.transform
        if isinstance(transform, JpegTransform) and (files := as_file_dataset(self.dataset)) is not None:
            file = files.read_bytes(index)
            self.seed_generator(key)
            if transform.decode_into(file, images.next_slot((3, transform.size, transform.size), transform.dtype)):
                images.count += 1
                return
            image = files.decode_bytes(file, index)
        else:
            image = self.dataset.image(index)
        self.seed_generator(key)
        images.add(transform(image))


class _BatchBuffer:
    """Buffer for the images of a batch. In a worker it is shared memory, so no image is copied twice."""

    def __init__(self, most: int) -> None:
        self.capacity, self.count = most, 0
        self.tensor: Tensor | None = None

    def next_slot(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return the buffer's slot for the next image."""
        if self.tensor is None:
            self.tensor = torch.empty(0, dtype=dtype)
            if get_worker_info() is not None:
                bytes_needed = self.capacity * math.prod(shape) * self.tensor.element_size()
                self.tensor = torch.empty(0, dtype=dtype).set_(torch.UntypedStorage._new_shared(bytes_needed))
            self.tensor = self.tensor.resize_(self.capacity, *shape)
        return self.tensor[self.count]

    def add(self, image: Tensor) -> None:
        """Copy ``image`` into the next slot. All images must have the same shape and dtype."""
        place = self.next_slot(tuple(image.shape), image.dtype)
        assert (place.shape, place.dtype) == (image.shape, image.dtype)
        place.copy_(image)
        self.count += 1


@dataclass(frozen=True)
class _BatchKeys:
    """Iterable over the keys of each batch. A list of all keys would take gigabytes for ImageNet-5K."""

    epoch: int
    order: np.ndarray
    visit_numbers: np.ndarray  # visit number of each entry of ``order``
    slices: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.slices)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for start, end in self.slices:
            visits = zip(self.order[start:end].tolist(), self.visit_numbers[start:end].tolist(), strict=True)
            yield [(self.epoch, index, number) if number else (self.epoch, index) for index, number in visits]


def check_batch_size(count: int, batch_size: int, world_size: int) -> None:
    """Raise RequestError for a global batch that ``world_size`` processes cannot share or that has too many images."""
    if batch_size % world_size:
        raise RequestError(f"batch_size {batch_size} is not a multiple of the {world_size} processes of this run")
    if batch_size > count:
        too_large = f"batch_size {batch_size} is larger than the training set of {count} images"
        raise RequestError(f"{too_large}: train.batch_size can be {count} at most")


def _check_batch_norm(count: int, batch_size: int, drop_last: bool, world_size: int) -> None:
    """Raise RequestError for a batch size with which a process would get fewer than two images in a step."""
    if batch_size // world_size < 2:
        raise RequestError(
            f"batch_size {batch_size} leaves each of {world_size} processes one image; batch norm needs at least two"
        )
    last = count % batch_size
    if not drop_last and 0 < last < 2 * world_size:
        raise RequestError(
            f"the last batch of an epoch would have {last} of {count} images for {world_size} "
            f"process{'es' if world_size > 1 else ''}, and batch norm needs two each; set drop_last or change "
            f"batch_size {batch_size}"
        )
