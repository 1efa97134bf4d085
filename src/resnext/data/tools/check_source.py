"""``resnext data check`` of ImageNet archives, WebDataset shards and Parquet files. Nothing is written."""

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from resnext.data.dataset import BadImageError, count_per_class
from resnext.data.decode.pillow import read_image_with_info
from resnext.data.encoded_dataset import EncodedDataset
from resnext.data.files.storage import GLOB_PATTERN, base_name, exists, is_folder, join_path, list_names, open_file
from resnext.data.imagenet_classes import WNID_PATTERN
from resnext.data.sources.imagenet1k import ARCHIVE_MD5S, TRAIN_TAR, VAL_TAR, has_flat_images
from resnext.data.sources.registry import open_data, open_split
from resnext.data.sources.webdataset import TAR_EXTENSIONS
from resnext.data.tools import check_folder
from resnext.data.tools.duplicates import find_duplicates, report_near_duplicates
from resnext.data.tools.findings import CheckReport, Finding
from resnext.data.tools.inspection import CheckedFile, Inspection
from resnext.data.tools.make_report import make_report
from resnext.errors import RequestError, WorkError
from resnext.settings import DataSettings, SourceName


def guess_source(path: str) -> SourceName:
    """Guess the ``data.source`` of a path from what is there; ``folder`` if nothing else fits."""
    if not exists(path) and not ("://" in path or "{" in path or GLOB_PATTERN.search(path)):
        return "folder"
    if path.startswith("hf://") or path.endswith(".parquet"):
        return "parquet"
    if not exists(path) or not is_folder(path):
        return "imagenet" if base_name(path) in (TRAIN_TAR, VAL_TAR) else "webdataset"
    names, val = list_names(path), join_path(path, "val")
    if {TRAIN_TAR, VAL_TAR} & set(names) or (is_folder(val) and has_flat_images(val)):
        return "imagenet"
    if any(name.endswith(".parquet") for name in names):
        return "parquet"
    tars = [name for name in names if name.endswith(TAR_EXTENSIONS)]
    if any(WNID_PATTERN.fullmatch(name.partition(".")[0]) for name in tars):
        return "imagenet5k"
    return "webdataset" if tars else "folder"


def check_source(settings: DataSettings, workers: int | None = None, progress: bool = False) -> CheckReport:
    """Open both splits and check every image. Raises RequestError if neither split can be opened."""
    splits: dict[str, EncodedDataset] = {}
    errors = []
    for split in ("train", "val"):
        try:
            splits[split] = open_split(settings, split)  # type: ignore[assignment]
        except (RequestError, WorkError) as error:
            errors.append(Finding("", "", split, "error", "layout", str(error)))
    if not splits:
        raise RequestError(errors[0].detail)
    findings = errors or _check_splits_together(settings)
    findings += _find_empty_classes(splits)
    images = [SplitImage(split, data, i) for split, data in splits.items() for i in range(len(data))]
    done = list(check_folder.inspect_all(images, partial(_inspect_image, settings), workers, progress))
    findings += [one.file.to_finding(problem) for one in done for problem in one.problems]
    findings += find_duplicates(done, split_unknown=False)
    findings += report_near_duplicates(done)
    counts = check_folder.count_images([one.file for one in done])
    places = {image.file: image for image in images}

    def open_picture(file: CheckedFile) -> Image.Image:
        return places[file].dataset.image(places[file].index)

    return make_report(str(settings.path), counts, findings, done, open_picture)


@dataclass(frozen=True)
class SplitImage:
    """One image of an open split."""

    split: str
    dataset: EncodedDataset
    index: int

    @property
    def file(self) -> CheckedFile:
        """Path, split and class of the image."""
        label = self.dataset.labels[self.index]
        return CheckedFile(self.dataset.image_path(self.index), self.split, self.dataset.classes[label])


def _inspect_image(settings: DataSettings, image: SplitImage) -> Inspection:
    """Check one image by reading it as training would."""
    file = image.file
    try:
        content = image.dataset.read_bytes(image.index)
        if not content:
            return Inspection(file, (("error", "zero size", "the file is empty"),))
        pixels, facts = read_image_with_info(io.BytesIO(content), settings.channels or 3, settings.exif, name=file.path)
    except BadImageError as error:
        return Inspection(file, (check_folder.classify_read_error(file.path, error),))
    except WorkError as error:
        return Inspection(file, (("error", "unreadable", str(error)),))
    return check_folder.inspect_pixels(file, pixels, facts, hashlib.sha256(content).digest())


def _check_splits_together(settings: DataSettings) -> list[Finding]:
    """Find errors that only occur when both splits are opened together, such as different classes."""
    if settings.source == "webdataset" and settings.val_path is None:
        return []
    try:
        open_data(settings)
    except (RequestError, WorkError) as error:
        return [Finding("", "", "", "error", "layout", str(error))]
    return []


def _find_empty_classes(splits: Mapping[str, EncodedDataset]) -> Iterator[Finding]:
    """Find classes of the class list that have no image in a split."""
    counts = {split: count_per_class(data) for split, data in splits.items()}
    for split, of_split in counts.items():
        for label in np.flatnonzero(of_split == 0):
            name = splits[split].classes[label]
            there = [f", {n[label]} in {other}" for other, n in counts.items() if label < len(n) and n[label]]
            yield Finding("", name, split, "warning", "class without images", f"none in {split}{''.join(there)}")


def find_wrong_archives(settings: DataSettings) -> Iterator[Finding]:
    """Find ImageNet archives with a wrong MD5. This reads all 145 GB."""
    for folder in dict.fromkeys(place for place in (settings.path, settings.val_path) if place):
        for name, expected in ARCHIVE_MD5S.items():
            place = join_path(folder, name)
            if not exists(place):
                continue
            with open_file(place) as file:
                md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()  # type: ignore[arg-type]
            if md5 != expected:
                detail = f"its MD5 is {md5}, expected {expected}"
                yield Finding(name, "", "", "error", "not the official archive", detail)
