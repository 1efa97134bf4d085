"""scikit-learn's handwritten digits: 1,797 images of 8x8 pixels. They need no download."""

import numpy as np

from resnext.data.dataset import ArrayDataset, Source
from resnext.errors import RequestError
from resnext.settings import DataSettings

CLASSES = tuple("0123456789")
# of the 1,438 training images; checked by tests/data/sources/test_digits.py
MEAN, STD = (0.305855,), (0.376279,)


def open_digits(settings: DataSettings) -> Source:
    """Open the digits; image i is held out if i % 5 == 4 (1,438 train, 359 val). Raises RequestError for a path."""
    from sklearn.datasets import load_digits  # slow to import

    if settings.path is not None:
        raise RequestError(f"data.path {settings.path!r} cannot be used with digits, which come with scikit-learn")
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    held_out = np.arange(len(labels)) % 5 == 4
    return Source(
        train=ArrayDataset("digits train", CLASSES, 1, images[~held_out], labels[~held_out]),
        val=ArrayDataset("digits test", CLASSES, 1, images[held_out], labels[held_out]),
        image_size=8,
        mean=MEAN,
        std=STD,
        split_rule="image i of scikit-learn's 1,797 digits is held out when i % 5 == 4 (1,438 train, 359 held out)",
    )
