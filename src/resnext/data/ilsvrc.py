"""ImageNet-1K (ILSVRC 2012): class folders, the official archives, or one split each way. Nothing is unpacked.

Images are sorted by class (the official order of the 1,000) and by name within a class. So index i is the same image in
every layout.
"""

import os
import re

import numpy as np

from resnext.data.classes import class_difference, listing
from resnext.data.devkit import WNID, ground_truth
from resnext.data.folder import HELD_OUT, TRAIN, FolderDataset, image_channels, photographs
from resnext.data.imagenet import imagenet_synsets
from resnext.data.source import Source
from resnext.data.storage import exists, is_folder, is_local, joined, names_in, system_of
from resnext.data.synsets import Images, in_class_order, open_synsets
from resnext.data.tar_dataset import TarDataset
from resnext.data.tar_index import flat, indexed
from resnext.errors import RequestError, nearest
from resnext.settings import DataSettings

TRAIN_TAR, VAL_TAR = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
MD5 = {
    TRAIN_TAR: "1d675b47d978889d74fa0da5fadfb00e",
    VAL_TAR: "29b22e2961454d5413ddabcf34fc5622",
    "ILSVRC2012_devkit_t12.tar.gz": "fa75699e90414af021442c21a62c3abf",
}
VAL_NAME = re.compile(rb"ILSVRC2012_val_([0-9]{8})\.JPEG")
LAYOUT = (
    f"expected train/<wnid>/ and val/<wnid>/, or {TRAIN_TAR}, {VAL_TAR} and ILSVRC2012_devkit_t12.tar.gz as "
    "downloaded, or one split each way"
)


def open_imagenet(settings: DataSettings) -> Source:
    """Open both splits from ``data.path``, or val from ``data.val_path`` if that is given.

    The classes are the synsets found: all 1,000 or a subset, the same in both splits. Raises RequestError.
    """
    train, val = open_imagenet_split(settings, "train"), open_imagenet_split(settings, "val")
    difference = class_difference(train.classes, val.classes, "train", "val")
    if difference:
        raise RequestError(f"the classes of ImageNet's two splits differ: {difference}")
    split = f"ImageNet's own: {len(train)} training and {len(val)} validation images of {len(train.classes)} classes"
    return photographs(train, val, settings, split)


def open_imagenet_split(settings: DataSettings, split: str) -> Images:
    """Open one split. Raises RequestError for a layout, class, count or devkit that is not ImageNet-1K's."""
    if settings.path is None and (split == "train" or settings.val_path is None):
        raise RequestError(f"data.source imagenet needs data.path, the folder of its images; {LAYOUT}")
    given = settings.val_path if split == "val" else None
    root = str(given or settings.path)
    if not exists(root):
        raise RequestError(f"{'data.val_path' if given else 'data.path'} {root} does not exist; {LAYOUT}")
    dataset = _train(root, settings) if split == "train" else _val(root, settings)
    known = imagenet_synsets()
    unknown = sorted(set(dataset.classes) - set(known))
    if unknown:
        hint = nearest(unknown[0], known)
        raise RequestError(f"{root} has {listing(unknown)}, not one of ImageNet-1K's 1,000 synsets{hint}")
    return dataset


def _train(root: str, settings: DataSettings) -> Images:
    if not is_folder(root):
        return open_synsets(root, "imagenet train", settings)
    for place in (joined(root, TRAIN), joined(root, TRAIN_TAR), joined(joined(root, TRAIN), TRAIN_TAR)):
        if is_folder(place) and not _has_classes(place):
            continue
        if exists(place):
            return open_synsets(place, "imagenet train", settings)
    raise RequestError(f"{root} has no training images; {LAYOUT}")


def _val(root: str, settings: DataSettings) -> Images:
    """Open val from ``val/`` (class folders or loose images), from the archive, or from ``root`` itself."""
    if not is_folder(root):
        return _val_archive(root, settings)
    for place in [joined(root, name) for name in HELD_OUT] + [root]:
        if not is_folder(place):
            continue
        if _is_flat(place):
            return _val_flat(place, settings)
        if _has_classes(place):
            return open_synsets(place, "imagenet val", settings)
        if exists(joined(place, VAL_TAR)):
            return _val_archive(joined(place, VAL_TAR), settings)
    raise RequestError(f"{root} has no validation images; {LAYOUT}")


def _has_classes(folder: str) -> bool:
    """Whether the folder has a folder or tar named by a synset."""
    return any(WNID.fullmatch(name.removesuffix(".tar")) for name in names_in(folder))


def _is_flat(folder: str) -> bool:
    """Whether the folder has loose validation images."""
    return any(VAL_NAME.fullmatch(os.fsencode(name)) for name in names_in(folder))


def _val_archive(place: str, settings: DataSettings) -> TarDataset:
    index = indexed([place], "flat", flat)[0]
    classes, labels = np.unique(_truth(index.names, place), return_inverse=True)
    said = tuple(classes.tolist()), image_channels(settings), settings.exif
    return in_class_order(TarDataset.of("imagenet val", [index], labels.astype(np.int64), *said), index.names)


def _val_flat(folder: str, settings: DataSettings) -> FolderDataset:
    if not is_local(folder):
        raise RequestError(f"{folder}: loose images are read from local disks only; use {VAL_TAR} elsewhere")
    root = system_of(folder)[1]
    names = np.array([os.fsencode(name) for name in names_in(folder) if name.endswith(".JPEG")])
    classes, labels = np.unique(_truth(names, folder), return_inverse=True)
    said = tuple(classes.tolist()), image_channels(settings), root, names, labels.astype(np.int64), settings.exif
    return in_class_order(FolderDataset("imagenet val", *said), names)


def _truth(names: np.ndarray, place: str) -> np.ndarray:
    """Return the synset of each image by its number.

    Raises RequestError unless the numbers are exactly 1 to the number of lines in the devkit's ground truth.
    """
    matches = [VAL_NAME.fullmatch(name.rpartition(b"/")[2]) for name in names.tolist()]
    if None in matches:
        name = os.fsdecode(bytes(names[matches.index(None)]))
        raise RequestError(f"{place} has {name}, which is not in ImageNet's validation set; {LAYOUT}")
    numbers = np.array([int(match[1]) for match in matches if match])
    beside = place.rstrip("/").rpartition("/")[0] or "."
    truth = np.array(ground_truth([beside, *([place] if is_folder(place) else [])], place))
    if len(truth) != len(numbers):
        raise RequestError(f"{place} has {len(numbers)} images, but the devkit's ground truth has {len(truth)} lines")
    if sorted(numbers.tolist()) != list(range(1, len(numbers) + 1)):
        missing = min(set(range(1, len(numbers) + 1)) - set(numbers.tolist()), default=0)
        raise RequestError(f"{place} has no ILSVRC2012_val_{missing:08d}.JPEG")
    return truth[numbers - 1]
