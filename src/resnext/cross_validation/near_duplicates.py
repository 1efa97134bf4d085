"""Find pictures that show the same: copies that were resized, compressed again, or made brighter."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

SIDE = 16  # pixels of the small pictures that are compared
# Correlation from which on two are near-duplicates. Of two million pairs of different CIFAR-10 images none reaches it,
# of copies that were compressed, halved, or changed in brightness or contrast 99 % do.
LIKENESS = 0.95
ROWS = 1024  # compared with all others at a time
MAX_PAIRS = 100_000  # pictures that are nearly all alike, such as empty ones, have very many


@dataclass(frozen=True)
class NearDuplicate:
    """Two pictures that look alike."""

    first: int  # the earlier row
    second: int  # the later one
    likeness: float  # correlation of the small pictures, up to 1


def find_near_duplicates(pictures: np.ndarray) -> list[NearDuplicate]:
    """Find the pairs of pictures that look alike, the most alike first.

    The small pictures are compared by their correlation, after what all pictures have in common (such as a bright
    centre) is taken off. Brightness and contrast do not matter. Pictures of one colour are like no other.

    Args:
        pictures: uint8 [N, S, S] or [N, S, S, 3]: each picture at SIDE x SIDE pixels or fewer.

    Returns:
        At most MAX_PAIRS pairs.
    """
    vectors = _normalize(pictures.reshape(len(pictures), -1).astype(np.float32), pictures.shape[-1] == 3)
    pairs = list(_iterate_pairs(vectors))
    return sorted(pairs, key=lambda pair: (-pair.likeness, pair.first, pair.second))


def _normalize(vectors: np.ndarray, has_colours: bool) -> np.ndarray:
    """Remove the mean of each picture (of each colour) and of all pictures, and scale to length 1."""
    if has_colours:
        channels = vectors.reshape(len(vectors), -1, 3)
        vectors = (channels - channels.mean(axis=1, keepdims=True)).reshape(len(vectors), -1)
    else:
        vectors = vectors - vectors.mean(axis=1, keepdims=True)
    vectors = _scale(vectors)
    flat = ~vectors.any(axis=1, keepdims=True)
    special: np.ndarray = np.where(flat, 0, _scale(vectors - vectors.mean(axis=0)))
    return special


def _scale(vectors: np.ndarray) -> np.ndarray:
    """Scale each row to length 1; rows of zeros stay."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: np.ndarray = np.where(length > 1e-6, vectors / np.maximum(length, 1e-6), 0)
    return scaled


def _iterate_pairs(vectors: np.ndarray) -> Iterator[NearDuplicate]:
    """Iterate over the pairs that are alike, up to MAX_PAIRS."""
    found = 0
    for start in range(0, len(vectors), ROWS):
        likeness = vectors[start : start + ROWS] @ vectors[start:].T
        for row, column in zip(*np.nonzero(np.triu(likeness, k=1) >= LIKENESS), strict=True):
            yield NearDuplicate(start + int(row), start + int(column), round(float(likeness[row, column]), 4))
            found += 1
            if found == MAX_PAIRS:
                return
