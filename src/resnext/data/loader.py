"""Batches, the same ones for any number of workers, any start method and any point of resuming.

The order of an epoch is a function of (seed, epoch), and what happens to an image is one of (seed, epoch, index).
Workers only change who does the work.
"""

import atexit
import math
import multiprocessing
import re
import signal
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from resnext.data.fast import FastTransform
from resnext.data.randomness import ORDER, seed_of
from resnext.data.source import BadImage, Dataset, files_of
from resnext.environment import available_cores
from resnext.errors import RequestError, WorkError, nearest
from resnext.signals import INTERRUPTS, NOTICES

Transform = Callable[[Image.Image], Tensor]
Key = tuple[int, ...]  # (epoch, index), and of a repeated image's later visits their number
POLICIES = ("error", "skip")
MOST_WORKERS = 8  # by default
DEATH = re.compile(r"DataLoader worker \(pid")  # how torch says that a worker was killed
DEATH_MEANS = "a loading process died, mostly for lack of memory; try fewer data.workers (0 loads in the main process)"


class Batch(NamedTuple):
    """What one rank computes on in one step. Skipped images are missing, and named in ``bad``."""

    images: Tensor  # [B, C, S, S], uint8, or float32 where the transform gives that; [0, C, 0, 0] when all were skipped
    labels: Tensor  # int64 [B]
    indices: Tensor  # int64 [B], into the data set
    bad: tuple[str, ...] = ()

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory, from which copies to a GPU need not be waited for."""
        return self._replace(images=self.images.pin_memory(), labels=self.labels.pin_memory())


class TrainLoader:
    """The batches of training: every epoch in its own order, every image with its own randomness.

    ``batch_size`` counts the images of all ranks together; rank r takes the r-th contiguous part of each global
    batch, so the order does not depend on ``world_size``. Without ``drop_last`` the last batch may be smaller, and
    then the parts of the ranks may differ by one image. Raises RequestError for sizes that cannot be trained on.

    ``repeats`` above 1 is repeated augmentation (Hoffer et al. 2019; Berman et al. 2019): an epoch visits the first
    ceil(N / repeats) images of its order so many times each, cut to N visits in all. The visits of an image fall into
    one global batch (or two, at its edges), first visits before second ones: so ``repeats`` processes, or a multiple,
    see an image once each, as with torchvision's RASampler, and yet the order does not depend on how many they are.
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
        on_bad_image: str = "error",
        repeats: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        assert 0 <= rank < world_size
        assert workers >= 0
        assert repeats >= 1
        if on_bad_image not in POLICIES:
            raise RequestError(f"on_bad_image {on_bad_image!r} is unknown{nearest(on_bad_image, POLICIES)}")
        check_start_method(start_method)
        _check_batches(len(dataset), batch_size, drop_last, world_size)
        self.dataset, self.seed, self.batch_size = dataset, seed, batch_size
        self.transform = transform
        self.workers, self.start_method, self.repeats = workers, start_method, repeats
        self.rank, self.world_size = rank, world_size
        self.steps_per_epoch = len(dataset) // batch_size if drop_last else -(-len(dataset) // batch_size)
        self._reader = _Reader(dataset, transform, seed, skip=on_bad_image == "skip")

    def order(self, epoch: int) -> np.ndarray:
        """The indices of the data set as this epoch visits them: int64 [N]."""
        return self._visits(epoch)[0]

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The epoch's batches from ``first_step`` on, exactly those that a whole epoch has there.

        Raises BadImage where an image cannot be used and the policy is error, WorkError where a worker dies. Closing
        the iterator, or dropping it, ends its workers.
        """
        assert 0 <= first_step <= self.steps_per_epoch
        cuts = [self._part(step) for step in range(first_step, self.steps_per_epoch)]
        keys = _Keys(epoch, *self._visits(epoch), cuts)
        return run_batches(self._reader, keys, self.workers, self.start_method)

    def _visits(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Index and number (0 is the first) of each of the epoch's visits: int64 [N] both."""
        count = len(self.dataset)
        generator = np.random.Generator(np.random.PCG64(seed_of(self.seed, epoch, ORDER)))
        order = generator.permutation(count)
        if self.repeats == 1:
            return order, np.zeros_like(order)
        visits = np.arange(count)
        order, number = order[visits // self.repeats], visits % self.repeats
        within = np.lexsort((number, visits // self.batch_size))  # stable: each global batch by number
        return order[within], number[within]

    def _part(self, step: int) -> tuple[int, int]:
        """Where this rank's part of a global batch begins and ends in the order."""
        start = step * self.batch_size
        length = min(self.batch_size, len(self.dataset) - start)
        first, end = (start + length * r // self.world_size for r in (self.rank, self.rank + 1))
        return first, end


def eval_batches(
    dataset: Dataset,
    transform: Transform,
    *,
    batch_size: int,
    workers: int = 0,
    start_method: str | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """Every image once, in order: rank r has the r-th contiguous, unpadded part of the data set.

    Raises BadImage for an image that cannot be used: evaluation skips nothing.
    """
    assert 0 <= rank < world_size
    assert batch_size >= 1
    assert workers >= 0
    check_start_method(start_method)
    first, end = (len(dataset) * r // world_size for r in (rank, rank + 1))
    cuts = [(start, min(start + batch_size, end)) for start in range(first, end, batch_size)]
    keys = _Keys(0, np.arange(len(dataset)), np.zeros(len(dataset), np.int64), cuts)
    return run_batches(_Reader(dataset, transform, None, skip=False), keys, workers, start_method)


def default_workers(dataset: Dataset) -> int:
    """0 for a data set in memory, else one a core this process may use, at most 8."""
    return 0 if dataset.in_memory else workers_for_files()


def workers_for_files() -> int:
    """One a core this process may use, at most 8."""
    return min(MOST_WORKERS, available_cores())


@dataclass(frozen=True)
class _Reader:
    """Turns keys into a batch, in whatever process it finds itself. ``seed`` None means nothing is random."""

    dataset: Dataset
    transform: Transform
    seed: int | None
    skip: bool

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, keys: list[Key]) -> Batch | WorkError:
        """What goes wrong is returned, not raised: a DataLoader would wrap it in the worker's traceback.

        Only an image that cannot be used is ever skipped, never one that could not be fetched.
        """
        generator = torch.default_generator
        state = generator.get_state()
        images = _Stack(len(keys))
        indices, bad = [], []
        try:
            for key in keys:
                try:
                    self._read(key, images)
                except WorkError as error:
                    if not self.skip or not isinstance(error, BadImage):
                        return error
                    bad.append(str(error))
                    continue
                indices.append(key[1])
        finally:
            generator.set_state(state)
        return self._batch(images, indices, tuple(bad))

    def _read(self, key: Key, images: "_Stack") -> None:
        """Adds the image of ``key``: from its file where transform and data set know how, else as a picture."""
        index = key[1]
        files = files_of(self.dataset) if isinstance(self.transform, FastTransform) else None
        if files is None or not isinstance(self.transform, FastTransform):
            image = self.dataset.image(index)
            self._seed(key)
            images.add(self.transform(image))
            return
        file, size = files.encoded(index), self.transform.size
        self._seed(key)
        if self.transform.draw(file, images.room((3, size, size), self.transform.dtype)):
            images.count += 1
            return
        image = files.decoded(file, index)
        self._seed(key)
        images.add(self.transform(image))

    def _seed(self, key: Key) -> None:
        if self.seed is not None:
            torch.default_generator.manual_seed(seed_of(self.seed, *key))

    def _batch(self, images: "_Stack", indices: list[int], bad: tuple[str, ...]) -> Batch:
        empty = torch.empty((0, self.dataset.channels, 0, 0), dtype=torch.uint8)
        labels = torch.from_numpy(np.asarray(self.dataset.labels[np.array(indices, dtype=np.int64)], dtype=np.int64))
        stacked = images.tensor[: images.count] if images.count and images.tensor is not None else empty
        return Batch(stacked, labels, torch.tensor(indices, dtype=torch.int64), bad)


class _Stack:
    """The images of a batch, each written once to where it stays: in a worker, memory that the main process sees."""

    def __init__(self, most: int) -> None:
        self.most, self.count = most, 0
        self.tensor: Tensor | None = None

    def room(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """The place of the next image."""
        if self.tensor is None:
            self.tensor = torch.empty(0, dtype=dtype)
            if get_worker_info() is not None:
                bytes_needed = self.most * math.prod(shape) * self.tensor.element_size()
                self.tensor = torch.empty(0, dtype=dtype).set_(torch.UntypedStorage._new_shared(bytes_needed))
            self.tensor = self.tensor.resize_(self.most, *shape)
        return self.tensor[self.count]

    def add(self, image: Tensor) -> None:
        """A copy of ``image``; all must be alike."""
        place = self.room(tuple(image.shape), image.dtype)
        assert (place.shape, place.dtype) == (image.shape, image.dtype)
        place.copy_(image)
        self.count += 1


@dataclass(frozen=True)
class _Keys:
    """The keys of each batch in turn; a list of them all would take gigabytes for ImageNet-5K."""

    epoch: int
    order: np.ndarray
    numbers: np.ndarray  # of each visit of a repeated image
    cuts: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.cuts)

    def __iter__(self) -> Iterator[list[Key]]:
        for start, end in self.cuts:
            visits = zip(self.order[start:end].tolist(), self.numbers[start:end].tolist(), strict=True)
            yield [(self.epoch, index, number) if number else (self.epoch, index) for index, number in visits]


def run_batches(reader: Any, keys: Any, workers: int, start_method: str | None) -> Iterator[Any]:
    """The batches that ``reader.__getitems__`` makes of each item of ``keys``, in order.

    They are read here, or by workers that live as long as this iterator. Raises the WorkError that a batch may be.
    """
    workers = min(workers, len(keys))
    if workers:
        yield from _run_workers(reader, keys, workers, start_method)
        return
    pin = torch.cuda.is_available()
    for batch_keys in keys:
        batch = _or_raise(reader.__getitems__(batch_keys))
        yield batch.pin_memory() if pin else batch


def _run_workers(reader: Any, keys: Any, workers: int, start_method: str | None) -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")  # the user said how many
        loader: DataLoader[Any] = DataLoader(
            cast(Any, reader),  # all a DataLoader asks for is __len__ and __getitems__
            batch_sampler=keys,
            num_workers=workers,
            collate_fn=_as_it_is,
            worker_init_fn=_leave_signals,
            multiprocessing_context=start_method,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else it would draw from the global one, and only with workers
        )
        batches = iter(loader)
    end = partial(_end_workers, batches)
    atexit.register(end)  # for an iterator still open at exit: Python would wait for its workers for ever
    unregister = atexit.unregister  # which at exit may go before this iterator does
    try:
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                if DEATH.search(str(error)):
                    raise WorkError(f"{DEATH_MEANS}: {error}") from error
                raise
            yield _or_raise(batch)
    finally:
        unregister(end)
        end()


def _or_raise(batch: Any) -> Any:
    if isinstance(batch, WorkError):
        raise batch
    return batch


def _end_workers(batches: Any) -> None:
    """Ends the workers now rather than when Python finds time; one that hangs in a read is killed."""
    processes = list(getattr(batches, "_workers", ()))
    shutdown = getattr(batches, "_shutdown_workers", None)
    if shutdown is not None:
        shutdown()
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()


def _as_it_is(batch: Any) -> Any:
    return batch


def _leave_signals(worker: int) -> None:  # noqa: ARG001 - what a DataLoader calls it with
    """What asks to stop reaches the whole process group; the main process answers, and still gets its batches."""
    for name in (*INTERRUPTS, *NOTICES):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def check_start_method(start_method: str | None) -> None:
    methods = multiprocessing.get_all_start_methods()
    if start_method is not None and start_method not in methods:
        raise RequestError(
            f"start_method {start_method!r} is not one of this machine's{nearest(start_method, methods)}"
        )


def _check_batches(count: int, batch_size: int, drop_last: bool, world_size: int) -> None:
    """Sizes that cannot be trained on, in the user's terms. Raises RequestError."""
    if batch_size % world_size:
        raise RequestError(f"batch_size {batch_size} does not divide into the {world_size} processes of this run")
    if batch_size // world_size < 2:
        raise RequestError(
            f"batch_size {batch_size} leaves each of {world_size} processes one image, which batch norm cannot train on"
        )
    if batch_size > count:
        raise RequestError(f"batch_size {batch_size} is larger than the training set of {count} images")
    last = count % batch_size
    if not drop_last and 0 < last < 2 * world_size:
        raise RequestError(
            f"the last batch of an epoch would have {last} of {count} images for {world_size} "
            f"process{'es' if world_size > 1 else ''}, and batch norm needs two each; set drop_last or choose another "
            f"batch_size than {batch_size}"
        )
