"""Training losses: cross entropy (the paper), binary cross entropy per class, and distillation from a teacher."""

from torch import Tensor
from torch.nn import functional as F

from resnext.settings import TrainSettings


def compute_loss_sum(logits: Tensor, targets: Tensor, train: TrainSettings, weights: Tensor | None = None) -> Tensor:
    """Compute the loss of ``logits`` [B, K], summed over images, each of which counts ``weights`` [B] times.

    ``targets`` are int labels [B], smoothed here, or probabilities [B, K] that ``mixup_cutmix`` has already smoothed.
    ``bce`` is the mean over classes of binary cross entropies (RSB, Wightman et al. 2021, Section 4.1);
    ``bce_threshold`` then sets the targets of both classes of a mixed image to 1.
    """
    hard = not targets.is_floating_point()
    if train.loss == "cross_entropy":
        smoothing = train.label_smoothing if hard else 0.0
        if weights is None:
            return F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="sum")
        return weights @ F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
    if hard:
        shares = F.one_hot(targets, logits.shape[1]).to(logits.dtype)
        targets = shares * (1 - train.label_smoothing) + train.label_smoothing / logits.shape[1]
    if train.bce_threshold is not None:
        targets = (targets > train.bce_threshold).to(logits.dtype)
    if weights is None:
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / logits.shape[1]
    return weights @ F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)


def compute_image_weights(targets: Tensor, class_weights: Tensor, label_smoothing: float) -> Tensor:
    """Compute the weight of each image, float [B]: that of its class, or the mean of those it is mixed of.

    ``targets`` are as in ``compute_loss_sum``, ``class_weights`` [K]. The weights multiply the loss of whole images: in
    PyTorch's ``cross_entropy(weight=...)`` they multiply each term of a soft target, so that with smoothing or mixup
    a network would learn to answer rare classes for images of frequent ones.
    """
    if not targets.is_floating_point():
        return class_weights[targets]
    shares = (targets - label_smoothing / targets.shape[1]) / (1 - label_smoothing)
    return shares @ class_weights


def compute_distillation_loss_sum(
    logits: Tensor, teacher_logits: Tensor, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """Compute T^2 * KL(softmax(teacher / T) || softmax(logits / T)), summed over images (Hinton et al. 2015).

    Both are [B, K]; each image counts ``weights`` [B] times. T^2 keeps the size of the gradients independent of the
    temperature T.
    """
    found, wanted = (F.log_softmax(one / temperature, 1) for one in (logits, teacher_logits))
    if weights is None:
        return F.kl_div(found, wanted, reduction="sum", log_target=True) * temperature**2
    return weights @ F.kl_div(found, wanted, reduction="none", log_target=True).sum(1) * temperature**2
