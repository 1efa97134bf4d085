"""Split one folder of classes so that the images of a group (``data.group``) are on one side."""

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from resnext.data.classes import quote_names
from resnext.data.groups import GroupFile, as_posix, check_files_exist, find_groups, look_up_groups, read_group_file
from resnext.errors import RequestError
from resnext.settings import DataSettings, is_group_file
from resnext.speed.cache_folder import warn_once

UNIT = 10_000_000  # shares of a class are counted in ten-millionths: sums of integers are the same on every machine
TRIES = ((500, 8), (2_000, 3))  # random orders of up to so many groups that are tried; of more groups, one order
SWEEPS = 10  # over the groups in one order
MAX_EXCHANGES = 2_000_000  # sums up to which all exchanges of two groups are tried


class GroupSplit(NamedTuple):
    """Which images are used, which of them are held out, the rule as a clause, and the text of split.csv."""

    used: np.ndarray  # bool [N]
    held_out: np.ndarray  # bool [N]
    rule: str
    record: str


@dataclass(frozen=True)
class _Counts:
    """The images of each group in each class, and the shares of the class that these are, in units."""

    classes: list[np.ndarray]  # of each group, int64
    images: list[np.ndarray]  # of each group and its classes, int64
    shares: list[np.ndarray]
    totals: np.ndarray  # images of each class
    is_divisible: np.ndarray  # whether a class is in two groups or more


def split_by_group(
    paths: Sequence[str], labels: np.ndarray, classes: tuple[str, ...], root: str, settings: DataSettings
) -> GroupSplit:
    """Split images by ``data.group``, ``data.val_fraction`` and ``data.split_seed``.

    A CSV file that has a column ``split`` decides itself, as that of a run does: images that it lacks are left out.

    Args:
        paths: Path of each image below ``root``.
        labels: Class of each image, int64 [N].
        classes: Class names.
        root: The folder.
        settings: The settings.

    Raises:
        RequestError: An image has no group, or the groups cannot be divided.
    """
    group, used = settings.group or "", np.ones(len(paths), bool)
    file = read_group_file(group) if is_group_file(group) else None
    if file is not None and file.sides:
        used = _find_listed(paths, file, root)
        names = np.array(look_up_groups([path for path, use in zip(paths, used, strict=True) if use], file))
        held_out = np.zeros(len(paths), bool)
        held_out[used] = [file.sides[name] == "val" for name in names]
        _check_trains_every_class(labels, used & ~held_out, classes, file)
        how = f"whole groups are held out as {os.path.basename(file.path)} says"
    else:
        if file is not None:
            check_files_exist(file, root)
        names = np.array(find_groups(paths, group) if file is None else look_up_groups(paths, file))
        share = settings.val_fraction or 0.0
        held_out = choose_held_out_groups(labels, names, share, settings.split_seed, classes)
        how = (
            f"whole groups by data.group {group} are held out, about {share:g} of each class as far as groups permit, "
            f"with split_seed {settings.split_seed}"
        )
    inside = held_out[used]
    lacking = [classes[i] for i in np.flatnonzero(np.bincount(labels[held_out], minlength=len(classes)) == 0)]
    rule = (
        f"{how} ({len(set(names[~inside]))} groups with {np.sum(~inside)} images train, {len(set(names[inside]))} "
        f"with {np.sum(inside)} are held out{f', without any of {quote_names(lacking)}' if lacking else ''})"
    )
    listed = [path for path, use in zip(paths, used, strict=True) if use]
    return GroupSplit(used, held_out, rule, _format_record(listed, names, inside))


def choose_held_out_groups(
    labels: np.ndarray, groups: Sequence[str] | np.ndarray, fraction: float, seed: int, classes: Sequence[str]
) -> np.ndarray:
    """Choose whole groups whose images are about ``fraction`` of every class. Returns bool [N]: what is held out.

    Every class keeps images to train on. Every class that is in two groups or more also has held-out images if the
    groups permit; beyond that the sum of squared differences from ``fraction`` over the classes is made small. Groups
    are taken in several random orders, one at a time if that makes the sum smaller, and the best order is improved by
    moving groups singly and exchanging two. The same arguments give the same choice on every machine.

    Raises RequestError if there is one group, or if each has all images of some class.
    """
    names, group_of = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) == 1:
        raise RequestError(
            f"all {len(labels):,} images are in one group, {str(names[0])!r}, and a split needs two or more"
        )
    counts = _count(labels, group_of, len(names), len(classes))
    goal = round(fraction * UNIT)
    tries = next((tries for most, tries in TRIES if len(names) <= most), 1)
    found = [_take_in_order(counts, _shuffle(names, seed, number), goal) for number in range(tries)]
    best = min(found, key=lambda taken: _measure(counts, taken, goal))
    if len(names) * np.sum(best) * len(classes) <= MAX_EXCHANGES:
        best = _exchange(counts, best, goal)
    if not best.any():
        only = int(counts.classes[0][counts.images[0] == counts.totals[counts.classes[0]]][0])
        raise RequestError(
            f"no group can be held out, since each has all images of a class, such as {str(names[0])!r} those of "
            f"{classes[only]!r}, and training would have none of it; groups must not be classes"
        )
    return best[group_of]


def _count(labels: np.ndarray, group_of: np.ndarray, groups: int, classes: int) -> _Counts:
    totals = np.bincount(labels, minlength=classes)
    pairs, images = np.unique(group_of * classes + labels, return_counts=True)
    owner, of_class = np.divmod(pairs, classes)
    shares = images * (UNIT // np.maximum(totals, 1))[of_class]
    starts = np.searchsorted(owner, np.arange(1, groups))
    by_group = [np.split(column, starts) for column in (of_class, images, shares)]
    return _Counts(by_group[0], by_group[1], by_group[2], totals, np.bincount(of_class, minlength=classes) > 1)


def _shuffle(names: np.ndarray, seed: int, number: int) -> list[int]:
    """Shuffle the groups by a hash of their names, so that it does not depend on a library's random numbers."""
    keys = [hashlib.blake2b(f"{seed} {number} {name}".encode("utf-8", "surrogateescape")).digest() for name in names]
    return sorted(range(len(names)), key=keys.__getitem__)


def _take_in_order(counts: _Counts, order: list[int], goal: int) -> np.ndarray:
    """Go over the groups in this order, and move each to the other side if that makes the result better."""
    taken = np.zeros(len(order), bool)
    shares = np.zeros(len(counts.totals), np.int64)
    images = np.zeros(len(counts.totals), np.int64)
    for _ in range(SWEEPS):
        before = taken.copy()
        for group in order:
            of, sign = counts.classes[group], -1 if taken[group] else 1
            share, after = sign * counts.shares[group], images[of] + sign * counts.images[group]
            if np.any(after >= counts.totals[of]):
                continue  # training would have none of a class
            lacking = np.sum(after == 0) - np.sum(images[of] == 0)
            if np.sum(share * (2 * (shares[of] - goal) + share)) + UNIT**2 * lacking < 0:
                taken[group] = not taken[group]
                shares[of] += share
                images[of] = after
        if (taken == before).all():
            break
    return taken


def _measure(counts: _Counts, taken: np.ndarray, goal: int) -> int:
    """Measure how far the groups are from the goal; a class without held-out images counts as its whole."""
    shares = np.zeros(len(counts.totals), np.int64)
    for group in np.flatnonzero(taken):
        shares[counts.classes[group]] += counts.shares[group]
    return int(np.sum((shares - goal) ** 2) + UNIT**2 * np.sum((shares == 0) & counts.is_divisible))


def _exchange(counts: _Counts, taken: np.ndarray, goal: int) -> np.ndarray:
    """Move single groups and exchange two, as long as that makes the result better."""
    groups, classes = len(taken), len(counts.totals)
    images = np.zeros((groups, classes), np.int64)
    for group in range(groups):
        images[group, counts.classes[group]] = counts.images[group]
    unit = UNIT // np.maximum(counts.totals, 1)

    def measure(held_out: np.ndarray) -> np.ndarray:  # [candidates, classes] -> [candidates]
        cost = np.sum((held_out * unit - goal) ** 2, axis=1)
        cost += UNIT**2 * np.sum((held_out == 0) & counts.is_divisible, axis=1)
        cost[np.any((held_out >= counts.totals) & (counts.totals > 0), axis=1)] = np.iinfo(np.int64).max
        return np.asarray(cost)

    taken, now = taken.copy(), images[taken].sum(axis=0)
    cost = measure(now[None])[0]
    for _ in range(2 * groups):
        moves = measure(now + np.where(taken, -1, 1)[:, None] * images)
        changed = [int(moves.argmin())]
        best = moves[changed[0]]
        if best >= cost:
            free = np.flatnonzero(~taken)
            for out in np.flatnonzero(taken):
                swaps = measure(now - images[out] + images[free])
                if swaps.min() < best:
                    best, changed = swaps.min(), [int(out), int(free[swaps.argmin()])]
        if best >= cost:
            break
        taken[changed] = ~taken[changed]
        now, cost = images[taken].sum(axis=0), best
    return taken


def _find_listed(paths: Sequence[str], file: GroupFile, root: str) -> np.ndarray:
    """Find the images that a recorded split lists, bool [N]; warn of others. Raises RequestError if there are none."""
    used = np.array([as_posix(path) in file.groups for path in paths])
    if not used.any():
        raise RequestError(
            f"{file.path}, which says what is held out, lists no image of {root}; to evaluate on other images, give "
            "--source folder too"
        )
    if not used.all():
        new = next(path for path, use in zip(paths, used.tolist(), strict=True) if not use)
        warn_once(f"{np.sum(~used)} images of {root} are left out, since {file.path} does not list them, such as {new}")
    return used


def _check_trains_every_class(labels: np.ndarray, train: np.ndarray, classes: Sequence[str], file: GroupFile) -> None:
    lacking = [classes[int(i)] for i in np.flatnonzero(np.bincount(labels[train], minlength=len(classes)) == 0)]
    if lacking:
        raise RequestError(f"data.group {file.path} has no image of {quote_names(lacking)} in train")


def check_sides(train: Iterable[str], held_out: Iterable[str], folders: tuple[str, str], group: str) -> None:
    """Raise RequestError if a group has images in both of two folders that are the split already."""
    both = sorted(set(train) & set(held_out))
    if both:
        raise RequestError(
            f"{len(both)} groups by data.group {group} have images in {folders[0]}/ and in {folders[1]}/, such as "
            f"{quote_names(both)}; move them to one side, or use one folder and data.val_fraction"
        )


def _format_record(paths: Sequence[str], groups: np.ndarray, held_out: np.ndarray) -> str:
    """Format the split as a CSV file that ``data.group`` can name."""
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("file", "group", "split"))
    for path, group, out in zip(paths, groups, held_out, strict=True):
        rows.writerow((as_posix(path), group, "val" if out else "train"))
    return text.getvalue()
