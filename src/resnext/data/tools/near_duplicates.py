"""Find pictures that look alike: the same one re-encoded, resized, or a little lighter."""

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

SIDE = 16  # pixels of the thumbnails that are compared
LEAST_CONTRAST = 8.0  # standard deviation of a thumbnail, of 255; flatter pictures are all alike
LEAST_CORRELATION = 0.99  # of thumbnails that count as alike; of 4.5 million pairs of CIFAR-10 one is higher
MOST_PICTURES = 50_000  # of more pictures, comparing all pairs takes minutes, and none is compared
BLOCK = 1024  # rows of the table of pairs that are computed at a time


def describe_look(pixels: Image.Image) -> bytes:
    """Describe how a picture looks: a small grey thumbnail; empty for a picture without contrast."""
    small = pixels.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    look = small.tobytes()
    return look if np.frombuffer(look, np.uint8).std() >= LEAST_CONTRAST else b""


def match_looks(looks: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Iterate over the pairs of pictures that look alike, as indices in increasing order."""
    if not 2 <= len(looks) <= MOST_PICTURES:
        return
    table = np.frombuffer(b"".join(looks), np.uint8).reshape(len(looks), -1).astype(np.float32)
    table -= table.mean(axis=1, keepdims=True)
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    for start in range(0, len(table), BLOCK):
        alike = np.argwhere(table[start : start + BLOCK] @ table[start:].T >= LEAST_CORRELATION) + start
        yield from ((int(one), int(other)) for one, other in alike if one < other)
