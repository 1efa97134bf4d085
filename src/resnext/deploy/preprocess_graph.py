"""Preprocessing as operators of an exported graph."""

import numpy as np

from resnext.data.preprocessing import Preprocessing
from resnext.deploy.graph_builder import GraphBuilder, Value


def add_normalization(pixels: Value, preprocessing: Preprocessing, to: GraphBuilder[Value], bgr: bool = False) -> Value:
    """Add the normalisation of uint8 pixels [B, S, S, C]; return float32 [B, C, S, S], bit-equal to ``normalize``.

    The operator is a look-up in a table of the 256 values that each channel can take: engines replace a division by a
    constant with a product, which rounds otherwise, but a look-up is exact in all of them (and no slower).
    """
    x = to.transpose(pixels, (0, 3, 1, 2))
    if bgr:
        x = to.gather(x, to.constant(np.array([2, 1, 0])), 1)
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    mean, std = (np.array(values, np.float32)[:, None] for values in (preprocessing.mean, preprocessing.std))
    first = np.arange(0, 256 * preprocessing.channels, 256, dtype=np.int32)  # of each channel, in the table
    indices = to.add(to.cast(x, np.int32), to.constant(first[None, :, None, None]))
    return to.gather(to.constant(((levels - mean) / std).ravel()), indices, 0)
