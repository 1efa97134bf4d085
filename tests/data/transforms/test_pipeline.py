"""The whole training transform: the paper's recipes, the modern augmentations, and settings that are refused."""

import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest, chisquare
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from resnext.data.transforms.pipeline import (
    build_eval_transform,
    build_train_transform,
    resolve_train_preprocessing,
    to_float,
)
from resnext.errors import RequestError
from resnext.settings import AugmentSettings
from tests.data.sample_images import MEAN, MIN_P_VALUE, STD, make_image, make_preprocessing

# ---- pad and flip: the paper's CIFAR recipe


@pytest.mark.parametrize("channels", [1, 3])
def test_padded_crops_are_windows_of_the_padded_picture_at_uniform_offsets(channels: int) -> None:
    size, pad, n = 8, 2, 5000
    image, p = make_image(size, size, channels), make_preprocessing(size, channels)
    transform = build_train_transform(AugmentSettings(crop="pad", pad=pad), p)
    padded = np.empty((channels, size + 2 * pad, size + 2 * pad), np.uint8)
    padded[:] = np.array(p.mean_color)[:, None, None]
    padded[:, pad : pad + size, pad : pad + size] = F.pil_to_tensor(image).numpy()
    windows = {
        padded[:, y : y + size, x : x + size].tobytes(): (y, x) for y in range(2 * pad + 1) for x in range(2 * pad + 1)
    }
    torch.manual_seed(0)
    seen = Counter(windows[transform(image).numpy().tobytes()] for _ in range(n))
    assert len(seen) == (2 * pad + 1) ** 2
    assert chisquare(list(seen.values())).pvalue > MIN_P_VALUE


def test_the_padding_is_the_release_s_zero_after_normalising() -> None:
    p = make_preprocessing(8)
    transform = build_train_transform(AugmentSettings(crop="pad", pad=8), p)
    torch.manual_seed(3)
    views = torch.stack([transform(Image.new("RGB", (8, 8), (255, 0, 255))) for _ in range(50)])
    normal = (views.double() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    colour = torch.tensor([255, 0, 255], dtype=torch.uint8).view(3, 1, 1)
    inside = (views == colour).all(1, keepdim=True).expand_as(views)
    assert not inside.all()
    assert normal[~inside].abs().max() <= 0.5 / 255 / min(STD) + 1e-6  # half a step of 0..255


@pytest.mark.parametrize("probability", [0.5, 0.2])
def test_flips_come_as_often_as_asked(probability: float) -> None:
    image = make_image(8, 8)
    transform = build_train_transform(AugmentSettings(flip=probability), make_preprocessing(8))
    plain = F.pil_to_tensor(image)
    torch.manual_seed(0)
    views = [transform(image) for _ in range(1500)]
    flipped = sum(torch.equal(view, plain.flip(-1)) for view in views)
    assert flipped + sum(torch.equal(view, plain) for view in views) == len(views)
    assert binomtest(flipped, len(views), probability).pvalue > MIN_P_VALUE


# ---- the modern set, and what is refused


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("crop", ["center", "pad", "random_resized", "paper_imagenet"])
def test_the_modern_set_gives_bytes_of_the_right_shape(crop: str, channels: int) -> None:
    augment = AugmentSettings(crop=crop, flip=0.5, trivial_augment=True, random_erasing=0.5)
    transform = build_train_transform(augment, make_preprocessing(16, channels))
    torch.manual_seed(0)
    for seed in range(40):
        view = transform(make_image(20, 18, channels, seed))
        assert view.dtype == torch.uint8
        assert view.shape == (channels, 16, 16)


@pytest.mark.parametrize("jitter", [0.0, 0.0001])
def test_erasing_fills_a_box_with_the_mean_colour(jitter: float) -> None:
    p = make_preprocessing(16)
    transform = build_train_transform(AugmentSettings(random_erasing=1.0, color_jitter=jitter), p)
    image = Image.new("RGB", (16, 16), (255, 0, 255))
    colour = torch.tensor(p.mean_color).view(3, 1, 1)
    torch.manual_seed(0)
    for _ in range(20):
        view = transform(image)
        scaled = (view * 255).round() if jitter else view
        erased = (scaled == colour).all(0)
        rows, columns = erased.any(1).sum(), erased.any(0).sum()
        assert 0 < erased.sum() == rows * columns


def test_trivial_augment_is_torchvision_s_on_the_crop() -> None:
    image = make_image(16, 16)
    ours = build_train_transform(AugmentSettings(trivial_augment=True), make_preprocessing())
    theirs = v2.TrivialAugmentWide()
    for seed in range(20):
        torch.manual_seed(seed)
        view = ours(image)
        torch.manual_seed(seed)
        assert torch.equal(view, F.pil_to_tensor(theirs(image)))


@pytest.mark.parametrize("noise", [{"color_jitter": 0.4}, {"lighting": 0.1}])
def test_colour_noise_on_grey_images_is_refused(noise: dict[str, float]) -> None:
    with pytest.raises(RequestError, match=f"augment.{next(iter(noise))} works on RGB"):
        build_train_transform(AugmentSettings(**noise), make_preprocessing(channels=1))  # type: ignore[arg-type]


def test_an_unknown_crop_is_refused() -> None:
    with pytest.raises(RequestError, match="did you mean 'center'"):
        build_train_transform(AugmentSettings(crop="centre"), make_preprocessing())


def test_nothing_on_is_the_evaluation_view() -> None:
    image, p = make_image(50, 31), make_preprocessing(16, resize=20)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert torch.equal(build_train_transform(AugmentSettings(), p)(image), build_eval_transform(p)(image))
    assert torch.equal(torch.get_rng_state(), before)


def test_transforms_survive_pickling() -> None:
    full = AugmentSettings(
        crop="paper_imagenet", flip=0.5, color_jitter=0.4, lighting=0.1, trivial_augment=True, random_erasing=0.5
    )
    image = make_image(40, 30)
    for transform in (build_train_transform(full, make_preprocessing()), build_eval_transform(make_preprocessing())):
        torch.manual_seed(4)
        wanted = transform(image)
        torch.manual_seed(4)
        assert torch.equal(pickle.loads(pickle.dumps(transform))(image), wanted)


def test_to_float_divides_by_255() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_float(every), (every.double() / 255).float())


def test_training_may_see_another_size_than_evaluation() -> None:
    p, image = make_preprocessing(32), make_image(90, 70)
    for crop in ("random_resized", "paper_imagenet"):
        augment = AugmentSettings(crop=crop, size=24, rand_augment="rand-m7")
        assert build_train_transform(augment, p)(image).shape == (3, 24, 24)
        assert resolve_train_preprocessing(AugmentSettings(crop=crop, size=48), p).image_size == 48
    assert build_eval_transform(p)(image).shape == (3, 32, 32)
    with pytest.raises(RequestError, match=r"augment\.size 24 needs a resized crop"):
        build_train_transform(AugmentSettings(crop="pad", size=24), p)
