"""Data sets in memory, parts of them, and the table of sources."""

import pickle

import numpy as np
import pytest

from resnext.data import ArrayDataset, BadImageError, Subset, open_data, open_split
from resnext.data.dataset import random_subset
from resnext.errors import RequestError, WorkError
from resnext.settings import DataSettings


def colours(n: int = 10) -> ArrayDataset:
    images = np.arange(n * 4 * 5 * 3, dtype=np.int64).reshape(n, 4, 5, 3).astype(np.uint8)
    return ArrayDataset("toy test", ("a", "b"), 3, images, np.arange(n, dtype=np.int64) % 2)


def test_an_array_gives_back_its_own_pixels() -> None:
    data = colours()
    image = data.image(7)
    assert image.mode == "RGB"
    assert image.size == (5, 4)
    np.testing.assert_array_equal(np.asarray(image), data.images[7])
    assert data.image_path(7) == "test[7]"


def test_grey_arrays_are_mode_l() -> None:
    images = np.full((2, 3, 3), 9, np.uint8)
    data = ArrayDataset("toy train", ("a",), 1, images, np.zeros(2, np.int64))
    assert data.image(0).mode == "L"


def test_a_subset_keeps_image_label_and_place_together() -> None:
    data = colours()
    part = Subset(data, np.array([1, 4, 9]))
    assert len(part) == 3
    assert part.labels.tolist() == [1, 0, 1]
    assert part.image_path(1) == "test[4]"
    assert part.classes == data.classes
    np.testing.assert_array_equal(np.asarray(part.image(2)), data.images[9])


def drawn(data: ArrayDataset, limit: int, seed: int) -> list[int]:
    part = random_subset(data, limit, seed)
    assert isinstance(part, Subset)
    return part.indices.tolist()


def test_a_limit_is_drawn_by_its_seed_in_rising_order() -> None:
    data = colours(100)
    first = drawn(data, 20, 0)
    assert first == drawn(data, 20, 0) == sorted(set(first))
    assert first != drawn(data, 20, 1)
    assert first != list(range(20))  # drawn, not cut off
    assert random_subset(data, 100, 0) is data
    assert random_subset(data, None, 0) is data


def test_every_image_has_the_same_chance_to_be_drawn() -> None:
    data = colours(10)
    counts = np.zeros(10)
    for seed in range(2000):
        counts[drawn(data, 3, seed)] += 1
    assert abs(counts - 600).max() < 5 * np.sqrt(2000 * 0.3 * 0.7)


def test_limits_reach_both_splits_of_a_source() -> None:
    source = open_data(DataSettings(max_train_images=50, max_val_images=7))
    assert (len(source.train), len(source.val)) == (50, 7)
    assert len(open_split(DataSettings(max_val_images=7), "val")) == 7


def test_a_bad_image_survives_the_way_from_a_worker() -> None:
    error = pickle.loads(pickle.dumps(BadImageError("cats/a.jpg", "image file is truncated")))
    assert error.path == "cats/a.jpg"
    assert isinstance(error, WorkError)
    assert "cats/a.jpg" in str(error)
    assert "truncated" in str(error)


def test_channels_that_contradict_the_source_are_refused() -> None:
    with pytest.raises(RequestError, match=r"data\.channels 3.*digits.*1"):
        open_data(DataSettings(channels=3))


def test_an_unknown_split_is_refused_with_the_nearest() -> None:
    with pytest.raises(RequestError, match="'train'"):
        open_split(DataSettings(), "trian")
