"""Jitter and lighting against naive readings of the release."""

from collections import Counter
from itertools import permutations

import numpy as np
import torch
from scipy.stats import chisquare, kstest
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from resnext.data.transforms.color import ColorJitter, Lighting
from resnext.data.transforms.crops import PaperCrop
from resnext.data.transforms.pipeline import build_train_transform
from resnext.settings import AugmentSettings
from tests.data.sample_images import MIN_P_VALUE, make_image, make_preprocessing

# The release's datasets/imagenet.lua, copied from paper/README 2.1 a second time.
EIGVAL = np.array([0.2175, 0.0188, 0.0045])
EIGVEC = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])


def naive_jitter(image: np.ndarray, steps: tuple[tuple[str, float], ...]) -> np.ndarray:
    """Float64, [3, H, W], straight from datasets/transforms.lua."""
    for operation, alpha in steps:
        grey = np.repeat((0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2])[None], 3, 0)
        target = {
            "brightness": np.zeros_like(image),
            "contrast": np.full_like(image, grey[0].mean()),
            "saturation": grey,
        }[operation]
        image = image * alpha + (1 - alpha) * target
    return image


def test_jitter_equals_the_naive_blends_in_every_order_and_never_clamps() -> None:
    image = np.random.default_rng(0).random((3, 9, 7))
    jitter, outside = ColorJitter(0.4), 0
    for seed, order in enumerate(permutations(("brightness", "contrast", "saturation"))):
        alphas = np.random.default_rng(seed).uniform(0.6, 1.4, 3)
        steps = tuple(zip(order, alphas.tolist(), strict=True))
        source = torch.from_numpy(image).float()
        kept = source.clone()
        got = jitter.apply(source, steps)
        np.testing.assert_allclose(got.numpy(), naive_jitter(image, steps), atol=2e-6)
        assert torch.equal(source, kept)
        outside += int(((got < 0) | (got > 1)).sum())
    assert outside > 0


def test_jitter_draws_all_six_orders_alike_and_uniform_alphas() -> None:
    jitter = ColorJitter(0.4)
    torch.manual_seed(0)
    draws = [jitter.draw_steps() for _ in range(4000)]
    orders = Counter(tuple(operation for operation, _ in steps) for steps in draws)
    assert len(orders) == 6
    assert chisquare(list(orders.values())).pvalue > MIN_P_VALUE
    for operation in ("brightness", "contrast", "saturation"):
        alphas = np.array([dict(steps)[operation] for steps in draws])
        assert kstest(alphas, "uniform", args=(0.6, 0.8)).pvalue > MIN_P_VALUE
    three = np.array([[dict(s)[o] for o in ("brightness", "contrast", "saturation")] for s in draws])
    assert np.abs(np.corrcoef(three.T) - np.eye(3)).max() < 0.06


def test_lighting_adds_noise_of_the_pca_s_covariance() -> None:
    lighting = Lighting(0.1)
    torch.manual_seed(0)
    shifts = np.array([lighting.draw_shift().numpy() for _ in range(20000)])
    wanted = EIGVEC @ np.diag((0.1 * EIGVAL) ** 2) @ EIGVEC.T
    assert np.abs(np.cov(shifts.T) - wanted).max() < 0.03 * np.abs(wanted).max()
    assert np.abs(shifts.mean(0)).max() < 4 * np.sqrt(wanted.max() / len(shifts))
    # Undone, the three draws are independent normals: this sees the two small components too.
    alphas = np.linalg.solve(EIGVEC * EIGVAL, shifts.T)
    for alpha in alphas:
        assert kstest(alpha, "norm", args=(0, 0.1)).pvalue > MIN_P_VALUE
    assert np.abs(np.corrcoef(alphas) - np.eye(3)).max() < 0.03


def test_lighting_adds_one_colour_to_every_pixel() -> None:
    image = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
    got = Lighting(0.1).apply(image, shift)
    np.testing.assert_allclose(got.numpy(), image.numpy() + shift.numpy()[:, None, None], rtol=1e-6)
    assert got.dtype == torch.float32


def test_the_paper_s_imagenet_recipe_runs_in_the_release_s_order() -> None:
    """Each draw is taken again in the order crop, jitter, lighting, flip, and applied by hand."""
    image, p = make_image(60, 45), make_preprocessing()
    transform = build_train_transform(
        AugmentSettings(crop="paper_imagenet", color_jitter=0.4, lighting=0.1, flip=0.5), p
    )
    flips = 0
    for seed in range(12):
        torch.manual_seed(seed)
        got = transform(image)
        torch.manual_seed(seed)
        box = PaperCrop(16).draw_box(*image.size)
        steps = ColorJitter(0.4).draw_steps()
        shift = Lighting(0.1).draw_shift().numpy()
        flip = torch.rand(1).item() < 0.5
        assert box is not None
        x, y, w, h = box
        crop = F.resized_crop(image, y, x, h, w, [16, 16], InterpolationMode.BICUBIC, antialias=True)
        wanted = naive_jitter(F.pil_to_tensor(crop).numpy() / 255, steps) + shift[:, None, None]
        wanted = wanted[:, :, ::-1] if flip else wanted
        flips += flip
        assert got.dtype == torch.float32
        np.testing.assert_allclose(got.numpy(), wanted, atol=3e-6)
    assert 0 < flips < 12
