"""The losses against timm and plain PyTorch."""

import pytest
import torch
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor

from resnext.settings import TrainSettings
from resnext.training.loss import compute_distillation_loss_sum, compute_loss_sum


def logits() -> Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(0)) * 3


LABELS = torch.tensor([0, 4, 2, 2, 1, 3])


def shares() -> Tensor:
    mixed = torch.eye(5)[LABELS] * 0.7 + torch.eye(5)[LABELS.roll(1)] * 0.3
    return mixed * 0.9 + 0.1 / 5


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("threshold", [None, 0.2])
def test_bce_is_timms_for_labels_and_for_mixed_targets(smoothing: float, threshold: float | None) -> None:
    train = TrainSettings(loss="bce", bce_threshold=threshold, label_smoothing=smoothing)
    oracle = BinaryCrossEntropy(smoothing=smoothing, target_threshold=threshold)
    for targets in (LABELS, shares()):
        ours = compute_loss_sum(logits(), targets, train) / len(LABELS)
        torch.testing.assert_close(ours, oracle(logits(), targets))


def test_cross_entropy_of_shares_is_timms() -> None:
    train = TrainSettings(label_smoothing=0.1)
    ours = compute_loss_sum(logits(), shares(), train) / len(LABELS)
    torch.testing.assert_close(ours, SoftTargetCrossEntropy()(logits(), shares()))


def test_labels_are_smoothed_once() -> None:
    train = TrainSettings(label_smoothing=0.1)
    smooth = torch.eye(5)[LABELS] * 0.9 + 0.1 / 5
    torch.testing.assert_close(compute_loss_sum(logits(), LABELS, train), compute_loss_sum(logits(), smooth, train))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation_is_the_divergence_from_the_teacher(temperature: float) -> None:
    """Against the sum of p * log(p / q); its gradient does not shrink as the temperature grows."""
    mine, theirs = logits().double().requires_grad_(), logits().double().flip(0)
    found = compute_distillation_loss_sum(mine, theirs, temperature)
    p, q = ((one / temperature).softmax(1) for one in (theirs, mine))
    torch.testing.assert_close(found, temperature**2 * (p * (p / q).log()).sum())
    (gradient,) = torch.autograd.grad(found, mine)
    torch.testing.assert_close(gradient, temperature * (q - p))
    assert compute_distillation_loss_sum(mine, mine, temperature) == 0
