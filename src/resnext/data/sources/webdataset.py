"""WebDataset shards: tars in which the files of a sample share a key, such as ``0017.jpg`` and ``0017.cls``.

Images are read by their offset, not streamed. So an epoch has an exact order, as with any other source.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from resnext.data.classes import quote_names
from resnext.data.dataset import Dataset, Source, count_per_class
from resnext.data.decode.pillow import IMAGE_EXTENSIONS
from resnext.data.files import tar_index
from resnext.data.files.index_cache import Arrays
from resnext.data.files.storage import base_name, expand_pattern
from resnext.data.files.tar_dataset import TarDataset
from resnext.data.files.tar_index import Member, TarIndex
from resnext.data.imagenet_classes import imagenet_synsets
from resnext.data.sources.image_folder import is_hidden, natural_image_source, resolve_channels
from resnext.errors import RequestError
from resnext.settings import DataSettings
from resnext.speed.cache_folder import warn_once

TAR_EXTENSIONS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
MAX_LABEL_BYTES = 1 << 16  # bytes of a .cls or .json
MAX_CLASS_LIST_BYTES = 1 << 22  # bytes of a file of class names
MAX_CLASSES = 1 << 20
SIDE_BY_SIDE_HINT = "the files of a sample must be adjacent in the tar, as with tar --sort=name"
LABEL_PATTERN = re.compile(rb"\s*([0-9]{1,9})\s*")


class Sample(NamedTuple):
    """One labelled image of a shard."""

    image: Member
    label: int


def open_webdataset(settings: DataSettings) -> Source:
    """Open both splits: train from the shards of ``data.path``, val from those of ``data.val_path``."""
    if settings.path is None or settings.val_path is None:
        raise RequestError(
            "data.source webdataset needs data.path and data.val_path, the shards to train and to evaluate on, such as "
            "train-{0000..1023}.tar and val-{00..49}.tar"
        )
    shards = {"train": index_shards(settings.path), "val": index_shards(settings.val_path)}
    classes = resolve_class_names(settings.classes, max(_count_classes(indexes) for indexes in shards.values()))
    train, val = (_make_dataset(split, indexes, classes, settings) for split, indexes in shards.items())
    warn_unused_classes(train)
    split = (
        f"{len(shards['train'])} shards of {settings.path} train ({len(train)} images), "
        f"{len(shards['val'])} of {settings.val_path} are held out ({len(val)})"
    )
    return natural_image_source(train, val, settings, split)


def open_webdataset_split(settings: DataSettings, split: str) -> Dataset:
    """Open one split. If only one of ``data.path`` and ``data.val_path`` is given, it is used for either split."""
    if settings.path is not None and settings.val_path is not None:
        source = open_webdataset(settings)
        return source.train if split == "train" else source.val
    pattern = settings.path or settings.val_path
    if pattern is None:
        raise RequestError("data.source webdataset needs data.path, the shards, such as val-{00..49}.tar")
    indexes = index_shards(pattern)
    return _make_dataset(split, indexes, resolve_class_names(settings.classes, _count_classes(indexes)), settings)


def index_shards(pattern: str) -> list[TarIndex]:
    """Index the images and labels of all shards, in order. Raises RequestError, also for a key in two shards."""
    indexes = tar_index.index_archives(expand_pattern(pattern, TAR_EXTENSIONS), "webdataset", _build_index)
    twice = tar_index.find_duplicate(np.concatenate([_sample_keys(index.names) for index in indexes]))
    if twice is not None:
        places = [base_name(index.path) for index in indexes if (_sample_keys(index.names) == twice).any()]
        raise RequestError(f"{pattern}: key {os.fsdecode(twice)} occurs twice, in {quote_names(places)}")
    return indexes


def resolve_class_names(listed: str | None, count: int) -> tuple[str, ...]:
    """Return class names: from a file (one a line), the synsets for ``imagenet``, else 0 to ``count`` - 1 as text."""
    if listed is None:
        if count < 2:
            raise RequestError("all labels are 0, so there is one class; a classifier needs at least two")
        return tuple(map(str, range(count)))
    if listed == "imagenet":
        return imagenet_synsets()
    path = Path(listed).expanduser()
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CLASS_LIST_BYTES + 1)
        names = tuple(line.strip() for line in content.decode("utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(
            f"data.classes {path} cannot be read: {reason}; expected a text file with one name a line, or imagenet"
        ) from error
    twice = [name for name, times in Counter(names).items() if times > 1]
    if len(content) > MAX_CLASS_LIST_BYTES or len(names) < 2 or twice:
        what = f"has {twice[0]!r} twice" if twice else f"has {len(names)} names in {len(content)} bytes"
        raise RequestError(f"data.classes {path} {what}; expected at least two names, one a line, none twice")
    return names


def check_labels(labels: np.ndarray, classes: tuple[str, ...], where: str) -> None:
    """Raise RequestError for a label that is not the index of a class."""
    beyond = np.flatnonzero((labels < 0) | (labels >= len(classes)))
    if len(beyond):
        label, more = labels[beyond[0]], f", and {len(beyond) - 1} more" if len(beyond) > 1 else ""
        raise RequestError(f"{where}: image {beyond[0]} has label {label}{more}; the last class is {len(classes) - 1}")


def warn_unused_classes(train: Dataset) -> None:
    """Warn of classes without a training image. A common cause is labels that count from 1."""
    unused = np.flatnonzero(count_per_class(train) == 0)
    if len(unused):
        names = quote_names([train.classes[i] for i in unused])
        more = "; labels count from 0" if 0 in unused else ""
        warn_once(f"{train.name}: no image is of class {names}, so the network cannot learn that output{more}")


def _make_dataset(split: str, indexes: list[TarIndex], classes: tuple[str, ...], settings: DataSettings) -> TarDataset:
    for index in indexes:
        check_labels(_get_labels(index), classes, index.path)
    labels = np.concatenate([_get_labels(index) for index in indexes])
    name = f"{base_name(indexes[0].path)}{' ...' if len(indexes) > 1 else ''} {split}"
    return TarDataset.from_indexes(name, indexes, labels, classes, resolve_channels(settings), settings.exif)


def _get_labels(index: TarIndex) -> np.ndarray:
    assert index.labels is not None
    return index.labels


def _count_classes(indexes: list[TarIndex]) -> int:
    most = 1 + max(int(_get_labels(index).max()) for index in indexes)
    if most > MAX_CLASSES:
        raise RequestError(f"{indexes[0].path}: label {most - 1} is too large for a class number; set data.classes")
    return most


def _sample_keys(names: np.ndarray) -> np.ndarray:
    """Return the sample key of each name: the part before the first dot of the base name. Bytes [N]."""
    return np.array([split_sample_name(name)[0] for name in names.tolist()])


def split_sample_name(name: bytes) -> tuple[bytes, bytes]:
    """Split a name into key and extension by WebDataset's rule: ``a/0017.seg.png`` -> ``a/0017``, ``seg.png``."""
    folder, slash, base = name.rpartition(b"/")
    key, _, extension = base.partition(b".")
    return folder + slash + key, extension.lower()


# ---- building the index: images with their labels, in one pass over a shard


def _build_index(file: IO[bytes], place: str, size: int) -> Arrays:
    samples = list(_iterate_samples(file, place, size))
    labels = np.array([sample.label for sample in samples], np.int64)
    return tar_index.members_to_arrays((sample.image for sample in samples), place) | {"labels": labels}


def _iterate_samples(file: IO[bytes], place: str, size: int) -> Iterator[Sample]:
    """Iterate over the samples of one shard. The files of a sample must be adjacent."""
    seen: set[bytes] = set()
    found = (member for member in tar_index.iterate_members(file, place, 0, size) if _is_sample_file(member.name))
    for key, group in groupby(found, key=lambda member: split_sample_name(member.name)[0]):
        if key in seen:
            raise RequestError(f"{place}: key {os.fsdecode(key)} occurs twice; {SIDE_BY_SIDE_HINT}")
        seen.add(key)
        yield _parse_sample(os.fsdecode(key), list(group), file, place)


def _is_sample_file(name: bytes) -> bool:
    """Whether a member belongs to a sample: not without extension, not hidden, not WebDataset's ``__meta__``."""
    *folders, base = name.split(b"/")
    return b"." in base and not base.startswith((b".", b"__")) and not any(is_hidden(os.fsdecode(f)) for f in folders)


def _parse_sample(key: str, files: list[Member], shard: IO[bytes], place: str) -> Sample:
    by_kind = {split_sample_name(member.name)[1].decode("ascii", "replace"): member for member in files}
    images = [member for kind, member in by_kind.items() if f".{kind}" in IMAGE_EXTENSIONS]
    kinds = quote_names(sorted(by_kind))
    if len(by_kind) < len(files):
        raise RequestError(f"{place}: sample {key} has two files of one extension, among {kinds}")
    if len(images) != 1:
        what = "has no image" if not images else f"has {len(images)} images"
        raise RequestError(
            f"{place}: sample {key} {what} among {kinds}; {SIDE_BY_SIDE_HINT}, and images end in "
            f"{' '.join(IMAGE_EXTENSIONS)}"
        )
    for kind in ("cls", "json"):
        if kind not in by_kind:
            continue
        _, offset, size = by_kind[kind]
        if size > MAX_LABEL_BYTES:
            raise RequestError(f"{place}: {key}.{kind} has {size} bytes, too many for a label")
        shard.seek(offset)
        label = _parse_label(kind, shard.read(size))
        if label is not None:
            return Sample(images[0], label)
    raise RequestError(
        f"{place}: sample {key} has no label; expected {key}.cls with a whole number, or {key}.json with "
        f'{{"label": a whole number}}; {SIDE_BY_SIDE_HINT}'
    )


def _parse_label(kind: str, content: bytes) -> int | None:
    if kind == "cls":
        match = LABEL_PATTERN.fullmatch(content)
        return int(match[1]) if match else None
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    label = value.get("label") if isinstance(value, dict) else None
    return label if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < 10**9 else None
