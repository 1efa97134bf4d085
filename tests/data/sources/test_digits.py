"""The digits and their stated split, against scikit-learn itself."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from resnext.data import ArrayDataset, Source, open_data
from resnext.errors import RequestError
from resnext.settings import DataSettings


@pytest.fixture(scope="module")
def source() -> Source:
    return open_data(DataSettings(source="digits"))


def test_every_fifth_image_is_held_out(source: Source) -> None:
    digits = load_digits()
    expected = [i for i in range(1797) if i % 5 == 4]
    assert (len(source.train), len(source.val)) == (1438, 359)
    for at, i in list(enumerate(expected))[::37]:
        assert source.val.labels[at] == digits.target[i]
        np.testing.assert_array_equal(np.asarray(source.val.image(at)), np.rint(digits.images[i] * 255 / 16))
    assert sum(source.train.labels) + sum(source.val.labels) == digits.target.sum()


def test_the_whole_range_of_grey_is_used(source: Source) -> None:
    assert isinstance(source.train, ArrayDataset)
    assert (source.train.images.min(), source.train.images.max()) == (0, 255)
    assert source.train.images.shape == (1438, 8, 8)
    assert len(np.unique(source.train.images)) == 17


def test_mean_and_deviation_are_those_of_the_training_images(source: Source) -> None:
    assert isinstance(source.train, ArrayDataset)
    values = source.train.images.astype(np.float64) / 255
    assert source.mean == pytest.approx((values.mean(),), abs=1e-6)
    assert source.std == pytest.approx((values.std(),), abs=1e-6)


def test_names_sizes_and_the_split_are_stated(source: Source) -> None:
    assert source.train.classes == tuple("0123456789")
    assert (source.image_size, source.train.channels) == (8, 1)
    assert "i % 5 == 4" in source.split_rule


def test_a_path_is_refused() -> None:
    with pytest.raises(RequestError, match="scikit-learn"):
        open_data(DataSettings(source="digits", path="somewhere"))
