"""ImageNet-1K (ILSVRC 2012): class folders, the official archives, or one split each way. Nothing is unpacked.

Images are sorted by class (the official order of the 1,000) and by name within a class. So index i is the same image in
every layout.
"""

import os
import re

import numpy as np

from resnext.data.classes import describe_class_difference, quote_names
from resnext.data.dataset import Source
from resnext.data.files.storage import exists, is_folder, is_local, join_path, list_names, resolve_filesystem
from resnext.data.files.tar_dataset import TarDataset
from resnext.data.files.tar_index import index_archives, index_flat
from resnext.data.imagenet_classes import WNID_PATTERN, imagenet_synsets
from resnext.data.sources.image_folder import (
    HELD_OUT_NAMES,
    TRAIN,
    FolderDataset,
    natural_image_source,
    resolve_channels,
)
from resnext.data.sources.imagenet_devkit import read_ground_truth
from resnext.data.sources.synset_layouts import SynsetDataset, open_synsets, sort_by_class
from resnext.errors import RequestError, did_you_mean
from resnext.settings import DataSettings

TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
ARCHIVE_MD5S = {
    TRAIN_TAR: "1d675b47d978889d74fa0da5fadfb00e",
    VAL_TAR: "29b22e2961454d5413ddabcf34fc5622",
    "ILSVRC2012_devkit_t12.tar.gz": "fa75699e90414af021442c21a62c3abf",
}
VAL_NAME_PATTERN = re.compile(rb"ILSVRC2012_val_([0-9]{8})\.JPEG")
LAYOUT_HINT = (
    f"expected train/<wnid>/ and val/<wnid>/, or {TRAIN_TAR}, {VAL_TAR} and ILSVRC2012_devkit_t12.tar.gz as "
    "downloaded, or one split each way"
)


def open_imagenet(settings: DataSettings) -> Source:
    """Open both splits, with all 1,000 classes or a subset; val from ``data.val_path`` if that is given."""
    train, val = open_imagenet_split(settings, "train"), open_imagenet_split(settings, "val")
    difference = describe_class_difference(train.classes, val.classes, "train", "val")
    if difference:
        raise RequestError(f"the classes of ImageNet's two splits differ: {difference}")
    split = f"ImageNet's own: {len(train)} training and {len(val)} validation images of {len(train.classes)} classes"
    return natural_image_source(train, val, settings, split)


def open_imagenet_split(settings: DataSettings, split: str) -> SynsetDataset:
    """Open one split."""
    if settings.path is None and (split == "train" or settings.val_path is None):
        raise RequestError(f"data.source imagenet needs data.path, the folder of its images; {LAYOUT_HINT}")
    given = settings.val_path if split == "val" else None
    root = str(given or settings.path)
    if not exists(root):
        raise RequestError(f"{'data.val_path' if given else 'data.path'} {root} does not exist; {LAYOUT_HINT}")
    dataset = _open_train(root, settings) if split == "train" else _open_val(root, settings)
    known = imagenet_synsets()
    unknown = sorted(set(dataset.classes) - set(known))
    if unknown:
        hint = did_you_mean(unknown[0], known)
        raise RequestError(f"{root} has {quote_names(unknown)}, not one of ImageNet-1K's 1,000 synsets{hint}")
    return dataset


def _open_train(root: str, settings: DataSettings) -> SynsetDataset:
    if not is_folder(root):
        return open_synsets(root, "imagenet train", settings)
    for place in (join_path(root, TRAIN), join_path(root, TRAIN_TAR), join_path(join_path(root, TRAIN), TRAIN_TAR)):
        if is_folder(place) and not _has_classes(place):
            continue
        if exists(place):
            return open_synsets(place, "imagenet train", settings)
    raise RequestError(f"{root} has no training images; {LAYOUT_HINT}")


def _open_val(root: str, settings: DataSettings) -> SynsetDataset:
    """Open val from ``val/`` (class folders or loose images), from the archive, or from ``root`` itself."""
    if not is_folder(root):
        return _open_val_archive(root, settings)
    for place in [join_path(root, name) for name in HELD_OUT_NAMES] + [root]:
        if not is_folder(place):
            continue
        if has_flat_images(place):
            return _open_flat_val(place, settings)
        if _has_classes(place):
            return open_synsets(place, "imagenet val", settings)
        if exists(join_path(place, VAL_TAR)):
            return _open_val_archive(join_path(place, VAL_TAR), settings)
    raise RequestError(f"{root} has no validation images; {LAYOUT_HINT}")


def _has_classes(folder: str) -> bool:
    """Whether the folder has a folder or tar named by a synset."""
    return any(WNID_PATTERN.fullmatch(name.removesuffix(".tar")) for name in list_names(folder))


def has_flat_images(folder: str) -> bool:
    """Whether the folder has loose validation images."""
    return any(VAL_NAME_PATTERN.fullmatch(os.fsencode(name)) for name in list_names(folder))


def _open_val_archive(place: str, settings: DataSettings) -> TarDataset:
    index = index_archives([place], "flat", index_flat)[0]
    classes, labels = np.unique(_match_ground_truth(index.names, place), return_inverse=True)
    said = tuple(classes.tolist()), resolve_channels(settings), settings.exif
    return sort_by_class(TarDataset.from_indexes("imagenet val", [index], labels.astype(np.int64), *said))


def _open_flat_val(folder: str, settings: DataSettings) -> FolderDataset:
    if not is_local(folder):
        raise RequestError(f"{folder}: loose images are read from local disks only; use {VAL_TAR} elsewhere")
    root = resolve_filesystem(folder)[1]
    names = np.array([os.fsencode(name) for name in list_names(folder) if name.endswith(".JPEG")])
    classes, labels = np.unique(_match_ground_truth(names, folder), return_inverse=True)
    said = tuple(classes.tolist()), resolve_channels(settings), root, names, labels.astype(np.int64), settings.exif
    return sort_by_class(FolderDataset("imagenet val", *said))


def _match_ground_truth(names: np.ndarray, place: str) -> np.ndarray:
    """Return the synset of each image by its number. The numbers must be 1 to N, as in the devkit's ground truth."""
    matches = [VAL_NAME_PATTERN.fullmatch(name.rpartition(b"/")[2]) for name in names.tolist()]
    if None in matches:
        name = os.fsdecode(bytes(names[matches.index(None)]))
        raise RequestError(f"{place} has {name}, which is not in ImageNet's validation set; {LAYOUT_HINT}")
    numbers = np.array([int(match[1]) for match in matches if match])
    beside = place.rstrip("/").rpartition("/")[0] or "."
    truth = np.array(read_ground_truth([beside, *([place] if is_folder(place) else [])], place))
    if len(truth) != len(numbers):
        raise RequestError(f"{place} has {len(numbers)} images, but the devkit's ground truth has {len(truth)} lines")
    missing = set(range(1, len(numbers) + 1)) - set(numbers.tolist())
    if missing:
        raise RequestError(f"{place} has no ILSVRC2012_val_{min(missing):08d}.JPEG")
    return np.asarray(truth[numbers - 1])
