"""Suggest a ``data.group`` where file names say that pictures belong together: a patient, a video, a burst of photos.

The rule: at least 90 % of the names have a part that says so, at least half of the classes have two such groups or
more, and a group has two pictures or more on average. The parts looked for, in this order:

1. a word for what is photographed several times, and its number, below the class folder: ``patient03``, ``slide-2``,
   ``vid1`` (SUBJECT_WORDS, the largest unit first);
2. what comes before ``frame`` and its number: ``birds at 7_frame0012``;
3. what comes before ``.rf.`` and a hash, as Roboflow names the versions of a picture;
4. date and time, if half of the pictures are taken within a minute of another one of the class: the longest unit of
   day, hour and minute in which every class has three groups;
5. what comes before a counter at the end, if it has letters and digits but no date, with three pictures on average:
   ``plot7b_0012``.

So numbers (``12_cat``, ``IMG_0012``, ``n01440764_10026``), hashes and UUIDs alone suggest nothing.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from resnext.data.dataset import Dataset, Source
from resnext.data.groups import as_posix
from resnext.settings import DataSettings

SUBJECT_WORDS = (
    *("patient", "subject", "participant", "person", "donor", "animal"),
    *("specimen", "biopsy", "slide", "wsi", "session", "visit", "study", "series", "scan"),
    *("video", "vid", "movie", "film", "clip", "sequence", "seq", "camera", "cam"),
)
LONG_WORDS = {"vid": "video", "cam": "camera", "seq": "sequence", "wsi": "slide"}
LEAST_SHARE = 0.9  # of the names that must have the part
LEAST_IMAGES = 2.0  # in a group, on average
LEAST_COUNTED = 3.0  # the same where only a counter makes the group
LEAST_TIMED = 3  # groups of each class, of pictures grouped by time
BURST_SECONDS = 60
SAMPLE = 500  # names that are looked at first
SEPARATOR = "[-_ .]"
FRAME = re.compile(rf"(.*[^-_ .]){SEPARATOR}*frames?{SEPARATOR}*[0-9]+$", re.IGNORECASE)
ROBOFLOW = re.compile(r"(.+)\.rf\.[0-9A-Za-z]{20,32}$")
TIME = re.compile(
    r"(?<![0-9])((?:19|20)[0-9]{2})[-_.]?([0-9]{2})[-_.]?([0-9]{2})[-_ T.]{0,2}(?:at )?"
    r"([0-9]{2})[-_.h]?([0-9]{2})[-_.m]?([0-9]{2})"
)
COMPACT_TIME = re.compile(r"(?<![0-9])[0-9]{8}[-_]?[0-9]{6}")
DATE = re.compile(r"(19|20)[0-9]{2}[-_.]?[01][0-9][-_.]?[0-3][0-9]")
COUNTED = re.compile(r"(?=[^/]*[A-Za-z])(?=[^/]*[0-9][^/]*[-_ ])([^/]*)[-_ ][0-9]+$")


@dataclass(frozen=True)
class GroupHint:
    """A pattern for ``data.group``, and what of the names suggests it."""

    pattern: str
    reason: str

    def describe(self) -> str:
        """Describe the hint and what to do in one sentence."""
        return (
            f"{self.reason}; with such pictures on both sides of the split the result looks better than it is: "
            f"--data.group '{self.pattern}' keeps each group on one side"
        )


@dataclass(frozen=True)
class _Names:
    """Paths, the same below the class folder and without extension, and classes."""

    paths: list[str]
    stems: list[str]
    labels: np.ndarray

    def sample(self) -> "_Names":
        chosen = np.unique(np.linspace(0, len(self.paths) - 1, min(SAMPLE, len(self.paths))).astype(int)).tolist()
        return _Names([self.paths[i] for i in chosen], [self.stems[i] for i in chosen], self.labels[chosen])


def find_group_hint(settings: DataSettings, source: Source) -> GroupHint | None:
    """Return a hint if file names suggest groups, and some are on both sides of the split; None if not."""
    if settings.source != "folder" or settings.group is not None:
        return None
    hint = suggest_groups(source.train)
    if hint is None:
        return None
    sides = [
        {_search(hint.pattern, as_posix(data.image_path(i))) for i in range(len(data))}
        for data in (source.train, source.val)
    ]
    return hint if (sides[0] & sides[1]) - {None} else None


def suggest_groups(dataset: Dataset) -> GroupHint | None:
    """Suggest groups from the names of a data set of class folders; None if the names do not suggest any."""
    paths = [as_posix(dataset.image_path(index)) for index in range(len(dataset))]
    inside = [dataset.classes[label] + "/" for label in dataset.labels]
    below = [path.partition(folder)[2] for path, folder in zip(paths, inside, strict=True)]
    names = _Names(paths, [os.path.splitext(name)[0] for name in below], np.asarray(dataset.labels))
    finders = (_find_subjects, _find_frames, _find_versions, _find_bursts, _find_counted)
    return next((hint for find in finders for hint in find(names)), None)


def _find_subjects(names: _Names) -> Iterator[GroupHint]:
    for word in SUBJECT_WORDS:
        search = re.compile(rf"(?<![A-Za-z])({word}s?)({SEPARATOR}?)([A-Za-z]?)([0-9]+)", re.IGNORECASE).search
        if not _are_most([search(stem) for stem in names.sample().stems]):
            continue
        found = [search(stem) for stem in names.stems]
        parts = [match.groups() for match in found if match]
        spellings, separators = {part[0] for part in parts}, {part[1] for part in parts}
        ignored = "" if len(spellings) == 1 else "(?i)"
        spelling = next(iter(spellings)) if len(spellings) == 1 else f"{word}s?"
        between = next(iter(separators)).replace(".", "[.]") if len(separators) == 1 else f"{SEPARATOR}?"
        letter = "[A-Za-z]?" if any(part[2] for part in parts) else ""
        text = f"({spelling}{between}{letter}[0-9]+)"
        groups = [match[0] if match else None for match in found]
        patterns = (ignored + text, f"{ignored}^.*?/(?:.*[^A-Za-z])?{text}")
        yield from _make_hint(
            names, groups, patterns, f"file names say which {LONG_WORDS.get(word, word)} a picture is from"
        )


def _find_frames(names: _Names) -> Iterator[GroupHint]:
    yield from _find_before(
        names, FRAME, rf"([^/]*[^-_ ./]){SEPARATOR}*(?i:frames?){SEPARATOR}*[0-9]+[.]", "frames of one video"
    )


def _find_versions(names: _Names) -> Iterator[GroupHint]:
    yield from _find_before(names, ROBOFLOW, r"([^/]+)[.]rf[.]", "versions of one picture")


def _find_before(names: _Names, part: re.Pattern[str], pattern: str, what: str) -> Iterator[GroupHint]:
    if _are_most([part.match(stem) for stem in names.sample().stems]):
        found = [part.match(stem) for stem in names.stems]
        groups = [match[1].rpartition("/")[2] if match else None for match in found]
        yield from _make_hint(names, groups, (pattern,), f"file names say which pictures are {what}")


def _find_bursts(names: _Names) -> Iterator[GroupHint]:
    if not _are_most([_read_time(stem) for stem in names.sample().stems]):
        return
    times = [_read_time(stem) for stem in names.stems]
    seconds = np.array([-1.0 if time is None else (time - datetime(1900, 1, 1)).total_seconds() for time in times])
    close = 0
    for label in np.unique(names.labels):
        taken = np.sort(seconds[(names.labels == label) & (seconds >= 0)])
        near = np.diff(taken) <= BURST_SECONDS
        close += int(np.sum(np.append(near, False) | np.insert(near, 0, False))) if len(taken) > 1 else 0
    if close < len(seconds) / 2:
        return
    compact = all(COMPACT_TIME.search(stem) for stem, time in zip(names.stems, times, strict=True) if time)
    day = "[0-9]{8}" if compact else "(?:19|20)[0-9]{2}[-_.]?[0-9]{2}[-_.]?[0-9]{2}"
    between = "[-_]?" if compact else "[-_ T.]{0,2}(?:at )?"
    two = "[0-9]{2}"
    units = (
        ("day", f"({day}){between}{two}", "%Y%m%d"),
        ("hour", f"({day}{between}{two})", "%Y%m%d%H"),
        ("minute", f"({day}{between}{two}[-_.h]?{two})", "%Y%m%d%H%M"),
    )
    for unit, pattern, code in units:
        groups = [time.strftime(code) if time else None for time in times]
        spread = [
            len({g for g, c in zip(groups, names.labels, strict=True) if c == k and g}) for k in set(names.labels)
        ]
        if min(spread) >= LEAST_TIMED:
            reason = f"many pictures were taken within a minute of another (here grouped by {unit})"
            yield from _make_hint(names, groups, (pattern,), reason)


def _find_counted(names: _Names) -> Iterator[GroupHint]:
    def search(stem: str) -> str | None:
        match = COUNTED.match(stem.rpartition("/")[2])
        return match[1] if match and not DATE.search(match[1]) else None

    if _are_most([search(stem) for stem in names.sample().stems]):
        pattern = r"([^/]+)[-_ ][0-9]+[.][^./]+$"
        groups = [search(stem) for stem in names.stems]
        yield from _make_hint(
            names, groups, (pattern,), "file names number pictures that belong together", LEAST_COUNTED
        )


def _make_hint(
    names: _Names,
    groups: Sequence[str | None],
    patterns: Sequence[str],
    reason: str,
    least_images: float = LEAST_IMAGES,
) -> Iterator[GroupHint]:
    """Yield a hint if the groups are as the rule says, with the first pattern that gives the same groups."""
    there = [group for group in groups if group is not None]
    if not _are_most(groups) or len(there) < least_images * len(set(there)):
        return
    labels = names.labels.tolist()
    per_class: dict[int, set[str]] = {label: set() for label in labels}
    for group, label in zip(groups, labels, strict=True):
        if group is not None:
            per_class[label].add(group)
    if 2 * sum(len(of_class) > 1 for of_class in per_class.values()) < len(per_class):
        return
    for pattern in patterns:
        pairs = {(group, _search(pattern, path)) for group, path in zip(groups, names.paths, strict=True)}
        pairs = {(group, found) for group, found in pairs if group is not None}
        if len(pairs) == len({found for _, found in pairs} - {None}) == len(set(there)):
            yield GroupHint(pattern, reason)
            return


def _read_time(stem: str) -> datetime | None:
    found = TIME.search(stem)
    try:
        return datetime(*map(int, found.groups())) if found else None  # type: ignore[arg-type]
    except ValueError:
        return None


def _are_most(found: Sequence[object]) -> bool:
    return sum(one is not None for one in found) >= LEAST_SHARE * max(len(found), 1)


def _search(pattern: str, path: str) -> str | None:
    found = re.search(pattern, path)
    return found[1] if found else None
