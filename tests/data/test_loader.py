"""Batches are the same for any number of workers, start method, world size and step of resuming."""

import gc
import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import chisquare
from torch import Tensor

from resnext.data.dataset import ArrayDataset, BadImageError, Subset
from resnext.data.loader import Batch, TrainLoader, default_workers, iterate_eval_batches
from resnext.data.preprocessing import Preprocessing
from resnext.data.transforms.crops import to_tensor
from resnext.data.transforms.pipeline import build_eval_transform, build_train_transform
from resnext.errors import RequestError
from resnext.settings import AugmentSettings

P = Preprocessing(image_size=8, resize=8, mean=(0.5,), std=(0.25,), channels=1)
AUGMENT = build_train_transform(AugmentSettings(crop="pad", pad=2, flip=0.5), P)
VIEW = build_eval_transform(P)


def toy(n: int = 24) -> ArrayDataset:
    images = np.random.default_rng(0).integers(0, 256, (n, 8, 8), dtype=np.uint8)
    images[:, 0, 0] = np.arange(n) % 256  # an image's first pixel is its index
    return ArrayDataset("toy train", ("a", "b", "c"), 1, images, (np.arange(n) % 3).astype(np.int64))


@dataclass(frozen=True)
class Broken:
    """A toy data set some of whose images cannot be read."""

    data: ArrayDataset
    broken: tuple[int, ...]
    channels: int = 1
    in_memory: bool = False

    @property
    def labels(self) -> np.ndarray:
        return self.data.labels

    def __len__(self) -> int:
        return len(self.data)

    def image(self, index: int) -> Image.Image:
        if index in self.broken:
            raise BadImageError(f"cats/{index}.jpg", "it ends early")
        return self.data.image(index)


class DrawNumbers:
    """A transform that shows how many threads it has and what the generator gives."""

    def __call__(self, image: Image.Image) -> Tensor:  # noqa: ARG002 - what a transform is given
        return torch.cat([torch.rand(3), torch.tensor([float(torch.get_num_threads())])])


class DieAt:
    """A transform that kills its own process at one image."""

    def __init__(self, pixel: int) -> None:
        self.pixel, self.parent = pixel, os.getpid()

    def __call__(self, image: Image.Image) -> Tensor:
        view = to_tensor(image)
        if view[0, 0, 0] == self.pixel and os.getpid() != self.parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return view


class FailAt(DieAt):
    """A transform with a mistake of its own."""

    def __call__(self, image: Image.Image) -> Tensor:
        if image.getpixel((0, 0)) == self.pixel:
            raise IndexError("a mistake of the programmer")
        return to_tensor(image)


def loader(dataset: Any = None, transform: Any = AUGMENT, **changes: Any) -> TrainLoader:
    said: dict[str, Any] = {"seed": 3, "batch_size": 6, "drop_last": True, "workers": 0}
    return TrainLoader(toy() if dataset is None else dataset, transform, **(said | changes))


def same(one: Iterator[Batch], other: Iterator[Batch]) -> bool:
    pairs = list(zip(one, other, strict=True))
    assert pairs
    return all(
        all(torch.equal(a[i], b[i]) and a[i].dtype == b[i].dtype for i in range(3)) and a.bad_images == b.bad_images
        for a, b in pairs
    )


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    gc.collect()
    assert multiprocessing.active_children() == []


# ---- what a batch is


def test_an_epoch_shows_every_image_once_with_its_label() -> None:
    data = toy()
    batches = list(loader(data, to_tensor).batches(0))
    indices = torch.cat([b.indices for b in batches])
    assert sorted(indices.tolist()) == list(range(24))
    assert indices.tolist() != list(range(24))
    for b in batches:
        assert b.images.dtype == torch.uint8
        assert b.images.shape == (6, 1, 8, 8)
        assert b.labels.dtype == b.indices.dtype == torch.int64
        assert torch.equal(b.images[:, 0], torch.from_numpy(data.images[b.indices.numpy()]))
        assert b.labels.tolist() == data.labels[b.indices.numpy()].tolist()
        assert b.bad_images == ()


def test_epochs_and_seeds_differ_in_order_and_in_augmentation() -> None:
    first, second = list(loader().batches(0)), list(loader().batches(1))
    assert not torch.equal(first[0].indices, second[0].indices)
    assert not torch.equal(first[0].indices, next(loader(seed=4).batches(0)).indices)
    by_index = [
        dict(zip(torch.cat([b.indices for b in run]).tolist(), torch.cat([b.images for b in run]), strict=True))
        for run in (first, second)
    ]
    assert sum(not torch.equal(by_index[0][i], by_index[1][i]) for i in range(24)) > 12


def test_orders_are_uniform_over_all_permutations() -> None:
    orders = [tuple(loader(toy(4), batch_size=2).order(epoch).tolist()) for epoch in range(2400)]
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 24
    assert chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(
    ("count", "drop_last", "sizes"), [(24, True, [6] * 4), (27, True, [6] * 4), (27, False, [6] * 4 + [3])]
)
def test_the_last_smaller_batch_is_kept_or_dropped(count: int, drop_last: bool, sizes: list[int]) -> None:
    train = loader(toy(count), drop_last=drop_last)
    assert [len(b.labels) for b in train.batches(0)] == sizes
    assert train.steps_per_epoch == len(sizes)


# ---- the same stream


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("workers", "start_method"), [(1, None), (4, None), (2, "spawn")])
def test_the_stream_is_the_same_for_any_number_of_workers(workers: int, start_method: str | None) -> None:
    if start_method not in (None, *multiprocessing.get_all_start_methods()):
        pytest.skip(f"no {start_method} here")
    assert same(loader().batches(2), loader(workers=workers, start_method=start_method).batches(2))


@pytest.mark.parametrize("repeats", [1, 4])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_entered_midway_is_exact(workers: int, repeats: int) -> None:
    train, later = (loader(toy(27), drop_last=False, repeats=repeats, workers=n) for n in (0, workers))
    whole = list(train.batches(5))
    for step in range(5):
        assert same(iter(whole[step:]), later.batches(5, step))
    assert list(loader(workers=workers).batches(5, 4)) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_the_callers_generator_is_left_as_it_was(workers: int) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    list(loader(workers=workers).batches(0))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)  # and what it was does not matter
    assert same(loader(workers=workers).batches(0), loader().batches(0))


def test_an_image_draws_the_same_whatever_else_is_in_the_batch() -> None:
    def draws(batch_size: int, workers: int) -> dict[int, list[float]]:
        run = list(loader(transform=DrawNumbers(), batch_size=batch_size, workers=workers).batches(0))
        numbers = torch.cat([b.images[:, :3] for b in run])
        return dict(zip(torch.cat([b.indices for b in run]).tolist(), numbers.tolist(), strict=True))

    assert draws(6, 0) == draws(4, 2) == draws(24, 0)
    assert len({tuple(v) for v in draws(6, 0).values()}) == 24


def test_workers_compute_with_one_thread() -> None:
    for batch in loader(transform=DrawNumbers(), workers=2).batches(0):
        assert (batch.images[:, 3] == 1).all()


@pytest.mark.parametrize(("count", "drop_last"), [(24, True), (31, False)])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_each_global_batch_in_order(world_size: int, count: int, drop_last: bool) -> None:
    whole = list(loader(toy(count), drop_last=drop_last, batch_size=12).batches(1))
    parts = [
        list(loader(toy(count), drop_last=drop_last, batch_size=12, rank=r, world_size=world_size).batches(1))
        for r in range(world_size)
    ]
    for step, batch in enumerate(whole):
        mine = [part[step] for part in parts]
        assert torch.equal(torch.cat([b.indices for b in mine]), batch.indices)
        assert torch.equal(torch.cat([b.images for b in mine]), batch.images)
        sizes = [len(b.labels) for b in mine]
        assert max(sizes) - min(sizes) <= 1
        assert len(batch.labels) < 12 or len(set(sizes)) == 1


# ---- repeated augmentation


def keys_of(train: TrainLoader, epoch: int = 2) -> list[list[tuple[int, ...]]]:
    """The keys of each batch, as the reader gets them."""
    found: list[list[tuple[int, ...]]] = []

    class Noting:
        def __getitems__(self, keys: list[tuple[int, ...]]) -> Batch:
            found.append(keys)
            return Batch(torch.empty(0), torch.empty(0), torch.empty(0))

    train._reader = Noting()  # type: ignore[assignment]
    list(train.batches(epoch))
    return found


@given(st.integers(12, 60), st.integers(2, 12), st.integers(1, 5), st.booleans())
@settings(max_examples=80)
def test_repeats_are_the_first_images_of_the_order_so_many_times_each(
    count: int, batch_size: int, repeats: int, drop_last: bool
) -> None:
    if not drop_last and 0 < count % batch_size < 2:
        drop_last = True
    once, often = (loader(toy(count), batch_size=batch_size, drop_last=drop_last, repeats=r) for r in (1, repeats))
    assert once.steps_per_epoch == often.steps_per_epoch
    order = once.order(2).tolist()
    naive = [(2, index, number) if number else (2, index) for index in order for number in range(repeats)][:count]
    keys = keys_of(often)
    assert sum(len(batch) for batch in keys) == (count // batch_size * batch_size if drop_last else count)
    for step, batch in enumerate(keys):
        assert sorted(batch) == sorted(naive[step * batch_size : step * batch_size + len(batch)])
        numbers = [key[2] if len(key) == 3 else 0 for key in batch]
        assert numbers == sorted(numbers)
    assert sorted(often.order(2).tolist()) == sorted(key[1] for key in naive)


def test_first_visits_are_bit_identical_to_no_repeats() -> None:
    whole = {int(i): x for b in loader().batches(2) for i, x in zip(b.indices, b.images, strict=True)}
    seen: dict[int, list[Tensor]] = {}
    for batch in loader(repeats=3).batches(2):
        for index, image in zip(batch.indices.tolist(), batch.images, strict=True):
            seen.setdefault(index, []).append(image)
    assert [len(images) for images in seen.values()] == [3] * 8
    assert all(torch.equal(images[0], whole[index]) for index, images in seen.items())
    assert sum(not torch.equal(images[0], images[1]) for images in seen.values()) > 4
    assert sum(not torch.equal(images[1], images[2]) for images in seen.values()) > 4


def test_ranks_see_different_visits_of_an_image_as_torchvision_s_sampler_has_it() -> None:
    whole = list(loader(repeats=3, batch_size=12).batches(1))
    ranks = [list(loader(repeats=3, batch_size=12, rank=r, world_size=3).batches(1)) for r in range(3)]
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([rank[step].images for rank in ranks]), batch.images)
        assert all(len(set(rank[step].indices.tolist())) == 4 for rank in ranks)
        assert len({tuple(rank[step].indices.tolist()) for rank in ranks}) == 1


# ---- evaluation


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 5))
@settings(max_examples=60)
def test_evaluation_sees_every_image_once_under_any_world_size(count: int, batch_size: int, world_size: int) -> None:
    data = toy(count)
    shards = [
        list(iterate_eval_batches(data, VIEW, batch_size=batch_size, rank=r, world_size=world_size))
        for r in range(world_size)
    ]
    seen = [index for shard in shards for b in shard for index in b.indices.tolist()]
    assert seen == list(range(count))
    assert all(1 <= len(b.labels) <= batch_size for shard in shards for b in shard)
    images = torch.cat([b.images for shard in shards for b in shard])
    assert torch.equal(images[:, 0], torch.from_numpy(data.images))


def test_evaluation_is_the_same_with_workers() -> None:
    one = iterate_eval_batches(toy(13), VIEW, batch_size=4)
    assert same(one, iterate_eval_batches(toy(13), VIEW, batch_size=4, workers=2))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_never_skips(workers: int) -> None:
    batches = iterate_eval_batches(Broken(toy(), (13,)), VIEW, batch_size=5, workers=workers)
    assert [len(next(batches).labels) for _ in range(2)] == [5, 5]
    with pytest.raises(BadImageError, match=r"^cannot use image cats/13\.jpg: it ends early$"):
        next(batches)


# ---- bad images


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_stops_training_with_its_own_sentence(workers: int) -> None:
    train = loader(Broken(toy(), (7,)), workers=workers)
    position = train.order(0).tolist().index(7) // 6
    batches = train.batches(0)
    for _ in range(position):
        next(batches)
    with pytest.raises(BadImageError) as caught:
        next(batches)
    assert str(caught.value) == "cannot use image cats/7.jpg: it ends early"
    assert caught.value.path == "cats/7.jpg"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_skipped_image_is_named_and_changes_no_other(workers: int) -> None:
    whole = list(loader().batches(0))
    skipping = list(loader(Broken(toy(), (7, 19)), on_bad_image="skip", workers=workers).batches(0))
    messages = [message for b in skipping for message in b.bad_images]
    assert sorted(messages) == [f"cannot use image cats/{i}.jpg: it ends early" for i in (19, 7)]
    for full, less in zip(whole, skipping, strict=True):
        kept = (full.indices != 7) & (full.indices != 19)
        assert len(less.bad_images) == int((~kept).sum())
        assert torch.equal(less.indices, full.indices[kept])
        assert torch.equal(less.labels, full.labels[kept])
        assert torch.equal(less.images, full.images[kept])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_of_bad_images_is_empty(workers: int) -> None:
    batches = list(loader(Broken(toy(4), (0, 1, 2, 3)), batch_size=2, on_bad_image="skip", workers=workers).batches(0))
    assert len(batches) == 2
    for b in batches:
        assert b.images.shape[0] == len(b.labels) == len(b.indices) == 0
        assert b.labels.dtype == b.indices.dtype == torch.int64
        assert len(b.bad_images) == 2


# ---- requests that cannot be met


@pytest.mark.parametrize(
    ("count", "changes", "words"),
    [
        (24, {"batch_size": 25}, "batch_size 25 is larger than the training set of 24 images"),
        (24, {"batch_size": 6, "world_size": 4}, "batch_size 6 is not a multiple of the 4 processes"),
        (24, {"batch_size": 4, "world_size": 4}, "leaves each of 4 processes one image"),
        (25, {"drop_last": False}, "last batch of an epoch would have 1 of 25 images"),
        (27, {"drop_last": False, "world_size": 2}, "would have 3 of 27 images for 2 processes"),
        (24, {"on_bad_image": "skipp"}, "did you mean 'skip'"),
        (24, {"start_method": "spoon"}, "start_method 'spoon' is not available on this machine"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(count: int, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        loader(toy(count), **changes)
    if "start_method" in changes:
        with pytest.raises(RequestError, match=words):
            iterate_eval_batches(toy(), VIEW, batch_size=4, **changes)


def test_sets_in_memory_need_no_workers_and_files_one_a_core() -> None:
    assert default_workers(toy()) == 0
    assert default_workers(Subset(toy(), np.arange(3))) == 0
    assert 1 <= default_workers(Broken(toy(), ())) <= min(8, os.cpu_count() or 1)  # type: ignore[arg-type]
