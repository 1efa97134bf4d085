"""The losses against timm and plain PyTorch."""

import pytest
import torch
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor
from torch.nn import functional as F

from resnext.settings import TrainSettings
from resnext.training.loss import compute_distillation_loss_sum, compute_image_weights, compute_loss_sum


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


WEIGHTS = torch.tensor([0.5, 1.0, 0.2, 3.0, 2.0])  # of the classes


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("loss", ["cross_entropy", "bce"])
def test_each_image_counts_as_often_as_the_weight_of_its_class_says(loss: str, smoothing: float) -> None:
    train = TrainSettings(loss=loss, label_smoothing=smoothing)
    weights = compute_image_weights(LABELS, WEIGHTS, smoothing)
    found = compute_loss_sum(logits(), LABELS, train, weights)
    naive = sum(
        weight * compute_loss_sum(row[None], label[None], train)
        for row, label, weight in zip(logits(), LABELS, WEIGHTS[LABELS], strict=True)
    )
    torch.testing.assert_close(found, naive)
    if loss == "cross_entropy" and not smoothing:
        torch.testing.assert_close(found, F.cross_entropy(logits(), LABELS, weight=WEIGHTS, reduction="sum"))
    torch.testing.assert_close(
        compute_loss_sum(logits(), LABELS, train, torch.ones(6)), compute_loss_sum(logits(), LABELS, train)
    )


def test_a_mixed_image_counts_as_the_mean_of_what_it_is_mixed_of() -> None:
    """However much the targets are smoothed; a mixed image of one class counts as that class."""
    mean = 0.7 * WEIGHTS[LABELS] + 0.3 * WEIGHTS[LABELS.roll(1)]
    torch.testing.assert_close(compute_image_weights(shares(), WEIGHTS, 0.1), mean)
    for loss, threshold in (("cross_entropy", None), ("bce", None), ("bce", 0.2)):
        train = TrainSettings(loss=loss, bce_threshold=threshold)
        rows = zip(logits(), shares(), mean, strict=True)
        naive = sum(weight * compute_loss_sum(row[None], target[None], train) for row, target, weight in rows)
        torch.testing.assert_close(compute_loss_sum(logits(), shares(), train, mean), naive)


def test_with_weights_a_smoothed_image_is_still_taught_its_own_class() -> None:
    """The best answer for a frequent class is the smoothed label, which PyTorch's weights would turn over."""
    scores = torch.zeros(1, 2, requires_grad=True)
    train, label, weights = TrainSettings(label_smoothing=0.1), torch.tensor([0]), torch.tensor([0.505, 50.5])
    optimizer = torch.optim.LBFGS([scores], max_iter=100)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = compute_loss_sum(scores, label, train, compute_image_weights(label, weights, 0.1))
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(scores.softmax(1).detach(), torch.tensor([[0.95, 0.05]]), atol=1e-3, rtol=0)


def test_the_teachers_term_is_weighted_too() -> None:
    mine, theirs, weights = logits(), logits().flip(0), WEIGHTS[LABELS]
    rows = zip(mine, theirs, weights, strict=True)
    naive = sum(weight * compute_distillation_loss_sum(a[None], b[None], 2.0) for a, b, weight in rows)
    torch.testing.assert_close(compute_distillation_loss_sum(mine, theirs, 2.0, weights), naive)
