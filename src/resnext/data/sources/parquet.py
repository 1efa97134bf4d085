"""Images in Parquet files, as on the Hugging Face hub: local, on a store, or ``hf://datasets/OWNER/NAME``.

The library ``datasets`` converts the files once to memory-mapped Arrow in its own cache, so images are read by index.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from resnext.data.classes import describe_class_difference
from resnext.data.dataset import BadImageError, Dataset, Source
from resnext.data.encoded_dataset import EncodedDataset
from resnext.data.files.storage import base_name, expand_pattern, get_file_versions, is_folder, join_path, list_names
from resnext.data.sources.image_folder import HELD_OUT_NAMES, TRAIN, natural_image_source, resolve_channels
from resnext.data.sources.webdataset import check_labels, resolve_class_names, warn_unused_classes
from resnext.errors import RequestError, WorkError
from resnext.settings import DataSettings

HUB_URL_PATTERN = re.compile(r"hf://datasets/((?:\w[\w.-]*/)?\w[\w.-]*?)(?:@([\w./-]+))?/?")
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")
LAYOUT_HINT = (
    "expected train*.parquet and validation*.parquet in a folder, or data.val_path, or hf://datasets/OWNER/NAME"
)


@dataclass(frozen=True, eq=False)
class ParquetDataset(EncodedDataset):
    """One split over a ``datasets.Dataset`` whose image column has the undecoded bytes of the files."""

    name: str
    classes: tuple[str, ...]
    channels: int
    rows: Any
    column: str
    labels: np.ndarray
    exif: bool = True

    def read_bytes(self, index: int) -> bytes:
        """Return the content of the image's file. Raises BadImage for a row without bytes, WorkError if unreadable."""
        try:
            content = self.rows[int(index)][self.column]["bytes"]
        except Exception as error:  # Arrow's own exceptions, for example when its file was removed
            raise WorkError(f"cannot read {self.image_path(index)}: {error}") from error
        if not isinstance(content, bytes):  # the row may have a path instead, which is never opened
            raise BadImageError(self.image_path(index), "the row has no bytes of an image")
        return content

    def image_path(self, index: int) -> str:
        """Return data set, split and row, such as ``data train[17]``."""
        return f"{self.name}[{index}]"


@dataclass(frozen=True)
class _ParquetTable:
    """The rows of a split, before the classes of both splits are known."""

    rows: Any
    place: str

    @cached_property
    def image_column(self) -> str:
        from datasets import Image as Feature

        features = self.rows.features
        named = [name for name in IMAGE_COLUMNS if name in features]
        typed = [name for name, feature in features.items() if isinstance(feature, Feature)]
        return self._require_column("image", list(dict.fromkeys(typed if len(typed) == 1 else named + typed))[:1])

    @cached_property
    def label_column(self) -> str:
        from datasets import ClassLabel

        features = self.rows.features
        typed = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
        named = [name for name in LABEL_COLUMNS if name in features]
        return self._require_column("label", named[:1] or (typed if len(typed) == 1 else []))

    def _require_column(self, what: str, found: list[str]) -> str:
        if not found:
            names = IMAGE_COLUMNS if what == "image" else LABEL_COLUMNS
            columns = ", ".join(self.rows.column_names)
            raise RequestError(f"{self.place} has no {what} column {' or '.join(names)}; its columns are {columns}")
        return found[0]

    @cached_property
    def labels(self) -> np.ndarray:
        column = self.rows.select_columns([self.label_column]).with_format("numpy")[:][self.label_column]
        labels = np.asarray(column)
        if labels.dtype.kind not in "iu" or labels.ndim != 1 or not len(labels):
            raise RequestError(
                f"{self.place}: column {self.label_column} has {labels.dtype} of shape {list(labels.shape)}, "
                "expected one whole number a row"
            )
        return labels.astype(np.int64)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The class names, if the file has them."""
        names = getattr(self.rows.features[self.label_column], "names", None)
        return None if names is None else tuple(names)

    def to_dataset(self, split: str, classes: tuple[str, ...], settings: DataSettings) -> ParquetDataset:
        from datasets import Image as Feature

        check_labels(self.labels, classes, self.place)
        column = self.image_column
        try:
            rows = self.rows.select_columns([column]).cast_column(column, Feature(decode=False))
        except Exception as error:  # Arrow's own exceptions
            raise RequestError(f"{self.place}: column {column} does not hold images: {error}") from error
        name = f"{base_name(self.place.rstrip('/'))} {split}"
        return ParquetDataset(name, classes, resolve_channels(settings), rows, column, self.labels, settings.exif)


def open_parquet(settings: DataSettings) -> Source:
    """Open both splits."""
    train, val = _open_table(settings, "train"), _open_table(settings, "val")
    classes = _resolve_classes(settings, [train, val])
    parts = train.to_dataset("train", classes, settings), val.to_dataset("val", classes, settings)
    warn_unused_classes(parts[0])
    split = f"{train.place} trains ({len(parts[0])} images), {val.place} is held out ({len(parts[1])})"
    return natural_image_source(*parts, settings, split)


def open_parquet_split(settings: DataSettings, split: str) -> Dataset:
    """Open one split. A single file or a pattern is used for either split."""
    table = _open_table(settings, split, only_split=True)
    return table.to_dataset(split, _resolve_classes(settings, [table]), settings)


def _resolve_classes(settings: DataSettings, tables: list[_ParquetTable]) -> tuple[str, ...]:
    """Return the class names: ``data.classes``, else those in the files, else numbers."""
    if settings.classes is not None:
        return resolve_class_names(settings.classes, 0)
    first, last = tables[0].class_names, tables[-1].class_names
    if first is None or last is None:
        return resolve_class_names(None, 1 + max(int(table.labels.max()) for table in tables))
    difference = describe_class_difference(first, last, tables[0].place, tables[-1].place)
    if difference:
        raise RequestError(f"the classes of the two splits differ: {difference}")
    return first


def _open_table(settings: DataSettings, split: str, only_split: bool = False) -> _ParquetTable:
    own = settings.val_path if split == "val" else None
    place = own or settings.path or (settings.val_path if only_split else None)
    if place is None:
        raise RequestError(f"data.source parquet needs data.path; {LAYOUT_HINT}")
    with _wrap_library_errors():
        from datasets import load_dataset

        hub = HUB_URL_PATTERN.fullmatch(place)
        if hub:
            return _load_from_hub(place, hub[1], hub[2], split, settings)
        whole = own is not None or settings.val_path is not None or (only_split and not is_folder(place))
        return _ParquetTable(load_dataset("parquet", data_files=_list_files(place, split, whole), split="train"), place)


def _list_files(place: str, split: str, whole: bool) -> list[str]:
    """List the files of a split: all of ``place`` if ``whole``, else those of a folder that start with its name."""
    if whole:
        files = expand_pattern(place, (".parquet",))
    else:
        if not is_folder(place):
            raise RequestError(f"{place} is not a folder of splits; {LAYOUT_HINT}")
        listed = [name for name in list_names(place) if name.endswith(".parquet")]
        words = (TRAIN,) if split == "train" else ("validation", *HELD_OUT_NAMES)
        mine = [[name for name in listed if re.match(rf"{word}(?![a-z])", name)] for word in words]
        files = [join_path(place, name) for name in next((found for found in mine if found), [])]
        if not files:
            raise RequestError(f"{place} has no {split} files among its {len(listed)} Parquet files; {LAYOUT_HINT}")
    get_file_versions(files)
    return files


def _load_from_hub(place: str, name: str, revision: str | None, split: str, settings: DataSettings) -> _ParquetTable:
    """Load one split from the hub. Other splits are not downloaded, and no code of the repository is run."""
    from datasets import DownloadConfig, get_dataset_split_names, load_dataset

    said = {"revision": revision, "download_config": DownloadConfig(local_files_only=not settings.download)}
    there = get_dataset_split_names(name, **said)
    wanted = (TRAIN,) if split == "train" else ("validation", *HELD_OUT_NAMES)
    found = next((word for word in wanted if word in there), None)
    if found is None:
        raise RequestError(f"{place} has no split {' or '.join(wanted)}; it has {', '.join(there)}")
    return _ParquetTable(load_dataset(name, split=found, **said), place)


@contextmanager
def _wrap_library_errors() -> Iterator[None]:
    """Raise RequestError if the library is not installed, and for its errors inside the block."""
    try:
        import datasets
    except ImportError as error:
        raise RequestError("data.source parquet needs the package datasets: pip install 'resnext[hub-data]'") from error
    try:
        yield
    except (RequestError, WorkError):
        raise
    except Exception as error:  # exceptions of the library, of Arrow and of the hub
        reason = str(error.__cause__ or error) or type(error).__name__
        raise RequestError(f"{datasets.__name__} cannot read the Parquet data: {reason}") from error
