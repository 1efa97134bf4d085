"""Batches of training and evaluation: the same for any workers, ranks and points of entry."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resnext.data.source import BadImage
from resnext.detect.augment import Augment
from resnext.detect.loader import DetectBatch, DetectLoader, eval_batches
from resnext.detect.preprocessing import DetectPreprocessing
from resnext.detect.settings import DetectAugmentSettings
from resnext.errors import RequestError
from tests.detect.made import Made, dataset

VIEW = DetectPreprocessing(min_size=24, max_size=48)
AUGMENT = Augment(DetectAugmentSettings(jitter=0.2, min_sizes=(20, 24)), VIEW)


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
    return tensors and (one.sizes, one.indices, one.bad) == (other.sizes, other.indices, other.bad)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    orders = {
        (seed, epoch): [batch.tolist() for batch in loader(seed=seed).order(epoch)]
        for seed in (7, 8)
        for epoch in (0, 1)
    }
    assert [batch.tolist() for batch in loader().order(1)] == orders[7, 1]
    assert len({str(order) for order in orders.values()}) == 4


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 12), st.booleans(), st.integers(0, 5))
def test_an_epoch_has_every_image_at_most_once_in_batches_of_one_shape(
    wide: int, tall: int, size: int, group: bool, epoch: int
) -> None:
    if wide + tall < size:
        return
    each = DetectLoader(shapes(wide, tall), AUGMENT, seed=1, batch_size=size, group=group, workers=0)
    order = each.order(epoch)
    assert len(order) == each.steps_per_epoch >= 1
    assert all(len(batch) == size for batch in order)
    seen = np.concatenate(order)
    assert len(set(seen.tolist())) == len(seen) > wide + tall - (2 if group else 1) * size
    if group:
        kinds = [set((each.dataset.sizes[batch, 1] > each.dataset.sizes[batch, 0]).tolist()) for batch in order]
        assert all(len(kind) == 1 for kind in kinds[:-1])


def test_what_is_left_out_of_one_epoch_comes_in_another() -> None:
    each = loader(shapes(5, 6))
    assert each.steps_per_epoch == 2
    seen = np.concatenate([batch for epoch in range(12) for batch in each.order(epoch)])
    assert set(seen.tolist()) == set(range(11))


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
            assert tuple(image.shape[:0:-1]) in {VIEW.size(*stated, shorter) for shorter in (20, 24)}
            found = each.dataset.annotations(index)
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
        for batch in eval_batches(data, VIEW, workers=workers, rank=rank, world_size=ranks)
    ]
    assert [batch.indices for batch in seen] == [[i] for i in range(7)]
    for batch in seen:
        assert torch.equal(batch.images[0], VIEW.view(data.image(batch.indices[0])))
        assert batch.sizes == [tuple(data.sizes[batch.indices[0]][::-1])]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_is_named(workers: int) -> None:
    data = shapes(3, 3)
    missing = Made(**{**vars(data), "root": "/nowhere"})
    with pytest.raises(BadImage, match="/nowhere/"):
        list(eval_batches(missing, VIEW, workers=workers))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"batch_size": 18}, "train.batch_size 18 is larger than the training set of 17 images"),
        ({"batch_size": 4, "world_size": 3}, "train.batch_size 4 does not divide into the 3 processes"),
        ({"start_method": "frok"}, "start_method"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        loader(**changes)
