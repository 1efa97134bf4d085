"""``resnext data check`` of ImageNet archives, WebDataset shards and Parquet files. Nothing is written."""

import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from resnext.data.check import File, Inspection, counts_of, duplicates, inspect_all, inspection, why_unreadable
from resnext.data.devkit import WNID
from resnext.data.findings import Finding, Report, in_order
from resnext.data.ilsvrc import MD5, TRAIN_TAR, VAL_NAME, VAL_TAR
from resnext.data.images import read_with_facts
from resnext.data.open import open_data, open_split
from resnext.data.parquet import ParquetDataset
from resnext.data.source import BadImage
from resnext.data.storage import MAGIC, base_name, exists, is_folder, joined, names_in, opened
from resnext.data.synsets import Images
from resnext.data.webdataset import ENDINGS
from resnext.errors import RequestError, WorkError
from resnext.settings import DataSettings

CHUNK = 1 << 22
Encoded = Images | ParquetDataset


def source_at(path: str) -> str:
    """Guess the ``data.source`` of a path from what is there; ``folder`` if nothing else fits."""
    if not exists(path) and not ("://" in path or "{" in path or MAGIC.search(path)):
        return "folder"
    if path.startswith("hf://") or path.endswith(".parquet"):
        return "parquet"
    if not exists(path) or not is_folder(path):
        return "imagenet" if base_name(path) in (TRAIN_TAR, VAL_TAR) else "webdataset"
    names = names_in(path)
    if {TRAIN_TAR, VAL_TAR} & set(names) or _is_flat(path):
        return "imagenet"
    if any(name.endswith(".parquet") for name in names):
        return "parquet"
    tars = [name for name in names if name.endswith(ENDINGS)]
    if any(WNID.fullmatch(name.partition(".")[0]) for name in tars):
        return "imagenet5k"
    return "webdataset" if tars else "folder"


def _is_flat(path: str) -> bool:
    val = joined(path, "val")
    return is_folder(val) and any(VAL_NAME.fullmatch(name.encode("utf-8", "replace")) for name in names_in(val))


def check_source(
    settings: DataSettings, workers: int | None = None, progress: bool = False, md5: bool = False
) -> Report:
    """Open both splits and check every image. Raises RequestError if neither split can be opened."""
    findings: list[Finding] = list(_wrong_archives(settings)) if md5 else []
    splits: dict[str, Encoded] = {}
    errors = []
    for split in ("train", "val"):
        try:
            splits[split] = open_split(settings, split)  # type: ignore[assignment]
        except (RequestError, WorkError) as error:
            errors.append(Finding("", "", split, "error", "layout", str(error)))
    if not splits:
        raise RequestError(errors[0].detail)
    findings += errors or _disagreement(settings)
    findings += _find_empty_classes(splits)
    images = [Image(split, data, i) for split, data in splits.items() for i in range(len(data))]
    done = list(inspect_all(images, partial(_inspect, settings), workers, progress))
    findings += [one.file.finding(problem) for one in done for problem in one.problems]
    findings += duplicates(done, unstated=False)
    return Report(str(settings.path), counts_of([one.file for one in done]), in_order(findings))


@dataclass(frozen=True)
class Image:
    """One image of an open split."""

    split: str
    dataset: Encoded
    index: int

    @property
    def file(self) -> File:
        """Path, split and class of the image."""
        label = self.dataset.labels[self.index]
        return File(self.dataset.where(self.index), self.split, self.dataset.classes[label])


def _inspect(settings: DataSettings, image: Image) -> Inspection:
    """Check one image by reading it as training would."""
    file = image.file
    try:
        content = image.dataset.encoded(image.index)
        if not content:
            return Inspection(file, (("error", "zero size", "the file is empty"),))
        pixels, facts = read_with_facts(io.BytesIO(content), settings.channels or 3, settings.exif, name=file.path)
    except BadImage as error:
        return Inspection(file, (why_unreadable(file.path, error),))
    except WorkError as error:
        return Inspection(file, (("error", "unreadable", str(error)),))
    return inspection(file, pixels, facts, hashlib.sha256(content).digest())


def _disagreement(settings: DataSettings) -> list[Finding]:
    """Find errors that only occur when both splits are opened together, such as different classes."""
    if settings.source == "webdataset" and settings.val_path is None:
        return []
    try:
        open_data(settings)
    except (RequestError, WorkError) as error:
        return [Finding("", "", "", "error", "layout", str(error))]
    return []


def _find_empty_classes(splits: Mapping[str, Encoded]) -> Iterator[Finding]:
    """Find classes of the class list that have no image in a split."""
    counts = {split: np.bincount(data.labels, minlength=len(data.classes)) for split, data in splits.items()}
    for split, of_split in counts.items():
        for label in np.flatnonzero(of_split == 0):
            name = splits[split].classes[label]
            there = [
                f", {counts[other][label]} in {other}"
                for other in counts
                if label < len(counts[other]) and counts[other][label]
            ]
            yield Finding("", name, split, "warning", "class without images", f"none in {split}{''.join(there)}")


def _wrong_archives(settings: DataSettings) -> Iterator[Finding]:
    """Find ImageNet archives with a wrong MD5. This reads all 145 GB."""
    for folder in dict.fromkeys(place for place in (settings.path, settings.val_path) if place):
        for name, expected in MD5.items():
            place = joined(folder, name)
            if not exists(place):
                continue
            digest = hashlib.md5(usedforsecurity=False)
            with opened(place) as file:
                while chunk := file.read(CHUNK):
                    digest.update(chunk)
            if digest.hexdigest() != expected:
                detail = f"its MD5 is {digest.hexdigest()}, expected {expected}"
                yield Finding(name, "", "", "error", "not the official archive", detail)
