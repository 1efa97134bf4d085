"""Small sample images and preprocessings for the data tests."""

from typing import Any

import numpy as np
from PIL import Image

from resnext.data.preprocessing import Preprocessing

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MIN_P_VALUE = 1e-3  # p-value of a distribution test; every one draws from a fixed seed


def make_preprocessing(size: int = 16, channels: int = 3, **changes: Any) -> Preprocessing:
    said = {"image_size": size, "resize": size, "mean": MEAN[:channels], "std": STD[:channels], "channels": channels}
    return Preprocessing(**(said | changes))


def make_image(width: int, height: int, channels: int = 3, seed: int = 0) -> Image.Image:
    shape = (height, width, 3) if channels == 3 else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))
