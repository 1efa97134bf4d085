"""Look at a folder of photos: classes, splits, and the sizes and colours of a sample of its pictures."""

import io
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from resnext.data.classes import quote_names
from resnext.data.dataset import BadImageError, count_per_class
from resnext.data.decode.pillow import ImageInfo, read_image_with_info
from resnext.data.sources import image_folder
from resnext.data.sources.image_folder import TRAIN, FolderDataset
from resnext.data.suggest_groups import find_group_hint
from resnext.environment import count_available_cores
from resnext.errors import RequestError
from resnext.settings import DataSettings

SAMPLE = 64  # pictures that are decoded
TRIAL_FRACTION = 0.5  # held out to see that the folder can be split


@dataclass(frozen=True)
class PhotoSurvey:
    """What a folder of photos holds, as far as a plan for training depends on it."""

    folder: str
    classes: dict[str, int]  # pictures of each class; where the folder has splits, those in train/
    held_out_folder: str  # val, test, ...; empty if the held-out pictures must be split off
    held_out: int  # pictures in it
    sampled: int  # pictures that were decoded
    shorter_side: int  # median of the sample, in pixels
    megapixels: float  # median of the sample
    is_grey: bool  # whether all of the sample are stored without colours
    is_jpeg: bool  # whether most of the sample are JPEG files
    unreadable: tuple[str, ...] = ()  # messages on those of the sample that cannot be read
    loose: int = 0  # pictures beside the class folders, which are not used
    group_hint: str = ""  # what to do where names suggest groups of pictures that belong together

    @property
    def pictures(self) -> int:
        """Pictures in the class folders from which training images come."""
        return sum(self.classes.values())


def survey_photos(folder: Path, group: str | None = None) -> PhotoSurvey:
    """Look at the pictures of ``folder``: ``FOLDER/CLASS/PICTURE``, or the same below train/ and val/ or test/.

    All file names are listed; SAMPLE pictures, evenly spaced over the classes, are decoded. ``group`` is
    ``data.group``. Raises RequestError if the folder cannot be trained on, with what to change.
    """
    _check_layout(folder)
    splits = image_folder.find_split_folders(folder)
    settings = DataSettings(source="folder", path=str(folder), group=group)
    held_out = image_folder.find_held_out_split(splits)
    if splits and TRAIN not in splits:
        raise RequestError(f"{folder} has {held_out}/ but no {TRAIN}/: name the folder with the training pictures so")
    pictures = image_folder.scan_class_folders(folder, TRAIN if splits else "", settings)
    source = image_folder.open_folder(settings if held_out else replace(settings, val_fraction=TRIAL_FRACTION))
    hint = find_group_hint(settings, source)
    counts = dict(zip(pictures.classes, count_per_class(pictures).tolist(), strict=True))
    infos, unreadable = _inspect_sample(pictures)
    sizes = [info.size for info in infos]
    return PhotoSurvey(
        str(folder), counts, held_out, len(source.val) if held_out else 0, len(infos) + len(unreadable),
        shorter_side=int(median(map(min, sizes))),
        megapixels=median(width * height for width, height in sizes) / 1e6,
        is_grey=all(info.mode in ("1", "L", "LA") or info.mode.startswith(("I", "F")) for info in infos),
        is_jpeg=Counter(info.format for info in infos)["JPEG"] > len(infos) / 2,
        unreadable=unreadable,
        loose=0 if splits else _count_pictures(folder),
        group_hint=hint.describe() if hint else "",
    )  # fmt: skip


def _check_layout(folder: Path) -> None:
    """Raise RequestError, with what to change, for layouts that are no folder of classes."""
    example = f"{folder}/cat/1.jpg, {folder}/dog/2.jpg"
    if not any(image_folder.is_image_name(path) for path in image_folder.walk_files(str(folder))):
        endings = " ".join(image_folder.IMAGE_EXTENSIONS)
        raise RequestError(f"{folder} has no pictures (files ending in {endings})")
    inside = image_folder.list_subfolders(folder)
    loose = _count_pictures(folder)
    if not inside:
        raise RequestError(
            f"{folder} has {loose} pictures directly inside, so nothing says what they show: make one folder for each "
            f"class and move them there, such as {example}"
        )
    splits = image_folder.find_split_folders(folder)
    for root in splits.values() if splits else [folder]:
        _check_class_folders(root, image_folder.list_subfolders(root), example)


def _check_class_folders(root: Path, names: list[str], example: str) -> None:
    """Check that there are two classes, and that the pictures lie directly in the class folders."""
    deeper = [name for name in names if not _count_pictures(root / name)]
    filled = [name for name in deeper if image_folder.list_subfolders(root / name)]
    if names and len(filled) == len(names):
        below = root / filled[0]
        deep = below / image_folder.list_subfolders(below)[0]
        raise RequestError(
            f"the pictures of {root} lie deeper than one folder, as in {deep}: "
            f"give the folder that holds the class folders, such as {below}, or move the pictures up, as in {example}"
        )
    if len(names) == 1 and root.name not in image_folder.HELD_OUT_NAMES:
        raise RequestError(
            f"{root} has one class folder, {quote_names(names)}; a classifier tells at least two classes apart: add a "
            f"folder with pictures of something else, as in {example}"
        )


def _count_pictures(folder: Path) -> int:
    """Count the pictures directly in a folder."""
    return sum(image_folder.is_image_name(name) and not image_folder.is_hidden(name) for name in os.listdir(folder))


def _inspect_sample(pictures: FolderDataset) -> tuple[list[ImageInfo], tuple[str, ...]]:
    """Decode a sample; return what the readable files are, and messages on the others. RequestError if all fail."""
    indices = np.unique(np.linspace(0, len(pictures) - 1, min(SAMPLE, len(pictures))).round().astype(int)).tolist()

    def inspect(index: int) -> ImageInfo | str:
        try:
            content = io.BytesIO(pictures.read_bytes(index))
            return read_image_with_info(content, name=pictures.full_path(index))[1]
        except BadImageError as error:
            return str(error)

    with ThreadPoolExecutor(count_available_cores()) as threads:
        found = list(threads.map(inspect, indices))
    infos = [one for one in found if isinstance(one, ImageInfo)]
    unreadable = tuple(one for one in found if isinstance(one, str))
    if not infos:
        raise RequestError(f"none of {len(found)} pictures of {pictures.root} can be read, such as {unreadable[0]}")
    return infos, unreadable
