"""Make up for classes of unequal size: sample them equally often, or weight their images in the loss."""

import numpy as np

from resnext.data.seeding import CLASS_ORDER_KEY, derive_seed


class BalancedSampler:
    """Draws the images of an epoch so that all classes come equally often: class-balanced sampling (Kang et al. 2020).

    Each class has one fixed random circle of its images, and an epoch takes those of a window, which moves on by its
    length from epoch to epoch. So at any time all images of a class have come equally often, up to one visit, and the
    draw is a function of (seed, epoch). ``labels`` int64 [N]; classes without images are left out.
    """

    def __init__(self, labels: np.ndarray, seed: int) -> None:
        classes, counts = np.unique(labels, return_counts=True)
        groups = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
        self.circles = [
            np.random.Generator(np.random.PCG64(derive_seed(seed, number, CLASS_ORDER_KEY))).permutation(group)
            for number, group in zip(classes.tolist(), groups, strict=True)
        ]

    def draw(self, epoch: int, count: int) -> np.ndarray:
        """Draw ``count`` images for an epoch, int64 [count], class by class; every class gets as many, up to one."""
        start, classes = epoch * count, len(self.circles)
        drawn = []
        for number, circle in enumerate(self.circles):  # the windows sum to count: Hermite's identity
            window = np.arange((start + number) // classes, (start + count + number) // classes)
            drawn.append(circle[window % len(circle)])
        return np.concatenate(drawn)


def number_visits(order: np.ndarray) -> np.ndarray:
    """Return, for each image in ``order`` [N], how often it has come before in it, int64 [N]."""
    by_image = np.argsort(order, kind="stable")
    position, images = np.arange(len(order)), order[by_image]
    is_first = np.append(True, images[1:] != images[:-1])
    numbers = np.empty_like(position)
    numbers[by_image] = position - np.maximum.accumulate(np.where(is_first, position, 0))
    return numbers


def compute_class_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Compute N / (K * n) for each class, float64 [num_classes], with N images, K classes with images, n of this class.

    As scikit-learn's ``compute_class_weight("balanced")``: over the images, the weights have mean 1. A class without
    images gets 0.
    """
    counts = np.bincount(labels, minlength=num_classes)
    used = np.count_nonzero(counts)
    weights = np.zeros(num_classes)
    np.divide(len(labels), used * counts, out=weights, where=counts > 0)
    return weights


def describe_balance(labels: np.ndarray, classes: tuple[str, ...], *, by_sampling: bool) -> str:
    """Say how often images of the largest and of the smallest class count; by sampling, as a mean over epochs."""
    weights, counts = compute_class_weights(labels, len(classes)), np.bincount(labels, minlength=len(classes))
    largest, smallest = int(counts.argmax()), int(weights.argmax())
    how = "is shown {:.2g} times an epoch" if by_sampling else "counts {:.2g} times in the loss"
    parts = [f"an image of {classes[one]} ({counts[one]:,}) {how.format(weights[one])}" for one in (largest, smallest)]
    return f"classes balanced: {', '.join(parts)}"
