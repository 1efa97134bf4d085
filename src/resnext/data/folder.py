"""One's own images: a folder a class, with ``train/`` and ``val/`` above them or a split that is stated."""

import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from resnext.data.classes import class_difference, listing
from resnext.data.images import EXTENSIONS, read_image
from resnext.data.source import BadImage, Dataset, Source, choose_held_out
from resnext.errors import RequestError
from resnext.settings import DataSettings

TRAIN = "train"
HELD_OUT = ("val", "valid", "validation", "test")  # the first that is there is evaluated on
LAYOUT = (
    "expected PATH/train/CLASS/IMAGE and PATH/val/CLASS/IMAGE, or PATH/CLASS/IMAGE with a share to hold out "
    "(data.val_fraction), in files ending in " + " ".join(EXTENSIONS)
)
IMAGE_SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as everybody has them
GREY_MEAN, GREY_STD = (0.459,), (0.226,)  # the luma of that mean colour; the middle of the deviations


@dataclass(frozen=True, eq=False)
class FolderDataset:
    """Image files below ``root``. ``paths`` are relative and held as one array of bytes: a list of a million
    strings would be copied to every worker. ``labels`` int64 [N]."""

    name: str
    classes: tuple[str, ...]
    channels: int
    root: str
    paths: np.ndarray
    labels: np.ndarray
    exif: bool = True
    in_memory: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        return read_image(os.path.join(self.root, self.where(index)), self.channels, self.exif)

    def encoded(self, index: int) -> bytes:
        """The image's file as it is. Raises BadImage where it cannot be read."""
        path = os.path.join(self.root, self.where(index))
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise BadImage(path, "not a regular file")  # a pipe would never end
            with open(path, "rb", buffering=0) as file:
                return file.readall()
        except OSError as error:
            raise BadImage(path, error.strerror or str(error)) from error

    def decoded(self, file: bytes, index: int) -> Image.Image:
        """The image in the bytes that ``encoded`` gave."""
        return read_image(io.BytesIO(file), self.channels, self.exif, os.path.join(self.root, self.where(index)))

    def where(self, index: int) -> str:
        return os.fsdecode(bytes(self.paths[index]))

    def selected(self, indices: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], name: str) -> "FolderDataset":
        """The images at ``indices``, in that order, under new labels and classes."""
        return replace(self, name=name, classes=classes, labels=labels, paths=self.paths[indices])


def open_folder(settings: DataSettings) -> Source:
    """Train and val of ``settings.path``. Raises RequestError that says what is missing and where."""
    root = data_root(settings)
    splits = split_folders(root)
    if settings.val_fraction is not None and len(splits) > 1:
        found = " and ".join(f"{name}/" for name in splits)
        raise RequestError(f"{root} has {found} already; leave data.val_fraction out")
    held_out = held_out_name(splits)
    if TRAIN in splits and held_out:
        train = scan(root, TRAIN, settings)
        val = scan(root, held_out, settings)
        _same_classes(root, train, val, held_out)
        split = f"{TRAIN}/ trains ({len(train)} images), {held_out}/ is held out ({len(val)})"
        return photographs(train, val, settings, split)
    if splits and TRAIN not in splits:
        raise RequestError(f"{root} has {next(iter(splits))}/ but no {TRAIN}/; {LAYOUT}")
    if settings.val_fraction is None:
        what = f"{root} has {TRAIN}/ but nothing held out" if splits else f"{root} is one folder of classes"
        raise RequestError(
            f"{what}: give the share to hold out, such as data.val_fraction 0.1, or add val/ with the same classes"
        )
    whole = scan(root, TRAIN if splits else "", settings)
    train, val = divided(whole, settings.val_fraction, settings.split_seed)
    split = (
        f"a hash of each path with split_seed {settings.split_seed} holds out about {settings.val_fraction:g} "
        f"of each class ({len(train)} train, {len(val)} held out)"
    )
    return photographs(train, val, settings, split)


def open_folder_split(settings: DataSettings, split: str) -> Dataset:
    """One split alone, for evaluation: also of a folder that has nothing else, or that is one folder of classes."""
    root = data_root(settings)
    splits = split_folders(root)
    if settings.val_fraction is not None or (TRAIN in splits and held_out_name(splits)):
        source = open_folder(settings)
        return source.train if split == TRAIN else source.val
    folder = TRAIN if split == TRAIN else held_out_name(splits)
    if splits and folder not in splits:
        raise RequestError(f"{root} has {', '.join(f'{name}/' for name in splits)} but nothing for {split}; {LAYOUT}")
    return scan(root, folder if splits else "", settings)


def data_root(settings: DataSettings) -> Path:
    """The folder the settings name. Raises RequestError unless it is there."""
    if settings.path is None:
        raise RequestError("data.source folder needs data.path, the folder that holds the images")
    root = Path(settings.path).expanduser()
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise RequestError(f"data.path {root} {what}; {LAYOUT}")
    return root


def split_folders(root: Path) -> dict[str, Path]:
    """The folders of ``root`` that are splits, in the order train, val, ..., test; empty for one folder of classes.

    A class may be called ``train`` as well: alone, it is a split only when there are folders in it.
    """
    found = {name: root / name for name in (TRAIN, *HELD_OUT) if (root / name).is_dir()}
    if len(found) > 1 and TRAIN in found:
        return found
    return {name: path for name, path in found.items() if subfolders(path)}


def held_out_name(splits: dict[str, Path]) -> str:
    return next((name for name in HELD_OUT if name in splits), "")


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in ``folder``, plain sorted, without hidden ones: the class names of a split."""
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())
    except OSError as error:
        raise RequestError(f"cannot list {folder}: {error.strerror}") from error


def files_below(folder: str, above: tuple[tuple[int, int], ...] = ()) -> Iterator[str]:
    """Every file below ``folder``, symbolic links followed, hidden names left out, a link to a folder above too."""
    try:
        status = os.stat(folder)
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            return
        with os.scandir(folder) as entries:
            listed = [(e.name, e.is_dir()) for e in entries if not e.name.startswith(".")]
    except OSError as error:
        raise RequestError(f"cannot list {folder}: {error.strerror}") from error
    for name, is_folder in listed:
        path = os.path.join(folder, name)
        if is_folder:
            yield from files_below(path, (*above, identity))
        else:
            yield path


def image_channels(settings: DataSettings) -> int:
    """3, or what the settings say. Raises RequestError for 2."""
    if settings.channels == 2:
        raise RequestError("data.channels 2 is no way to read images; choose 3 (RGB) or 1 (grey)")
    return settings.channels or 3


def is_image_name(path: str) -> bool:
    return path.lower().endswith(EXTENSIONS)


def image_files(folder: Path) -> list[str]:
    """The image files of a class folder, in torchvision's order: folder by folder, names plain sorted."""
    return sorted((path for path in files_below(str(folder)) if is_image_name(path)), key=os.path.split)


def scan(root: Path, split: str, settings: DataSettings) -> FolderDataset:
    """All images of ``root/split/CLASS``. Raises RequestError for no classes, one class, or one without images."""
    channels = image_channels(settings)
    folder = root / split
    classes = subfolders(folder)
    if not classes:
        raise RequestError(f"{folder} has no class folders; {LAYOUT}")
    files = [image_files(folder / name) for name in classes]
    empty = [name for name, found in zip(classes, files, strict=True) if not found]
    if len(empty) == len(classes):
        raise RequestError(f"{folder} has no images in its {len(classes)} folders; {LAYOUT}")
    if empty:
        raise RequestError(
            f"class folder {listing(empty)} of {folder} has no images; remove it or fill it "
            f"(read are {' '.join(EXTENSIONS)})"
        )
    if len(classes) == 1:
        raise RequestError(f"{folder} has one class, {classes[0]!r}; a classifier needs at least two; {LAYOUT}")
    paths = []
    for name, found in zip(classes, files, strict=True):
        below, relative = len(str(folder / name)), os.path.join(split, name)
        paths += [os.fsencode(relative + path[below:]) for path in found]
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(found) for found in files])
    name = f"{root.resolve().name} {split or 'all'}"
    return FolderDataset(name, tuple(classes), channels, str(root), np.array(paths), labels, settings.exif)


def divided(whole: FolderDataset, fraction: float, seed: int) -> tuple[FolderDataset, FolderDataset]:
    """Train and val of one folder, class by class.

    An image's side is a function of its path and the seed (``choose_held_out``); classes of one image are a
    RequestError.
    """
    counts = np.bincount(whole.labels, minlength=len(whole.classes))
    single = [whole.classes[i] for i in np.flatnonzero(counts == 1)]
    if single:
        raise RequestError(f"class {listing(single)} has one image, and a split needs two; add images or remove it")
    held_out = np.zeros(len(whole), bool)
    for stop, count in zip(np.cumsum(counts), counts, strict=True):  # labels rise from class to class
        of_class = slice(stop - count, stop)
        held_out[of_class] = choose_held_out([bytes(path) for path in whole.paths[of_class]], fraction, seed)
    return _part(whole, ~held_out, "train"), _part(whole, held_out, "val")


def _part(whole: FolderDataset, mask: np.ndarray, split: str) -> FolderDataset:
    name = f"{whole.name.rsplit(' ', 1)[0]} {split}"
    return whole.selected(np.flatnonzero(mask), whole.labels[mask], whole.classes, name)


def _same_classes(root: Path, train: FolderDataset, val: FolderDataset, held_out: str) -> None:
    difference = class_difference(train.classes, val.classes, f"{TRAIN}/", f"{held_out}/")
    if difference:
        raise RequestError(f"the class folders of {root} differ: {difference}")


def photographs(
    train: Dataset, val: Dataset, settings: DataSettings, split: str, lists: dict[str, str] | None = None
) -> Source:
    """Two splits of ordinary pictures as a source: ImageNet's view and colours."""
    grey = settings.channels == 1
    return Source(train, val, IMAGE_SIZE, GREY_MEAN if grey else MEAN, GREY_STD if grey else STD, split, lists or {})
