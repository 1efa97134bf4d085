"""RandAugment is timm's operations, drawn from torch's generator and from nothing else."""

import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform

from resnext.data.transforms.rand_augment import RandAugment
from resnext.errors import RequestError
from tests.data.sample_images import make_image, make_preprocessing

VIEW = make_preprocessing(32, mean=(0.5, 0.4, 0.3))
PICTURE = make_image(32, 32)
POLICY = "rand-m7-mstd0.5-inc1"


def augmented(seed: int, transform: RandAugment) -> np.ndarray:
    torch.manual_seed(seed)
    return np.asarray(transform(PICTURE))


def test_a_picture_is_a_function_of_torchs_seed() -> None:
    transform = RandAugment(POLICY, VIEW)
    random.seed(1)
    first = [augmented(seed, transform) for seed in range(16)]
    random.seed(2)
    np.random.seed(3)  # noqa: NPY002
    again = [augmented(seed, pickle.loads(pickle.dumps(transform))) for seed in range(16)]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({a.tobytes() for a in first}) > 5


def test_the_operations_are_those_of_timm_with_its_options() -> None:
    options = {"translate_const": 14, "img_mean": (128, 102, 76), "interpolation": Image.Resampling.BICUBIC}
    oracle = rand_augment_transform(POLICY, options)
    for seed in range(8):
        torch.manual_seed(seed)
        drawn = int(torch.randint(2**31, ()).item())
        random.seed(drawn)
        np.random.seed(drawn)  # noqa: NPY002
        assert np.array_equal(np.asarray(oracle(PICTURE)), augmented(seed, RandAugment(POLICY, VIEW)))


def test_the_global_generators_are_left_as_they_were() -> None:
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    expected = random.random(), np.random.random()  # noqa: NPY002
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    RandAugment(POLICY, VIEW)(PICTURE)
    assert (random.random(), np.random.random()) == expected  # noqa: NPY002


@pytest.mark.parametrize("policy", ["", "augmix-m3", "rand-q7"])
def test_a_policy_that_timm_does_not_know_is_named(policy: str) -> None:
    with pytest.raises(RequestError, match="is not a policy that timm knows"):
        RandAugment(policy, VIEW)
