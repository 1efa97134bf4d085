"""Batches of training and evaluation: the same for any workers, ranks and points of entry."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resnext.data.dataset import BadImageError
from resnext.data.seeding import ORDER_KEY, derive_seed
from resnext.detection.data.augment import Augment
from resnext.detection.data.loader import DetectBatch, DetectLoader, iterate_eval_batches
from resnext.detection.preprocessing import DetectPreprocessing
from resnext.detection.settings import DetectAugmentSettings
from resnext.errors import RequestError
from tests.detection.synthetic import Made, dataset

VIEW = DetectPreprocessing(min_size=24, max_size=48)
AUGMENT = Augment(DetectAugmentSettings(color_jitter=0.2, min_sizes=(20, 24)), VIEW)


def shapes(wide: int, tall: int) -> Made:
    """So many wide and tall images; image i has i % 3 boxes, and the first of every second one is a crowd."""
    n = wide + tall
    rows = [(i, k % 2, (1.0 + k, 2.0, 9.0 + i % 5, 12.0)) for i in range(n) for k in range(i % 3)]
    crowd = [number for number, (i, _, box) in enumerate(rows) if i % 2 and box[0] == 1]
    made = dataset(rows, n, ("a", "b"), crowd=crowd)
    sizes = np.array([(32, 24) if i % n < wide else (24, 40) for i in range(n)])
    return Made(**{**vars(made), "sizes": sizes[np.random.default_rng(n).permutation(n)]})


def loader(data: Made | None = None, **changes: Any) -> DetectLoader:
    options = {"seed": 7, "batch_size": 4, "group": True, "workers": 0}
    return DetectLoader(shapes(9, 8) if data is None else data, AUGMENT, **options | changes)


def same(one: DetectBatch, other: DetectBatch) -> bool:
    tensors = all(
        len(getattr(one, name)) == len(getattr(other, name))
        and all(torch.equal(a, b) for a, b in zip(getattr(one, name), getattr(other, name), strict=True))
        for name in ("images", "boxes", "labels")
    )
    return tensors and (one.sizes, one.indices, one.bad_images) == (other.sizes, other.indices, other.bad_images)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    orders = {
        (seed, epoch): [batch.tolist() for batch in loader(seed=seed).order(epoch)]
        for seed in (7, 8)
        for epoch in (0, 1)
    }
    assert [batch.tolist() for batch in loader().order(1)] == orders[7, 1]
    assert len({str(order) for order in orders.values()}) == 4


@settings(max_examples=300)
@given(
    st.integers(0, 40), st.integers(0, 40), st.integers(1, 24), st.booleans(), st.integers(0, 9), st.integers(0, 1000)
)
def test_any_two_epochs_see_every_image_and_none_twice_in_one(
    wide: int, tall: int, size: int, group: bool, seed: int, epoch: int
) -> None:
    if wide + tall < size:
        return
    each = DetectLoader(shapes(wide, tall), AUGMENT, seed=seed, batch_size=size, group=group, workers=0)
    seen: list[set[int]] = []
    for order in (each.order(epoch), each.order(epoch + 1)):
        assert len(order) == each.steps_per_epoch == (wide + tall) // size
        assert all(len(batch) == size for batch in order)
        images = np.concatenate(order).tolist()
        seen.append(set(images))
        assert len(images) == len(seen[-1])
        if group:
            tall_ones = each.dataset.sizes[:, 1] > each.dataset.sizes[:, 0]
            assert all(len(set(tall_ones[batch].tolist())) == 1 for batch in order[:-1])
    assert seen[0] | seen[1] == set(range(wide + tall))


@pytest.mark.parametrize("group", [True, False])
@pytest.mark.parametrize(("wide", "tall"), [(8, 3), (3, 8), (9, 2), (11, 0), (1, 10)])
def test_in_the_long_run_every_image_is_seen_equally_often(wide: int, tall: int, group: bool) -> None:
    each = loader(shapes(wide, tall), group=group)
    seen = np.concatenate([batch for epoch in range(11) for batch in each.order(epoch)])
    assert np.bincount(seen).tolist() == [8] * 11  # 11 epochs of 2 batches of 4, 11 images


@pytest.mark.parametrize(("wide", "tall"), [(8, 4), (7, 5), (12, 0), (2, 10)])
def test_whole_batches_come_as_the_epochs_permutation_fills_them(wide: int, tall: int) -> None:
    each = loader(shapes(wide, tall))
    order = np.random.Generator(np.random.PCG64(derive_seed(7, 3, ORDER_KEY))).permutation(12)
    tall_ones = each.dataset.sizes[order, 1] > each.dataset.sizes[order, 0]
    lists = [order[~tall_ones], order[tall_ones]]
    whole = [of_kind[i : i + 4] for of_kind in lists for i in range(0, len(of_kind) - 3, 4)]
    whole.sort(key=lambda batch: order.tolist().index(batch[3]))
    mixed = [index for of_kind in lists for index in of_kind[len(of_kind) // 4 * 4 :].tolist()]
    expected = [batch.tolist() for batch in whole] + [mixed] * bool(mixed)
    assert [batch.tolist() for batch in each.order(3)] == expected


def test_batches_are_as_many_as_it_says_and_hold_what_is_annotated() -> None:
    each = loader(group=False)
    batches = list(each.batches(2))
    assert len(batches) == each.steps_per_epoch == 4
    for batch, indices in zip(batches, each.order(2), strict=True):
        assert batch.indices == indices.tolist()
        for image, boxes, labels, size, index in zip(
            batch.images, batch.boxes, batch.labels, batch.sizes, batch.indices, strict=True
        ):
            stated = each.dataset.sizes[index]
            assert size == (stated[1], stated[0])
            assert tuple(image.shape[:0:-1]) in {
                VIEW.compute_size(stated[0], stated[1], shorter) for shorter in (20, 24)
            }
            found = each.dataset.get_boxes(index)
            assert labels.tolist() == found.labels[~found.crowd].tolist()
            assert len(boxes) == len(labels)
            grown = torch.tensor([image.shape[2] / stated[0], image.shape[1] / stated[1]])
            sides = torch.from_numpy(found.boxes[~found.crowd])
            torch.testing.assert_close(boxes[:, 2:] - boxes[:, :2], (sides[:, 2:] - sides[:, :2]) * grown.float())


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_and_points_of_entry_change_no_byte(workers: int) -> None:
    whole = list(loader().batches(1))
    for first in (0, 2):
        part = list(loader(workers=workers).batches(1, first))
        assert len(part) == len(whole) - first
        assert all(same(one, other) for one, other in zip(part, whole[first:], strict=True))
    assert list(loader().batches(1, len(whole))) == []


def test_every_step_can_be_entered() -> None:
    whole = list(loader().batches(0))
    for first in range(len(whole)):
        assert same(next(loader().batches(0, first)), whole[first])


def test_an_image_changes_from_epoch_to_epoch_and_not_with_its_batch() -> None:
    def view(each: DetectLoader, epoch: int, index: int) -> torch.Tensor | None:
        for batch in each.batches(epoch):
            if index in batch.indices:
                return batch.images[batch.indices.index(index)]
        return None

    one, two = loader(batch_size=2, group=False), loader(batch_size=8, group=True)
    pairs = [(view(one, 0, i), view(two, 0, i), view(one, 1, i)) for i in range(17)]
    together = [(a, b, c) for a, b, c in pairs if a is not None and b is not None and c is not None]
    assert len(together) > 8
    assert all(torch.equal(a, b) for a, b, _ in together)
    assert not all(a.shape == c.shape and torch.equal(a, c) for a, _, c in together)


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_ranks_parts_are_the_global_batch(ranks: int) -> None:
    whole = list(loader().batches(0))
    parts = [list(loader(rank=rank, world_size=ranks).batches(0)) for rank in range(ranks)]
    for step, batch in enumerate(whole):
        lists = DetectBatch._fields[:-1]
        joined = DetectBatch(*([one for part in parts for one in getattr(part[step], name)] for name in lists))
        assert same(joined, batch)


def test_reading_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    next(loader().batches(0))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_evaluation_has_every_image_once_in_order_one_a_batch(ranks: int, workers: int) -> None:
    data = shapes(4, 3)
    seen = [
        batch
        for rank in range(ranks)
        for batch in iterate_eval_batches(data, VIEW, workers=workers, rank=rank, world_size=ranks)
    ]
    assert [batch.indices for batch in seen] == [[i] for i in range(7)]
    for batch in seen:
        assert torch.equal(batch.images[0], VIEW.apply(data.load_image(batch.indices[0])))
        assert batch.sizes == [tuple(data.sizes[batch.indices[0]][::-1])]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_is_named(workers: int) -> None:
    data = shapes(3, 3)
    missing = Made(**{**vars(data), "root": "/nowhere"})
    with pytest.raises(BadImageError, match="/nowhere/"):
        list(iterate_eval_batches(missing, VIEW, workers=workers))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"batch_size": 18}, "batch_size 18 is larger than the training set of 17 images"),
        ({"batch_size": 4, "world_size": 3}, "batch_size 4 is not a multiple of the 3 processes"),
        ({"start_method": "frok"}, "start_method"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        loader(**changes)
