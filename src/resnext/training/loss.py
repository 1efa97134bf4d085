"""Training losses: cross entropy (the paper), binary cross entropy per class, and distillation from a teacher."""

from torch import Tensor
from torch.nn import functional as F

from resnext.settings import TrainSettings


def compute_loss_sum(logits: Tensor, targets: Tensor, train: TrainSettings) -> Tensor:
    """Compute the loss of ``logits`` [B, K], summed over images.

    ``targets`` are int labels [B], smoothed here, or probabilities [B, K] that ``mixup_cutmix`` has already smoothed.
    ``bce`` is the mean over classes of binary cross entropies (RSB, Wightman et al. 2021, Section 4.1);
    ``bce_threshold`` then sets the targets of both classes of a mixed image to 1.
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


def compute_distillation_loss_sum(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Compute T^2 * KL(softmax(teacher / T) || softmax(logits / T)), summed over images (Hinton et al. 2015).

    Both are [B, K]. T^2 keeps the size of the gradients independent of the temperature T.
    """
    found, wanted = (F.log_softmax(one / temperature, 1) for one in (logits, teacher_logits))
    return F.kl_div(found, wanted, reduction="sum", log_target=True) * temperature**2
