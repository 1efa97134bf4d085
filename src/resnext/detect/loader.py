"""Batches of images with boxes, the same ones for any number of workers and any point of resuming.

As in ``data/loader.py``: the order of an epoch is a function of (seed, epoch), what happens to an image is one of
(seed, epoch, index).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from resnext.data.loader import check_start_method, run_batches
from resnext.data.randomness import LEFT_OUT, ORDER, seed_of
from resnext.data.source import BadImage
from resnext.detect.augment import Augment
from resnext.detect.dataset import DetectionDataset
from resnext.detect.preprocessing import DetectPreprocessing
from resnext.errors import RequestError, WorkError

Key = tuple[int, int]  # epoch, index


class DetectBatch(NamedTuple):
    """What one rank computes on in one step."""

    images: list[Tensor]  # [3, H, W] each, as ``DetectPreprocessing.view`` gives them
    boxes: list[Tensor]  # float32 [n, 4] in pixels of the images here; crowds are left out
    labels: list[Tensor]  # int64 [n], into the data set's classes
    sizes: list[tuple[int, int]]  # height, width of the pictures as they are stored
    indices: list[int]  # into the data set
    bad: tuple[str, ...] = ()

    def pin_memory(self) -> "DetectBatch":
        """The same batch in page-locked memory."""
        return self._replace(images=[image.pin_memory() for image in self.images])


class DetectLoader:
    """The batches of training: every epoch in its own order, every image with its own randomness.

    ``batch_size`` counts the images of all ranks together; rank r takes the r-th contiguous part. Every batch is full:
    an epoch has N // batch_size steps, sees no image twice and leaves out N % batch_size of them. Those are other
    ones in the next epoch, so that every image is seen at least once in any two epochs that follow each other, and in
    the long run all are left out equally often. With ``group``, the images of a batch are all wide or all tall, which
    need less padding, but for at most one mixed batch, the epoch's last. Raises RequestError for sizes that cannot be
    trained on.
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
        if batch_size % world_size:
            raise RequestError(
                f"train.batch_size {batch_size} does not divide into the {world_size} processes of this run"
            )
        if batch_size > len(dataset):
            raise RequestError(
                f"train.batch_size {batch_size} is larger than the training set of {len(dataset)} images"
            )
        self.dataset, self.seed, self.batch_size = dataset, seed, batch_size
        self.workers, self.start_method = workers, start_method
        self.rank, self.world_size = rank, world_size
        self.tall = dataset.sizes[:, 1] > dataset.sizes[:, 0] if group else np.zeros(len(dataset), dtype=bool)
        self.reader = _Reader(dataset, augment, None, seed)
        self.steps_per_epoch = len(dataset) // batch_size

    def order(self, epoch: int) -> list[np.ndarray]:
        """The global batches of an epoch: indices int64 [batch_size] each."""
        left_out = self._choose_left_out(epoch)
        waiting: tuple[list[int], list[int]] = ([], [])
        batches = []
        for index in self._permute(epoch, ORDER).tolist():
            if index in left_out:
                continue
            kind = waiting[int(self.tall[index])]
            kind.append(index)
            if len(kind) == self.batch_size:
                batches.append(np.array(kind))
                kind.clear()
        mixed = [*waiting[0], *waiting[1]]  # a whole batch or nothing, as the images that are left are whole batches
        return [*batches, np.array(mixed)] if mixed else batches

    def _choose_left_out(self, epoch: int) -> set[int]:
        """The images that fill no batch in this epoch: the epoch's window of one circle that is the same for all.

        They are fewer than half of the data set, so the windows of two epochs in a row do not meet.
        """
        count = len(self.dataset)
        size = count % self.batch_size
        circle = self._permute(0, LEFT_OUT)
        return set(circle[(epoch * size + np.arange(size)) % count].tolist())

    def _permute(self, epoch: int, purpose: int) -> np.ndarray:
        generator = np.random.Generator(np.random.PCG64(seed_of(self.seed, epoch, purpose)))
        return generator.permutation(len(self.dataset))

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[DetectBatch]:
        """The epoch's batches from ``first_step`` on. Raises BadImage, WorkError where a worker dies."""
        assert 0 <= first_step <= self.steps_per_epoch
        each = self.batch_size // self.world_size
        mine = slice(self.rank * each, (self.rank + 1) * each)
        keys = [[(epoch, int(i)) for i in batch[mine]] for batch in self.order(epoch)[first_step:]]
        return run_batches(self.reader, keys, self.workers, self.start_method)


def eval_batches(
    dataset: DetectionDataset,
    preprocessing: DetectPreprocessing,
    *,
    workers: int = 0,
    start_method: str | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[DetectBatch]:
    """Every image once, in order, one a batch: what an image is filled up to then depends on no other.

    Rank r has the r-th contiguous part of the data set. Raises BadImage for an image that cannot be used.
    """
    check_start_method(start_method)
    first, end = (len(dataset) * r // world_size for r in (rank, rank + 1))
    keys = [[(0, index)] for index in range(first, end)]
    return run_batches(_Reader(dataset, None, preprocessing, None), keys, workers, start_method)


class _Reader:
    """Turns keys into a batch, in whatever process it finds itself. ``seed`` None means nothing is random."""

    def __init__(
        self,
        dataset: DetectionDataset,
        augment: Augment | None,
        preprocessing: DetectPreprocessing | None,
        seed: int | None,
    ) -> None:
        self.dataset, self.augment, self.preprocessing, self.seed = dataset, augment, preprocessing, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, keys: list[Key]) -> DetectBatch | WorkError:
        """What goes wrong is returned, not raised: a DataLoader would wrap it in the worker's traceback."""
        state = torch.default_generator.get_state()
        batch = DetectBatch([], [], [], [], [])
        try:
            for key in keys:
                self._add(key, batch)
        except BadImage as error:
            return error
        finally:
            torch.default_generator.set_state(state)
        return batch

    def _add(self, key: Key, batch: DetectBatch) -> None:
        epoch, index = key
        picture, found = self.dataset.image(index), self.dataset.annotations(index)
        boxes = torch.from_numpy(found.boxes[~found.crowd]).float()
        if self.augment is not None:
            assert self.seed is not None
            torch.default_generator.manual_seed(seed_of(self.seed, epoch, index))
            view, boxes = self.augment(picture, boxes)
        else:
            assert self.preprocessing is not None
            view = self.preprocessing.view(picture)
        batch.images.append(view)
        batch.boxes.append(boxes)
        batch.labels.append(torch.from_numpy(found.labels[~found.crowd]))
        batch.sizes.append((picture.height, picture.width))
        batch.indices.append(index)
