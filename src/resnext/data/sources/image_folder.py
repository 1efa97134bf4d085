"""Image folders: one folder for each class, in ``train/`` and ``val/`` or in one folder that is split by hash."""

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from resnext.data.classes import describe_class_difference, quote_names
from resnext.data.dataset import BadImageError, Dataset, Source, choose_held_out, count_per_class
from resnext.data.decode.pillow import IMAGE_EXTENSIONS, UNSUPPORTED_EXTENSIONS
from resnext.data.encoded_dataset import EncodedDataset
from resnext.data.groups import list_groups
from resnext.data.sources import group_split
from resnext.errors import RequestError
from resnext.run_directory import SPLIT_FILE
from resnext.settings import DataSettings
from resnext.speed.cache_folder import warn_once

TRAIN = "train"
HELD_OUT_NAMES = ("val", "valid", "validation", "test")  # the first that exists is the val split
# names that look like a split, but are not those above
TRAIN_LIKE_PATTERN = re.compile(r"(seg_)?train(ing)?([_ -]?(set|data|images))?", re.IGNORECASE)
HELD_OUT_LIKE_PATTERN = re.compile(r"(seg_)?(val(id(ation)?)?|test(ing)?)([_ -]?(set|data|images))?", re.IGNORECASE)
# folders that operating systems and network disks create
SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found")
LAYOUT_HINT = (
    "expected PATH/train/CLASS/IMAGE and PATH/val/CLASS/IMAGE, or PATH/CLASS/IMAGE and data.val_fraction, "
    "in files ending in " + " ".join(IMAGE_EXTENSIONS)
)
IMAGE_SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # the usual values for ImageNet
GREY_MEAN, GREY_STD = (0.459,), (0.226,)  # the luma of that mean; the average of these deviations


@dataclass(frozen=True, eq=False)
class FolderDataset(EncodedDataset):
    """Image files below ``root``."""

    name: str
    classes: tuple[str, ...]
    channels: int
    root: str
    file_names: np.ndarray  # relative paths, bytes [N]; a list of a million strings would be copied to every worker
    labels: np.ndarray  # int64 [N]
    exif: bool = True

    def read_bytes(self, index: int) -> bytes:
        """Return the content of the image's file. Raises BadImage if it cannot be read."""
        path = self.full_path(index)
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise BadImageError(path, "not a regular file")  # reading a pipe would never end
            with open(path, "rb", buffering=0) as file:
                return file.readall()
        except OSError as error:
            raise BadImageError(path, error.strerror or str(error)) from error

    def image_path(self, index: int) -> str:
        """Return the image's path relative to the root."""
        return os.fsdecode(bytes(self.file_names[index]))

    def full_path(self, index: int) -> str:
        """Return the image's path with the root."""
        return os.path.join(self.root, self.image_path(index))

    def select(self, indices: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], name: str) -> "FolderDataset":
        """Select the images at ``indices``, in that order, with new labels, classes and name."""
        return replace(self, name=name, classes=classes, labels=labels, file_names=self.file_names[indices])


def open_folder(settings: DataSettings) -> Source:
    """Open both splits of ``settings.path``."""
    root = resolve_data_root(settings)
    splits = find_split_folders(root)
    if settings.val_fraction is not None and len(splits) > 1:
        names = " and ".join(f"{name}/" for name in splits)
        raise RequestError(
            f"{root} has {names} already; remove data.val_fraction, or set data.path {root / TRAIN} to split that "
            "folder"
        )
    held_out = find_held_out_split(splits)
    if TRAIN in splits and held_out:
        train = scan_class_folders(root, TRAIN, settings)
        found = scan_class_folders(root, held_out, settings, min_classes=1)
        val = _relabel_to_train_classes(train, found, root, held_out)
        if settings.group is not None:
            sides = list_groups(train, settings.group), list_groups(val, settings.group)
            group_split.check_sides(*sides, (TRAIN, held_out), settings.group)
        lacking = [name for name, count in zip(train.classes, count_per_class(val), strict=True) if not count]
        split = f"{TRAIN}/ trains ({len(train)} images), {held_out}/ is held out ({len(val)})"
        split += f", without any of {quote_names(lacking)}" if lacking else ""
        return natural_image_source(train, val, settings, split)
    if splits and TRAIN not in splits:
        raise RequestError(f"{root} has {next(iter(splits))}/ but no {TRAIN}/; {LAYOUT_HINT}")
    if settings.val_fraction is None and settings.fold is None:
        what = f"{root} has {TRAIN}/ but no val/" if splits else f"{root} is one folder of classes"
        raise RequestError(
            f"{what}: set the share to hold out, such as data.val_fraction 0.1, or add val/ with the same classes"
        )
    whole = scan_class_folders(root, TRAIN if splits else "", settings)
    if settings.val_fraction is None:
        return natural_image_source(whole, whole, settings, "a fold is held out")  # by open_data
    if settings.group is not None:
        return _open_by_group(whole, settings)
    train, val = split_by_hash(whole, settings.val_fraction, settings.split_seed)
    split = (
        f"a hash of each path with split_seed {settings.split_seed} holds out about {settings.val_fraction:g} "
        f"of each class ({len(train)} train, {len(val)} held out)"
    )
    return natural_image_source(train, val, settings, split)


def _open_by_group(whole: FolderDataset, settings: DataSettings) -> Source:
    """Split one folder by ``settings.group``; the run keeps the split, so that new files do not change it."""
    paths = [whole.image_path(index) for index in range(len(whole))]
    used, held_out, rule, record = group_split.split_by_group(paths, whole.labels, whole.classes, whole.root, settings)
    train, val = _take_split(whole, used & ~held_out, "train"), _take_split(whole, held_out, "val")
    return natural_image_source(train, val, settings, rule, {SPLIT_FILE: record})


def open_folder_split(settings: DataSettings, split: str) -> Dataset:
    """Open one split, for evaluation. The folder may have only this split, or be one folder of classes."""
    root = resolve_data_root(settings)
    splits = find_split_folders(root)
    if settings.val_fraction is not None or (TRAIN in splits and find_held_out_split(splits)):
        source = open_folder(settings)
        return source.train if split == TRAIN else source.val
    folder = TRAIN if split == TRAIN else find_held_out_split(splits)
    if splits and folder not in splits:
        names = ", ".join(f"{name}/" for name in splits)
        raise RequestError(f"{root} has {names} but nothing for {split}; {LAYOUT_HINT}")
    return scan_class_folders(root, folder if splits else "", settings, min_classes=1)


def resolve_data_root(settings: DataSettings) -> Path:
    """Return the folder of ``settings.path``."""
    if settings.path is None:
        raise RequestError("data.source folder needs data.path, the folder with the images")
    root = Path(settings.path).expanduser()
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise RequestError(f"data.path {root} {what}; {LAYOUT_HINT}")
    return root


def find_split_folders(root: Path) -> dict[str, Path]:
    """Find the split folders of ``root``, in the order train, val, ..., test; none for one folder of classes.

    A class may be named ``train``: a single such folder is a split only if it has subfolders. Raises RequestError for
    folders that can only be splits but have other names (``Training``, ``Val``).
    """
    for name in (TRAIN, *HELD_OUT_NAMES):
        _check_link(str(root / name))
    found = {name: root / name for name in (TRAIN, *HELD_OUT_NAMES) if (root / name).is_dir()}
    if len(found) > 1 and TRAIN in found:
        return found
    names = list_subfolders(root)
    found = {name: path for name, path in found.items() if list_subfolders(path)}
    trains = list(filter(TRAIN_LIKE_PATTERN.fullmatch, names))
    held_out = list(filter(HELD_OUT_LIKE_PATTERN.fullmatch, names))
    if trains and held_out:
        raise RequestError(
            f"{root} has {trains[0]}/ and {held_out[0]}/, which look like splits; these must be named {TRAIN}/ and "
            f"{HELD_OUT_NAMES[0]}/: rename them, or make links with these names"
        )
    if len(names) == 1 and TRAIN in list_subfolders(root / names[0]):
        raise RequestError(f"{root} has nothing but {names[0]}/, which has the splits: set data.path {root / names[0]}")
    return found


def find_held_out_split(splits: dict[str, Path]) -> str:
    """Return the name of the val split, or an empty text."""
    return next((name for name in HELD_OUT_NAMES if name in splits), "")


def is_hidden(name: str) -> bool:
    """Whether a file or folder is ignored: hidden, or a system folder."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


def list_subfolders(folder: Path) -> list[str]:
    """List the subfolders, sorted, without hidden ones. For a split these are the class names."""
    return sorted(name for name, is_folder in _list_entries(str(folder)) if is_folder)


def _list_entries(folder: str) -> list[tuple[str, bool]]:
    """List the entries that are not hidden: name, and whether it is a folder.

    Raises RequestError, also for a broken link, since its target may have been a folder of images.
    """
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not is_hidden(entry.name)]
            listed = [(entry.name, entry.is_dir()) for entry in shown]
    except OSError as error:
        raise RequestError(f"cannot list {folder}: {error.strerror}") from error
    for entry in shown:
        if entry.is_symlink() and not is_image_name(entry.name):
            _check_link(entry.path)
    return listed


def _check_link(path: str) -> None:
    if os.path.islink(path) and not os.path.exists(path):
        raise RequestError(f"{path} is a link to {os.readlink(path)}, which does not exist; repair or remove it")


def walk_files(folder: str, above: tuple[tuple[int, int], ...] = ()) -> Iterator[str]:
    """Iterate over all files below ``folder``. Links are followed; hidden names and links to a parent are skipped."""
    try:
        status = os.stat(folder)
    except OSError as error:
        raise RequestError(f"cannot list {folder}: {error.strerror}") from error
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    if not above:
        above = tuple((there.st_dev, there.st_ino) for there in map(os.stat, Path(folder).absolute().parents))
    for name, is_folder in _list_entries(folder):
        path = os.path.join(folder, name)
        if is_folder:
            yield from walk_files(path, (*above, identity))
        else:
            yield path


def resolve_channels(settings: DataSettings) -> int:
    """Return ``settings.channels``, or 3 by default. Raises RequestError for 2."""
    if settings.channels == 2:
        raise RequestError("data.channels 2 is not possible for image files; choose 3 (RGB) or 1 (grey)")
    return settings.channels or 3


def is_image_name(path: str) -> bool:
    """Whether the extension is that of an image file we read."""
    return path.lower().endswith(IMAGE_EXTENSIONS)


def scan_class_folders(root: Path, split: str, settings: DataSettings, min_classes: int = 2) -> FolderDataset:
    """Scan the images of ``root/split/CLASS``: at least ``min_classes`` classes, none of them empty."""
    channels = resolve_channels(settings)
    folder = root / split
    classes = list_subfolders(folder)
    if not classes:
        raise RequestError(f"{folder} has no class folders; {LAYOUT_HINT}")
    listed = [list(walk_files(str(folder / name))) for name in classes]
    files = [sorted(filter(is_image_name, found), key=os.path.split) for found in listed]  # as torchvision's
    empty = [name for name, found in zip(classes, files, strict=True) if not found]
    if len(empty) == len(classes):
        raise RequestError(f"{folder} has no images in its {len(classes)} folders; {LAYOUT_HINT}")
    if empty:
        raise RequestError(
            f"class folder {quote_names(empty)} of {folder} has no images; remove it or add images "
            f"({' '.join(IMAGE_EXTENSIONS)})"
        )
    if len(classes) < min_classes:
        raise RequestError(f"{folder} has one class, {classes[0]!r}; a classifier needs at least two; {LAYOUT_HINT}")
    _warn_skipped_files(folder, listed)
    paths = []
    for name, found in zip(classes, files, strict=True):
        below, relative = len(str(folder / name)), os.path.join(split, name)
        paths += [os.fsencode(relative + path[below:]) for path in found]
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(found) for found in files])
    name = f"{root.resolve().name} {split or 'all'}"
    return FolderDataset(name, tuple(classes), channels, str(root), np.array(paths), labels, settings.exif)


def _warn_skipped_files(folder: Path, listed: list[list[str]]) -> None:
    """Warn of images in unsupported formats. Other files among the images are ignored."""
    endings = Counter(os.path.splitext(path)[1].lower() for found in listed for path in found)
    kinds = ", ".join(f"{endings[ending]} {ending}" for ending in UNSUPPORTED_EXTENSIONS if endings[ending])
    if kinds:
        warn_once(f"{folder}: images in unsupported formats are left out ({kinds}); convert them to PNG or JPEG")


def split_by_hash(whole: FolderDataset, fraction: float, seed: int) -> tuple[FolderDataset, FolderDataset]:
    """Split one folder into train and val, class by class, by a hash of each path and the seed."""
    counts = count_per_class(whole)
    single = [whole.classes[i] for i in np.flatnonzero(counts == 1)]
    if single:
        raise RequestError(f"class {quote_names(single)} has one image, and a split needs two; add images or remove it")
    held_out = np.zeros(len(whole), bool)
    for stop, count in zip(np.cumsum(counts), counts, strict=True):  # images are sorted by label
        of_class = slice(stop - count, stop)
        held_out[of_class] = choose_held_out([bytes(path) for path in whole.file_names[of_class]], fraction, seed)
    return _take_split(whole, ~held_out, "train"), _take_split(whole, held_out, "val")


def _take_split(whole: FolderDataset, mask: np.ndarray, split: str) -> FolderDataset:
    name = f"{whole.name.rsplit(' ', 1)[0]} {split}"
    return whole.select(np.flatnonzero(mask), whole.labels[mask], whole.classes, name)


def _relabel_to_train_classes(train: FolderDataset, val: FolderDataset, root: Path, held_out: str) -> FolderDataset:
    """Give ``val`` the classes of ``train``; it may lack some. Raises RequestError if it has other classes."""
    label_of = {name: label for label, name in enumerate(train.classes)}
    if not set(val.classes) <= label_of.keys():
        difference = describe_class_difference(train.classes, val.classes, f"{TRAIN}/", f"{held_out}/")
        raise RequestError(f"the class folders of {root} differ: {difference}")
    labels = np.array([label_of[name] for name in val.classes], np.int64)[val.labels]
    return replace(val, labels=labels, classes=train.classes)


def natural_image_source(
    train: Dataset, val: Dataset, settings: DataSettings, split: str, extra_files: dict[str, str] | None = None
) -> Source:
    """Make a source of two splits of natural images, with the image size, mean and std of ImageNet."""
    mean, std = (GREY_MEAN, GREY_STD) if settings.channels == 1 else (MEAN, STD)
    return Source(train, val, IMAGE_SIZE, mean, std, split, extra_files or {})
