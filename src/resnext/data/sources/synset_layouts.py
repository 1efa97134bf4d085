"""Layouts of images of WordNet synsets: class folders, a tar for each class, or a tar of those tars."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from resnext.data.classes import quote_names
from resnext.data.files.storage import base_name, is_folder, is_local, join_path, list_names, resolve_filesystem
from resnext.data.files.tar_dataset import TarDataset
from resnext.data.files.tar_index import TarIndex, index_archives, index_flat, index_nested
from resnext.data.imagenet_classes import WNID_PATTERN
from resnext.data.sources.image_folder import FolderDataset, is_image_name, resolve_channels, scan_class_folders
from resnext.errors import RequestError
from resnext.settings import DataSettings

SynsetDataset = FolderDataset | TarDataset
DatasetT = TypeVar("DatasetT", FolderDataset, TarDataset)
LAYOUT_HINT = "expected <wnid>/ folders such as n01440764/, a <wnid>.tar for each class, or one tar of these"


def open_synsets(place: str, name: str, settings: DataSettings) -> SynsetDataset:
    """Open all images of a folder or tar, sorted by class and then by name, in the same order for every layout."""
    if not is_folder(place):
        return _open_archives([place], name, settings, index_archives([place], "nested", index_nested))
    tars = [file for file in list_names(place) if WNID_PATTERN.match(file) and file.endswith(".tar")]
    if tars:
        folders = [folder for folder in list_names(place) if f"{folder}.tar" in tars]
        if folders:
            raise RequestError(f"{place} has class {quote_names(folders)} twice, as a folder and as a tar; remove one")
        places = [join_path(place, tar) for tar in tars]
        return _open_archives(places, name, settings, index_archives(places, "flat", index_flat))
    if not is_local(place):
        raise RequestError(f"{place} has no <wnid>.tar; class folders are read from local disks only; {LAYOUT_HINT}")
    root = Path(resolve_filesystem(place)[1])
    dataset = scan_class_folders(root.parent, root.name, settings)
    _check_wnids(dataset.classes, place)
    return dataset.select(np.arange(len(dataset)), dataset.labels, dataset.classes, name)


def select_classes(dataset: SynsetDataset, classes: Sequence[str], name: str) -> SynsetDataset:
    """Select the images of ``classes``, labelled by the index in ``classes``; their order is kept."""
    places = {wnid: label for label, wnid in enumerate(classes)}
    new = np.array([places.get(wnid, -1) for wnid in dataset.classes], dtype=np.int64)[dataset.labels]
    indices = np.flatnonzero(new >= 0)
    return dataset.select(indices, new[indices], tuple(classes), name)


def sort_by_class(dataset: DatasetT) -> DatasetT:
    """Sort the images by class, then by base name."""
    bases = np.array([name.rpartition(b"/")[2] for name in dataset.file_names.tolist()])
    order = np.lexsort((bases, dataset.labels))
    return dataset.select(order, dataset.labels[order], dataset.classes, dataset.name)


def _open_archives(places: Sequence[str], name: str, settings: DataSettings, indexes: list[TarIndex]) -> TarDataset:
    """Open indexed archives in which each image is in a tar named by its synset."""
    owners = np.concatenate([_member_synsets(place, index) for place, index in zip(places, indexes, strict=True)])
    classes, labels = np.unique(owners, return_inverse=True)
    wnids = tuple(os.fsdecode(wnid) for wnid in classes.tolist())
    _check_wnids(wnids, places[0])
    if len(wnids) < 2:
        raise RequestError(f"{places[0]} has one class, {wnids[0]!r}; a classifier needs at least two; {LAYOUT_HINT}")
    dataset = TarDataset.from_indexes(
        name, indexes, labels.astype(np.int64), wnids, resolve_channels(settings), settings.exif
    )
    strange = next((n for n in dataset.file_names.tolist() if not is_image_name(os.fsdecode(n))), None)
    if strange is not None:
        raise RequestError(f"{places[0]} has {os.fsdecode(strange)}, which is not an image")
    return sort_by_class(dataset)


def _member_synsets(place: str, index: TarIndex) -> np.ndarray:
    """Return the synset of each member: the name of the inner tar, or of the archive itself. Bytes [N]."""
    own = os.fsencode(base_name(place).removesuffix(".tar"))
    if WNID_PATTERN.fullmatch(os.fsdecode(own)):
        return np.full(len(index), own)
    tars = [name.partition(b".tar/")[0] for name in index.names.tolist()]
    owners: dict[bytes, bytes] = {}
    for path in dict.fromkeys(tars):
        wnid = path.rpartition(b"/")[2]
        if wnid in owners:
            raise RequestError(f"{place} has {os.fsdecode(wnid)}.tar twice")
        owners[wnid] = path
    return np.array([path.rpartition(b"/")[2] for path in tars])


def _check_wnids(classes: Sequence[str], place: str) -> None:
    strange = [name for name in classes if not WNID_PATTERN.fullmatch(name)]
    if strange:
        raise RequestError(f"{place} has {quote_names(strange)}, which is not a synset; {LAYOUT_HINT}")
