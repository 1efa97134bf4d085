"""Cross-validation: split images into folds, each with about the same share of every class."""

import warnings
from dataclasses import replace

import numpy as np

from resnext.data.classes import quote_names
from resnext.data.dataset import Source, Subset, count_per_class
from resnext.errors import RequestError


def split_into_folds(labels: np.ndarray, folds: int, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Assign each image to one of ``folds`` folds; the same arguments give the same folds.

    Args:
        labels: Class of each image, int64 [N].
        folds: Number of folds, at least 2. Each has about the same share of every class.
        seed: Seed of the random assignment.
        groups: Group of each image, [N], if images of a group (a patient, a slide) must be in one fold.

    Returns:
        The fold of each image, 0 to ``folds`` - 1, int64 [N]. No fold is empty, and of every class some images are
        outside of each fold, so that they can be learned.

    Raises:
        RequestError: A class has fewer images than there are folds, or the groups cannot be divided so.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # slow to import

    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    splitter = kind(n_splits=folds, shuffle=True, random_state=seed)
    assigned = np.full(len(labels), -1, np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # on classes with fewer groups than folds: checked below
        try:
            for fold, (_, held_out) in enumerate(splitter.split(np.zeros(len(labels)), labels, groups)):
                assigned[held_out] = fold
        except ValueError as error:
            raise RequestError(f"the images cannot be split into {folds} folds: {error}") from None
    return assigned


def hold_out_fold(source: Source, fold: int, folds: int, seed: int) -> Source:
    """Return the training images of ``source`` as a source that holds out one fold of them (1 to ``folds``).

    The held-out images of ``source`` are not used. Raises RequestError if there are too few images of a class.
    """
    whole = source.train
    check_class_sizes(whole.classes, count_per_class(whole), folds)
    assigned = split_into_folds(np.asarray(whole.labels), folds, seed)
    inside = assigned == fold - 1
    train, val = (Subset(whole, np.flatnonzero(mask)) for mask in (~inside, inside))
    rule = (
        f"fold {fold} of {folds} is held out of {len(whole)} images, split by class with split_seed {seed} "
        f"({len(train)} train, {len(val)} held out)"
    )
    return replace(source, train=train, val=val, split_rule=rule)


def check_class_sizes(classes: tuple[str, ...], counts: np.ndarray, folds: int) -> None:
    """Raise RequestError for a class that has fewer images than there are folds."""
    few = [name for name, count in zip(classes, counts.tolist(), strict=True) if count < folds]
    if few:
        least = int(counts.min())
        raise RequestError(
            f"class {quote_names(few)} has fewer images ({least}) than there are folds ({folds}); "
            + (f"use at most {least} folds, or add images" if least > 1 else "add images, or remove the class")
        )
