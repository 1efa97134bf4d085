"""Find pictures that show the same: copies that were resized, compressed again, or made brighter."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

SIDE = 16  # pixels of the small pictures that are compared
# Correlation from which on two are near-duplicates. Of 312 million pairs of CIFAR-10 images (JPEG) 94 reach it, about
# 91 of which show the same; of copies that were compressed, halved, darkened, or given more contrast 99.9 % do. Copies
# without colour may not. Measured by tools/measure_near_duplicates.py.
LIKENESS = 0.95
COARSE_LIKENESS = 0.98  # of smaller pictures: of 1.6 million pairs of 8 x 8 digits 108 reach 0.95, and 3 this
LEAST_CONTRAST = 8.0  # standard deviation in a small picture, of 255; flatter ones are all alike
FEW = 20  # pictures; of as many, half of what they have in common is taken off, of many more nearly all
ROWS = 1024  # compared with all others at a time
MAX_PAIRS = 100_000  # pictures that are nearly all alike have very many


@dataclass(frozen=True)
class NearDuplicate:
    """Two pictures that look alike."""

    first: int  # the earlier row
    second: int  # the later one
    likeness: float  # correlation of the small pictures, up to 1


def shrink_picture(pixels: Image.Image) -> np.ndarray:
    """Shrink a picture for ``find_near_duplicates`` to uint8 [S, S, 3]; S is SIDE, or its shorter side if less."""
    side = min(SIDE, *pixels.size)
    return np.asarray(pixels.convert("RGB").resize((side, side), Image.Resampling.BOX))


def find_near_duplicates(pictures: np.ndarray) -> list[NearDuplicate]:
    """Find the pairs of pictures that look alike, the most alike first.

    The small pictures are compared by their correlation, after what all pictures have in common (such as a bright
    centre) is taken off. Brightness and contrast do not matter. Pictures without contrast are like no other. The time
    grows with the square of the number of pictures.

    Args:
        pictures: uint8 [N, S, S, C]: each picture at SIDE x SIDE pixels or fewer, with 1 or 3 channels.

    Returns:
        At most MAX_PAIRS pairs.
    """
    least = LIKENESS if pictures.shape[1] >= SIDE else COARSE_LIKENESS
    pairs = list(_iterate_pairs(_normalize(pictures), least))
    return sorted(pairs, key=lambda pair: (-pair.likeness, pair.first, pair.second))


def _normalize(pictures: np.ndarray) -> np.ndarray:
    """Remove the mean of each channel and what all pictures have in common, and scale to length 1 [N, S * S * C]."""
    channels = pictures.astype(np.float32)
    channels -= channels.mean(axis=(1, 2), keepdims=True)
    vectors = channels.reshape(len(pictures), -1)
    vectors[vectors.std(axis=1) < LEAST_CONTRAST] = 0
    vectors = _scale(vectors)
    is_flat = ~vectors.any(axis=1)
    # not the mean: of two pictures that are alike, nothing would be left
    vectors -= vectors.sum(axis=0) / (np.count_nonzero(~is_flat) + FEW)
    vectors[is_flat] = 0
    return _scale(vectors)


def _scale(vectors: np.ndarray) -> np.ndarray:
    """Scale each row to length 1; rows of zeros stay."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: np.ndarray = vectors / np.maximum(length, 1e-6)
    return scaled


def _iterate_pairs(vectors: np.ndarray, least: float) -> Iterator[NearDuplicate]:
    """Iterate over the pairs whose correlation is ``least`` or more, up to MAX_PAIRS."""
    found = 0
    for start in range(0, len(vectors), ROWS):
        likeness = vectors[start : start + ROWS] @ vectors[start:].T
        for row, column in zip(*np.nonzero(np.triu(likeness, k=1) >= least), strict=True):
            yield NearDuplicate(start + int(row), start + int(column), round(float(likeness[row, column]), 4))
            found += 1
            if found == MAX_PAIRS:
                return
