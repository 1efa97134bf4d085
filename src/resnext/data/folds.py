"""Cross-validation: split images into folds, each with about the same share of every class."""

import warnings
from collections.abc import Sequence

import numpy as np

from resnext.data.classes import quote_names
from resnext.data.dataset import Dataset, Subset, count_per_class
from resnext.data.groups import list_groups
from resnext.errors import RequestError
from resnext.settings import DataSettings, parse_fold


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
            _check_folds(assigned, labels, folds)
        except ValueError as error:
            raise RequestError(f"the images cannot be split into {folds} folds: {error}") from None
    return assigned


def _check_folds(assigned: np.ndarray, labels: np.ndarray, folds: int) -> None:
    """Raise ValueError if a fold is empty, or has all images of a class; possible with groups only."""
    counts = np.zeros((folds, int(labels.max()) + 1), np.int64)
    np.add.at(counts, (assigned, labels), 1)
    if (counts.sum(axis=1) == 0).any():
        raise ValueError("the groups leave a fold empty")
    if ((counts == counts.sum(axis=0)) & (counts > 0)).any():
        raise ValueError("the groups put all images of a class into one fold")


def hold_out_fold(whole: Dataset, settings: DataSettings) -> tuple[Dataset, Dataset, str]:
    """Split images as ``settings.fold`` says; those of a ``settings.group`` stay together.

    Returns:
        The images to train on, those that are held out, and a sentence on how they were separated.

    Raises:
        RequestError: There are too few images of a class, or groups that cannot be divided.
    """
    assert settings.fold is not None
    fold, folds = parse_fold(settings.fold)
    inside = assign_folds(whole, settings, folds) == fold - 1
    train, val = (Subset(whole, np.flatnonzero(mask)) for mask in (~inside, inside))
    how = "by class" if settings.group is None else f"by class and data.group {settings.group}"
    rule = (
        f"fold {fold} of {folds} is held out of {len(whole)} images, split {how} with split_seed "
        f"{settings.split_seed} ({len(train)} train, {len(val)} held out)"
    )
    return train, val, rule


def assign_folds(whole: Dataset, settings: DataSettings, folds: int) -> np.ndarray:
    """Return the fold of each image, 0 to ``folds`` - 1, int64 [N]. Raises as ``hold_out_fold``."""
    labels = np.asarray(whole.labels)
    check_class_sizes(whole.classes, count_per_class(whole).tolist(), folds)
    if settings.group is None:
        return split_into_folds(labels, folds, settings.split_seed)
    names = list_groups(whole, settings.group)
    check_groups(names, labels, whole.classes, folds)
    return split_into_folds(labels, folds, settings.split_seed, np.unique(names, return_inverse=True)[1])


def check_groups(groups: Sequence[str], labels: np.ndarray, classes: tuple[str, ...], folds: int) -> None:
    """Raise RequestError for fewer groups than folds, and for a class whose images are all in one group."""
    count = len(set(groups))
    if count < folds:
        raise RequestError(f"data.group gives {count} groups, fewer than the {folds} folds; use fewer folds")
    of_class: dict[int, set[str]] = {}
    for label, name in zip(labels.tolist(), groups, strict=True):
        of_class.setdefault(label, set()).add(name)
    single = [classes[label] for label, names in sorted(of_class.items()) if len(names) == 1]
    if single:
        raise RequestError(
            f"all images of class {quote_names(single)} are in one group, so a fold would hold out all of them and "
            "nothing would be left to learn from; leave data.group out, or add images of other groups"
        )


def check_class_sizes(classes: Sequence[str], counts: Sequence[int], folds: int) -> None:
    """Raise RequestError for a class that has fewer images than there are folds."""
    least = min(counts)
    if least >= folds:
        return
    others = sum(count < folds for count in counts) - 1
    also = f" (and {others} more classes are as small)" if others else ""
    name = quote_names([classes[list(counts).index(least)]])
    raise RequestError(
        f"class {name} has {least} image{'s' * (least != 1)}, fewer than the {folds} folds{also}: "
        + (f"use at most {least} folds, or add images" if least > 1 else "add images, or remove the class")
    )
