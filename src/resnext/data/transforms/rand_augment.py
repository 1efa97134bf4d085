"""timm's RandAugment, with its random draws taken from torch's generator."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from resnext.data.preprocessing import Preprocessing
from resnext.data.transforms.eval_view import FILTERS
from resnext.errors import RequestError


class RandAugment:
    """Applies a policy such as ``rand-m7-mstd0.5-inc1`` (Cubuk et al. 2020; timm's spelling) to an RGB image.

    timm draws from Python's and NumPy's global generators. For each image they are seeded from torch's generator (which
    the loader seeds by (seed, epoch, index)) and restored afterwards. Raises RequestError for a policy that timm does
    not know.
    """

    def __init__(self, policy: str, preprocessing: Preprocessing) -> None:
        try:
            from timm.data.auto_augment import rand_augment_transform
        except ImportError:
            raise RequestError("augment.rand_augment needs timm: pip install 'resnext[modern]'") from None
        options: dict[str, Any] = {
            "translate_const": int(preprocessing.image_size * 0.45),  # as timm.data.create_transform
            "img_mean": preprocessing.mean_color,
            "interpolation": FILTERS[preprocessing.interpolation],
        }
        try:
            self.transform: Callable[[Image.Image], Image.Image] = rand_augment_transform(policy, options)
        except (AssertionError, ValueError, KeyError, TypeError, IndexError):
            raise RequestError(
                f"augment.rand_augment {policy!r} is not a policy that timm knows; an example is rand-m7-mstd0.5-inc1"
            ) from None

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the augmented image."""
        seed = int(torch.randint(2**31, ()).item())
        before, numpy_before = random.getstate(), np.random.get_state()  # noqa: NPY002
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - what timm draws from
        try:
            return self.transform(image)
        finally:
            random.setstate(before)
            np.random.set_state(numpy_before)  # noqa: NPY002
