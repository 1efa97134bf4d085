"""Mixup and cutmix against their formulas, written out image by image."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, kstest
from torch import Tensor
from torch.nn import functional as F

from resnext.data.transforms.mixup import mixup_cutmix
from resnext.settings import AugmentSettings

K = 7


def batch(n: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, 8, 10, generator=generator), torch.arange(n) % K


def share_of_first(targets: Tensor, labels: Tensor, smoothing: float) -> float:
    """Lambda as the first image's target shows it."""
    return float((targets[0, labels[0]] - smoothing / K) / (1 - smoothing))


def naive_targets(labels: Tensor, lam: float, smoothing: float) -> Tensor:
    hard = torch.zeros(len(labels), K)
    for i, label in enumerate(labels):
        hard[i, label] += lam
        hard[i, labels[i - 1]] += 1 - lam
    return (1 - smoothing) * hard + smoothing / K


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixup_is_a_convex_sum_of_neighbours(smoothing: float) -> None:
    images, labels = batch()
    for seed in range(5):
        mixed, targets = mixup_cutmix(images, labels, K, AugmentSettings(mixup=0.4), smoothing, seed)
        lam = share_of_first(targets, labels, smoothing)
        wanted = torch.stack([lam * images[i] + (1 - lam) * images[i - 1] for i in range(len(images))])
        torch.testing.assert_close(mixed, wanted)
        torch.testing.assert_close(targets, naive_targets(labels, lam, smoothing))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cutmix_pastes_one_box_and_counts_its_pixels(smoothing: float) -> None:
    images, labels = batch()
    for seed in range(8):
        mixed, targets = mixup_cutmix(images, labels, K, AugmentSettings(cutmix=1.0), smoothing, seed)
        pasted = (mixed != images).any(1)  # [B, H, W]
        assert torch.equal(pasted, pasted[:1].expand_as(pasted)), "the same box in every image"
        rows, columns = pasted[0].any(1).sum(), pasted[0].any(0).sum()
        assert pasted[0].sum() == rows * columns, "a box"
        previous = images[torch.arange(len(images)) - 1]
        assert torch.equal(mixed, torch.where(pasted[:, None], previous, images))
        lam = 1 - pasted[0].float().mean().item()
        torch.testing.assert_close(targets, naive_targets(labels, lam, smoothing))


def test_smoothed_targets_give_the_loss_of_torch() -> None:
    """With lambda = 1 the soft loss must be cross_entropy(label_smoothing=s)."""
    images, labels = batch(2)
    labels = torch.tensor([3, 3])  # both the same: any lambda gives the one-hot target
    logits = torch.randn(2, K, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    _, targets = mixup_cutmix(images, labels, K, AugmentSettings(mixup=1.0), 0.2, 0)
    wanted = F.cross_entropy(logits, labels, label_smoothing=0.2)
    torch.testing.assert_close(F.cross_entropy(logits, targets.double()), wanted, rtol=1e-6, atol=1e-6)


def test_neither_leaves_the_batch_untouched() -> None:
    images, labels = batch()
    same_images, same_labels = mixup_cutmix(images, labels, K, AugmentSettings(), 0.1, 0)
    assert same_images is images
    assert same_labels is labels


def test_both_draw_one_of_them_half_of_the_time() -> None:
    images, labels = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])
    both = AugmentSettings(mixup=1.0, cutmix=1.0)
    cut = 0
    for seed in range(400):
        mixed, _ = mixup_cutmix(images, labels, K, both, 0, seed)
        cut += bool(torch.isin(mixed, images).all())
    assert binomtest(cut, 400).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_lambda_follows_its_beta_distribution(alpha: float) -> None:
    images, labels = torch.zeros(2, 1, 2, 2), torch.tensor([0, 1])
    augment = AugmentSettings(mixup=alpha)
    shares = [share_of_first(mixup_cutmix(images, labels, K, augment, 0, s)[1], labels, 0) for s in range(600)]
    assert kstest(np.clip(shares, 1e-7, 1 - 1e-7), "beta", args=(alpha, alpha)).pvalue > 1e-3


def test_the_seed_alone_decides_and_the_global_generator_stays() -> None:
    images, labels = batch()
    augment = AugmentSettings(mixup=0.4, cutmix=1.0)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = mixup_cutmix(images, labels, K, augment, 0.1, 5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    two = mixup_cutmix(images, labels, K, augment, 0.1, 5)
    other = mixup_cutmix(images, labels, K, augment, 0.1, 6)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0], other[0])


def test_the_inputs_are_not_written_to_and_an_empty_batch_passes() -> None:
    images, labels = batch()
    kept = images.clone()
    mixup_cutmix(images, labels, K, AugmentSettings(cutmix=1.0), 0, 3)
    assert torch.equal(images, kept)
    empty, targets = mixup_cutmix(images[:0], labels[:0], K, AugmentSettings(mixup=1.0), 0, 3)
    assert empty.shape[0] == 0
    assert targets.shape == (0, K)


def test_bytes_are_refused() -> None:
    with pytest.raises(AssertionError, match="normalising"):
        mixup_cutmix(
            torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1]), K, AugmentSettings(mixup=1), 0, 0
        )
