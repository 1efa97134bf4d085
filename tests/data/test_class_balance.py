"""Balanced sampling shows all classes equally often, and balanced weights are scikit-learn's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from resnext.data.class_balance import BalancedSampler, compute_class_weights, describe_balance, number_visits
from resnext.data.dataset import ArrayDataset
from resnext.data.loader import Batch, TrainLoader
from resnext.errors import RequestError
from resnext.recipe import parse_recipe
from tests.data.test_loader import AUGMENT, keys_of, same

COUNTS = (20, 7, 3)  # images of each class


def uneven(counts: tuple[int, ...] = COUNTS) -> ArrayDataset:
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int64)
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8), dtype=np.uint8)
    return ArrayDataset("uneven train", tuple("abcdef"[: len(counts)]), 1, images, labels)


def loader(data: ArrayDataset | None = None, **changes: object) -> TrainLoader:
    said = {"seed": 3, "batch_size": 6, "drop_last": True, "workers": 0, "sampling": "balanced"}
    return TrainLoader(uneven() if data is None else data, AUGMENT, **(said | changes))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(0, 50), st.integers(0, 2**40))
@settings(max_examples=60)
def test_every_class_comes_equally_often_and_so_does_every_image_of_a_class(
    counts: list[int], epoch: int, seed: int
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    sampler, total = BalancedSampler(labels, seed), sum(counts)
    drawn = sampler.draw(epoch, total)
    visits = np.bincount(labels[drawn], minlength=len(counts))
    assert visits.sum() == total
    assert visits.max() - visits.min() <= 1
    until_now = np.concatenate([sampler.draw(e, total) for e in range(epoch + 1)])
    by_image = np.bincount(until_now, minlength=total)
    for label in range(len(counts)):
        mine = by_image[labels == label]
        assert mine.max() - mine.min() <= 1, "also over all epochs so far"


@given(st.lists(st.integers(0, 5), max_size=40))
def test_visits_are_numbered_as_a_loop_counts_them(order: list[int]) -> None:
    naive = [order[:place].count(image) for place, image in enumerate(order)]
    assert number_visits(np.array(order, np.int64)).tolist() == naive


def test_later_visits_of_an_image_are_augmented_differently() -> None:
    seen: dict[int, list[torch.Tensor]] = {}
    for batch in loader().batches(0):
        for index, image in zip(batch.indices.tolist(), batch.images, strict=True):
            seen.setdefault(index, []).append(image)
    often = [images for images in seen.values() if len(images) > 2]
    assert len(often) == 3, "10 visits of the 3 images of the smallest class"
    assert all(not torch.equal(images[0], images[1]) for images in often)
    for keys in keys_of(loader()):
        assert len(set(keys)) == len(keys)


def test_the_batches_are_the_same_for_workers_ranks_and_resuming() -> None:
    whole = list(loader().batches(4))
    assert same(iter(whole), loader(workers=2).batches(4))
    assert same(iter(whole[3:]), loader().batches(4, 3))
    ranks = [list(loader(rank=rank, world_size=2).batches(4)) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([rank[step].images for rank in ranks]), batch.images)
    first, second = (np.sort(loader().order(epoch)) for epoch in (0, 1))
    assert not np.array_equal(first, second), "large classes show other images"


@pytest.mark.parametrize("repeats", [2, 3])
def test_with_repeated_augmentation_classes_are_balanced_too(repeats: int) -> None:
    train = loader(repeats=repeats, drop_last=False)
    keys = [key for batch in keys_of(train, 2) for key in batch]
    assert len(set(keys)) == len(keys) == 30
    visits = np.bincount(uneven().labels[[key[1] for key in keys]])
    assert visits.max() - visits.min() <= repeats


def test_a_uniform_order_shows_each_image_once() -> None:
    batches: list[Batch] = list(loader(sampling="uniform").batches(0))
    assert sorted(torch.cat([b.indices for b in batches]).tolist()) == list(range(30))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=50))
def test_balanced_weights_are_scikit_learns(labels: list[int]) -> None:
    present = np.unique(labels)
    expected = np.zeros(6)
    expected[present] = compute_class_weight("balanced", classes=present, y=labels)
    np.testing.assert_allclose(compute_class_weights(np.array(labels), 6), expected)


def test_weights_and_sampling_exclude_each_other() -> None:
    with pytest.raises(RequestError, match="both make up for unequal classes: use one of both"):
        parse_recipe("", overrides={"data.class_weights": "balanced", "data.sampling": "balanced"})


def test_a_run_says_how_often_images_of_large_and_small_classes_count() -> None:
    data = uneven()
    said = describe_balance(data.labels, data.classes, by_sampling=True)
    assert said == (
        "classes balanced: an image of a (20) is shown 0.5 times an epoch, "
        "an image of c (3) is shown 3.3 times an epoch"
    )
    assert "an image of c (3) counts 3.3 times in the loss" in describe_balance(
        data.labels, data.classes, by_sampling=False
    )
