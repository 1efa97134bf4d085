"""Load batches of images with boxes, the same for any number of workers and after resuming.

As in ``data/loader.py``: the order of an epoch is a function of (seed, epoch), the augmentation of an image one of
(seed, epoch, index).
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from resnext.data.loader import check_batch_size, divide_among_ranks
from resnext.data.seeding import LEFT_OUT_KEY, ORDER_KEY, derive_seed
from resnext.data.workers import BatchReader, SampleKey, check_start_method, load_batches
from resnext.detection.data.augment import Augment
from resnext.detection.data.dataset import DetectionDataset
from resnext.detection.preprocessing import DetectPreprocessing

Transform = Callable[[Image.Image, Tensor], tuple[Tensor, Tensor]]  # of an image and its boxes


class DetectBatch(NamedTuple):
    """One rank's batch of one step."""

    images: list[Tensor]  # [3, H, W] each, as ``DetectPreprocessing.apply`` returns them
    boxes: list[Tensor]  # float32 [n, 4] in pixels of these images, without crowds
    labels: list[Tensor]  # int64 [n], into the data set's classes
    sizes: list[tuple[int, int]]  # height, width of the original images
    indices: list[int]  # into the data set
    bad_images: tuple[str, ...] = ()

    def pin_memory(self) -> "DetectBatch":
        """Copy the images to page-locked memory."""
        return self._replace(images=[image.pin_memory() for image in self.images])


class DetectLoader:
    """The training data loader, with a new order every epoch.

    ``batch_size`` counts the images of all ranks together; rank r takes the r-th contiguous part. Every batch is full:
    an epoch has N // batch_size steps, repeats no image and leaves out N % batch_size of them. The next epoch leaves
    out others, so any two consecutive epochs see every image, and all are left out equally often in the long run.
    With ``group``, the images of a batch are all wide or all tall, which need less padding, except in one last mixed
    batch. Raises RequestError for a batch size that does not fit the ranks or the data set.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        augment: Augment,
        *,
        seed: int,
        batch_size: int,
        group: bool,
        workers: int,
        start_method: str | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_start_method(start_method)
        check_batch_size(len(dataset), batch_size, world_size)
        self.dataset, self.seed, self.batch_size = dataset, seed, batch_size
        self.workers, self.start_method = workers, start_method
        self.rank, self.world_size = rank, world_size
        self.tall = dataset.sizes[:, 1] > dataset.sizes[:, 0] if group else np.zeros(len(dataset), dtype=bool)
        self.reader = _Reader(dataset, augment, seed)
        self.steps_per_epoch = len(dataset) // batch_size

    def order(self, epoch: int) -> list[np.ndarray]:
        """Compute the global batches of an epoch: indices int64 [batch_size] each."""
        left_out = self._choose_left_out(epoch)
        waiting: tuple[list[int], list[int]] = ([], [])
        batches = []
        for index in self._permute(epoch, ORDER_KEY).tolist():
            if index in left_out:
                continue
            kind = waiting[int(self.tall[index])]
            kind.append(index)
            if len(kind) == self.batch_size:
                batches.append(np.array(kind))
                kind.clear()
        mixed = [*waiting[0], *waiting[1]]  # one full batch or nothing, as the total is a multiple of the batch size
        return [*batches, np.array(mixed)] if mixed else batches

    def _choose_left_out(self, epoch: int) -> set[int]:
        """Choose the images to leave out: a window that moves each epoch along one fixed random circle of all images.

        A window has fewer than half of the images, so those of two consecutive epochs do not overlap.
        """
        count = len(self.dataset)
        size = count % self.batch_size
        circle = self._permute(0, LEFT_OUT_KEY)
        return set(circle[(epoch * size + np.arange(size)) % count].tolist())

    def _permute(self, epoch: int, purpose: int) -> np.ndarray:
        generator = np.random.Generator(np.random.PCG64(derive_seed(self.seed, epoch, purpose)))
        return generator.permutation(len(self.dataset))

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[DetectBatch]:
        """Load the epoch's batches from ``first_step`` on. Raises BadImage, and WorkError where a worker dies."""
        assert 0 <= first_step <= self.steps_per_epoch
        mine = slice(*divide_among_ranks(self.batch_size, self.rank, self.world_size))
        batches = self.order(epoch)[first_step:]
        keys: list[list[SampleKey]] = [[(epoch, int(i)) for i in batch[mine]] for batch in batches]
        return load_batches(self.reader, keys, self.workers, self.start_method)


def iterate_eval_batches(
    dataset: DetectionDataset,
    preprocessing: DetectPreprocessing,
    *,
    workers: int = 0,
    start_method: str | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[DetectBatch]:
    """Load every image once, in order, one per batch, so that its padding does not depend on other images.

    Rank r gets the r-th contiguous part of the data set. Raises BadImage for an image that cannot be used.
    """
    check_start_method(start_method)
    keys: list[list[SampleKey]] = [[(0, i)] for i in range(*divide_among_ranks(len(dataset), rank, world_size))]
    return load_batches(_Reader(dataset, partial(_prepare, preprocessing), None), keys, workers, start_method)


class _Reader(BatchReader[DetectBatch]):
    """Reads batches of images with boxes."""

    def __init__(self, dataset: DetectionDataset, transform: Transform, seed: int | None) -> None:
        super().__init__(dataset, seed)
        self.dataset, self.transform = dataset, transform

    def read_batch(self, keys: list[SampleKey]) -> DetectBatch:
        """Read a batch."""
        batch = DetectBatch([], [], [], [], [])
        for key in keys:
            index = key[1]
            image, found = self.dataset.load_image(index), self.dataset.get_boxes(index)
            self.seed_generator(key)
            view, boxes = self.transform(image, torch.from_numpy(found.boxes[~found.crowd]).float())
            batch.images.append(view)
            batch.boxes.append(boxes)
            batch.labels.append(torch.from_numpy(found.labels[~found.crowd]))
            batch.sizes.append((image.height, image.width))
            batch.indices.append(index)
        return batch


def _prepare(preprocessing: DetectPreprocessing, image: Image.Image, boxes: Tensor) -> tuple[Tensor, Tensor]:
    return preprocessing.apply(image), boxes
