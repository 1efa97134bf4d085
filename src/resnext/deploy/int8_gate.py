"""The statistics that decide whether an int8 file may be kept: how much accuracy it loses, with an upper bound.

Both precisions predict the same n labelled images. b of them are right in fp32 only, c in int8 only. The loss is
(b - c) / n, and only these b + c images say anything about its error.
"""

import math
from dataclasses import dataclass

from scipy.special import betaincinv

from resnext.errors import RequestError

MAX_NEEDED = 10**8  # images; more are as good as never
MAX_POINTS = 50  # percentage points of ``--max-loss``: up to there the bound keeps its confidence


@dataclass(frozen=True)
class PairedResult:
    """Predictions of the same labelled images in fp32 and in int8."""

    images: int
    right_fp32: int  # images that fp32 predicts correctly
    only_fp32: int  # right in fp32 only: b
    only_int8: int  # right in int8 only: c

    def __post_init__(self) -> None:
        b, c, right = self.only_fp32, self.only_int8, self.right_fp32
        if not (self.images > 0 and 0 <= b <= right and 0 <= c <= self.images - right):
            raise ValueError(f"impossible counts: {self}")

    @property
    def loss(self) -> float:
        """Share of correct predictions that is lost; negative for a gain."""
        return (self.only_fp32 - self.only_int8) / self.images

    def compute_bound(self, confidence: float) -> float:
        """Compute the upper confidence bound on the loss."""
        return compute_loss_bound(self.only_fp32, self.only_int8, self.images, confidence)


def compute_loss_bound(only_fp32: float, only_int8: float, images: float, confidence: float = 0.95) -> float:
    """Compute a one-sided upper confidence bound on the loss, the difference of two paired proportions.

    Clopper-Pearson's exact limits of the two proportions b/n and c/n are combined by their squared distances from the
    estimates (MOVER: Newcombe 1998, Statistics in Medicine 17:2635, method 10; Zou and Donner 2008), with their
    correlation, which is that of two cells of a multinomial. Without any changed prediction this is the exact bound
    1 - (1 - confidence)^(1/n), where Wald's interval would be 0. Score limits in place of the exact ones, and Tango's
    interval, fall below their confidence at small counts. This bound keeps its confidence up to a loss of one half:
    ``test_int8_gate.py`` enumerates all outcomes of 12 to 10,000 images. A gain is never claimed: it is at least 0.

    Args:
        only_fp32: Number of images that are right in fp32 only; not only whole numbers.
        only_int8: Number of images that are right in int8 only.
        images: Number of images.
        confidence: One-sided, between 0 and 1.
    """
    b, c, n = only_fp32, only_int8, images
    p, q = b / n, c / n
    above = (1.0 if b >= n else float(betaincinv(b + 1, n - b, confidence))) - p
    below = q - (0.0 if c <= 0 else float(betaincinv(c, n - c + 1, 1 - confidence)))
    rest = (1 - p) * (1 - q)
    anticorrelation = math.sqrt(p * q / rest) if rest > 0 else 1.0
    return max(0.0, min(1.0, p - q + math.sqrt(above**2 + below**2 + 2 * anticorrelation * above * below)))


def count_fewest_images(max_loss: float, confidence: float) -> int:
    """Count the images that show a loss of at most ``max_loss`` if not one prediction changes."""
    return math.ceil(math.log(1 - confidence) / math.log1p(-max_loss))


def count_needed_images(result: PairedResult, max_loss: float, confidence: float) -> int | None:
    """Count the images that would show a loss of at most ``max_loss`` if predictions keep changing at this rate.

    Returns None if no number would: the loss itself is not below ``max_loss``.
    """
    p, q = result.only_fp32 / result.images, result.only_int8 / result.images

    def is_enough(n: int) -> bool:
        return compute_loss_bound(p * n, q * n, n, confidence) <= max_loss

    if not is_enough(MAX_NEEDED):
        return None
    low, high = 0, MAX_NEEDED
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def parse_max_loss(points: float) -> float:
    """Convert ``--max-loss`` from percentage points to a share. Raises RequestError if it is not in (0, MAX_POINTS]."""
    if not 0 < points <= MAX_POINTS:
        raise RequestError(f"--max-loss {points:g} should be percentage points above 0, at most {MAX_POINTS}")
    return points / 100
