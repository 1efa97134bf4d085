"""Layouts of images of WordNet synsets: class folders, a tar for each class, or a tar of those tars."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from resnext.data.classes import listing
from resnext.data.devkit import WNID
from resnext.data.folder import FolderDataset, image_channels, is_image_name, scan
from resnext.data.storage import base_name, is_folder, is_local, joined, names_in, system_of
from resnext.data.tar_dataset import TarDataset
from resnext.data.tar_index import TarIndex, flat, indexed, nested
from resnext.errors import RequestError
from resnext.settings import DataSettings

Images = FolderDataset | TarDataset
Kept = TypeVar("Kept", FolderDataset, TarDataset)
LAYOUT = "expected <wnid>/ folders such as n01440764/, a <wnid>.tar for each class, or one tar of these"


def open_synsets(place: str, name: str, settings: DataSettings) -> Images:
    """Open all images of a folder or tar, sorted by class and then by name, in the same order for every layout.

    Raises RequestError for another layout, a class that is not a synset, or a class that occurs twice.
    """
    if not is_folder(place):
        return _of_archives([place], name, settings, indexed([place], "nested", nested))
    tars = [file for file in names_in(place) if WNID.match(file) and file.endswith(".tar")]
    if tars:
        folders = [folder for folder in names_in(place) if f"{folder}.tar" in tars]
        if folders:
            raise RequestError(f"{place} has class {listing(folders)} twice, as a folder and as a tar; remove one")
        places = [joined(place, tar) for tar in tars]
        return _of_archives(places, name, settings, indexed(places, "flat", flat))
    if not is_local(place):
        raise RequestError(f"{place} has no <wnid>.tar; class folders are read from local disks only; {LAYOUT}")
    root = Path(system_of(place)[1])
    dataset = scan(root.parent, root.name, settings)
    _check_wnids(dataset.classes, place)
    return dataset.selected(np.arange(len(dataset)), dataset.labels, dataset.classes, name)


def chosen(dataset: Images, classes: Sequence[str], name: str) -> Images:
    """Select the images of ``classes``, labelled by the index in ``classes``; their order is kept."""
    places = {wnid: label for label, wnid in enumerate(classes)}
    new = np.array([places.get(wnid, -1) for wnid in dataset.classes], dtype=np.int64)[dataset.labels]
    indices = np.flatnonzero(new >= 0)
    return dataset.selected(indices, new[indices], tuple(classes), name)


def in_class_order(dataset: Kept, names: np.ndarray) -> Kept:
    """Sort the images by class, then by base name."""
    bases = np.array([name.rpartition(b"/")[2] for name in names.tolist()])
    order = np.lexsort((bases, dataset.labels))
    return dataset.selected(order, dataset.labels[order], dataset.classes, dataset.name)


def _of_archives(places: Sequence[str], name: str, settings: DataSettings, indexes: list[TarIndex]) -> TarDataset:
    """Open indexed archives in which each image is in a tar named by its synset."""
    owners = np.concatenate([_owners(place, index) for place, index in zip(places, indexes, strict=True)])
    classes, labels = np.unique(owners, return_inverse=True)
    wnids = tuple(os.fsdecode(wnid) for wnid in classes.tolist())
    _check_wnids(wnids, places[0])
    if len(wnids) < 2:
        raise RequestError(f"{places[0]} has one class, {wnids[0]!r}; a classifier needs at least two; {LAYOUT}")
    dataset = TarDataset.of(name, indexes, labels.astype(np.int64), wnids, image_channels(settings), settings.exif)
    strange = next((n for n in dataset.names.tolist() if not is_image_name(os.fsdecode(n))), None)
    if strange is not None:
        raise RequestError(f"{places[0]} has {os.fsdecode(strange)}, which is not an image")
    return in_class_order(dataset, dataset.names)


def _owners(place: str, index: TarIndex) -> np.ndarray:
    """Return the synset of each member: the name of the inner tar, or of the archive itself. Bytes [N]."""
    own = os.fsencode(base_name(place).removesuffix(".tar"))
    if WNID.fullmatch(os.fsdecode(own)):
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
    strange = [name for name in classes if not WNID.fullmatch(name)]
    if strange:
        raise RequestError(f"{place} has {listing(strange)}, which is not a synset; {LAYOUT}")
