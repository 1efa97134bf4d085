"""The loss of a recipe, summed over images: cross entropy (the paper), or a binary cross entropy for each class."""

from torch import Tensor
from torch.nn import functional as F

from resnext.settings import TrainSettings


def loss_sum_of(logits: Tensor, targets: Tensor, train: TrainSettings) -> Tensor:
    """The sum over images of the loss of ``logits`` [B, K].

    ``targets`` are int labels [B], smoothed here, or shares [B, K] that ``mix_batch`` has smoothed already. ``bce`` is
    the mean over classes (RSB, Wightman et al. 2021, Section 4.1): each class a question of its own, and with
    ``bce_threshold`` both classes of a mixed image count whole.
    """
    hard = not targets.is_floating_point()
    if train.loss == "cross_entropy":
        smoothing = train.label_smoothing if hard else 0.0
        return F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="sum")
    if hard:
        shares = F.one_hot(targets, logits.shape[1]).to(logits.dtype)
        targets = shares * (1 - train.label_smoothing) + train.label_smoothing / logits.shape[1]
    if train.bce_threshold is not None:
        targets = (targets > train.bce_threshold).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / logits.shape[1]
