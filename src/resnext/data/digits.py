"""scikit-learn's handwritten digits: 1,797 real scans of 8x8 that come with it, so a first run needs no network."""

import numpy as np

from resnext.data.source import ArrayDataset, Source
from resnext.errors import RequestError
from resnext.settings import DataSettings

CLASSES = tuple("0123456789")
# Of the 1,438 training images; tests/data/test_digits.py computes them again.
MEAN, STD = (0.305855,), (0.376279,)


def open_digits(settings: DataSettings) -> Source:
    """Image i is held out when i % 5 == 4: 1,438 images train, 359 are held out. Raises RequestError for a path."""
    from sklearn.datasets import load_digits  # slow to import

    if settings.path is not None:
        raise RequestError(f"data.path {settings.path!r} is of no use to digits, which come with scikit-learn")
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
        split="image i of scikit-learn's 1,797 digits is held out when i % 5 == 4 (1,438 train, 359 held out)",
    )
