"""Read batches in this process or in worker processes; the batches do not depend on which."""

import atexit
import multiprocessing
import multiprocessing.connection
import re
import signal
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sized
from functools import partial
from typing import Any, Generic, Protocol, Self, TypeVar, cast

import torch
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from resnext.data.seeding import derive_seed
from resnext.errors import RequestError, WorkError, did_you_mean
from resnext.signals import INTERRUPTS, NOTICES

SampleKey = tuple[int, ...]  # (epoch, index), or (epoch, index, visit) for later visits of a repeated image
WORKER_KILLED_PATTERN = re.compile(r"DataLoader worker \(pid")  # torch's message for a killed worker
WORKER_KILLED_MESSAGE = (
    "a loading process died, usually for lack of memory; try fewer data.workers (0 loads in the main process)"
)


class PinnableBatch(Protocol):
    """A batch that can be copied to page-locked memory, so that copies to a GPU can be asynchronous."""

    def pin_memory(self) -> Self:
        """Return the same batch in page-locked memory."""


class BatchKeys(Protocol):
    """The keys of each batch, in order."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[list[SampleKey]]: ...


BatchT = TypeVar("BatchT", bound=PinnableBatch)


class BatchReader(ABC, Generic[BatchT]):
    """Reads the images of a list of keys into a batch, in any process. Without ``seed`` nothing is random."""

    def __init__(self, dataset: Sized, seed: int | None) -> None:
        self.size, self.seed = len(dataset), seed

    def __len__(self) -> int:
        return self.size

    def __getitems__(self, keys: list[SampleKey]) -> BatchT | WorkError:
        """Read a batch. Errors are returned, not raised: a DataLoader would wrap them in the worker's traceback."""
        with torch.random.fork_rng(devices=[], device_type="cpu"):
            try:
                return self.read_batch(keys)
            except WorkError as error:
                return error

    @abstractmethod
    def read_batch(self, keys: list[SampleKey]) -> BatchT:
        """Read a batch. May change torch's default generator; raises WorkError for an image that cannot be used."""

    def seed_generator(self, key: SampleKey) -> None:
        """Seed torch's default generator for the augmentation of one image."""
        if self.seed is not None:
            torch.default_generator.manual_seed(derive_seed(self.seed, *key))


def load_batches(
    reader: BatchReader[BatchT], keys: BatchKeys, workers: int, start_method: str | None
) -> Iterator[BatchT]:
    """Iterate over the batches that ``reader.__getitems__`` makes of each item of ``keys``, in order.

    They are read in this process, or by ``workers`` processes that live as long as this iterator. Raises the WorkError
    that the reader returns instead of a batch.
    """
    workers = min(workers, len(keys))
    if workers:
        yield from _load_batches_in_workers(reader, keys, workers, start_method)
        return
    pin = torch.cuda.is_available()
    for batch_keys in keys:
        batch = _raise_if_error(reader.__getitems__(batch_keys))
        yield batch.pin_memory() if pin else batch


def _load_batches_in_workers(
    reader: BatchReader[BatchT], keys: BatchKeys, workers: int, start_method: str | None
) -> Iterator[BatchT]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This DataLoader will create")  # the user chose the number
        loader: DataLoader[Any] = DataLoader(
            cast(Any, reader),  # a DataLoader only needs __len__ and __getitems__
            batch_sampler=cast(Any, keys),
            num_workers=workers,
            collate_fn=_return_unchanged,
            worker_init_fn=_ignore_stop_signals,
            multiprocessing_context=start_method,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # otherwise it draws from the global generator, and only with workers
        )
        batches: Any = iter(loader)
    # Without this, torch raises an error about a worker that dies in whatever line the main process is just then.
    signal_handling._remove_worker_pids(id(batches))
    batches._worker_pids_set = False
    end = partial(_stop_workers, batches)
    atexit.register(end)  # for an iterator still open at exit: Python would wait for its workers forever
    unregister = atexit.unregister  # kept here: at exit the module may be cleared before this iterator
    try:
        while True:
            try:
                batch = _read_next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                if WORKER_KILLED_PATTERN.search(str(error)):
                    raise WorkError(f"{WORKER_KILLED_MESSAGE}: {error}") from error
                raise
            yield _raise_if_error(batch)
    finally:
        unregister(end)
        end()


def _read_next(batches: Any) -> Any:
    try:
        return next(batches)
    except (ConnectionError, EOFError) as error:  # perhaps a batch of a worker that died before it was handed over
        if multiprocessing.connection.wait([process.sentinel for process in batches._workers], timeout=5):
            raise WorkError(WORKER_KILLED_MESSAGE) from error
        raise


def _raise_if_error(batch: BatchT | WorkError) -> BatchT:
    if isinstance(batch, WorkError):
        raise batch
    return batch


def _stop_workers(batches: Any) -> None:
    """Stop the workers now, not at garbage collection. A worker that hangs in a read is killed."""
    processes = list(batches._workers)
    batches._shutdown_workers()
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()


def _return_unchanged(batch: Any) -> Any:
    return batch


def _ignore_stop_signals(worker: int) -> None:  # noqa: ARG001 - the signature a DataLoader requires
    """Ignore stop signals in a worker. They reach the whole process group; only the main process handles them."""
    for name in (*INTERRUPTS, *NOTICES):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def check_start_method(start_method: str | None) -> None:
    """Raise RequestError for a multiprocessing start method that this machine does not have."""
    methods = multiprocessing.get_all_start_methods()
    if start_method is not None and start_method not in methods:
        raise RequestError(
            f"start_method {start_method!r} is not available on this machine{did_you_mean(start_method, methods)}"
        )
