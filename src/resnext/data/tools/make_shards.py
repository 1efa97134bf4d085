"""``resnext data shard``: write a data set as WebDataset shards."""

import csv
import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from resnext.data.decode.pillow import IMAGE_EXTENSIONS
from resnext.data.encoded_dataset import EncodedDataset
from resnext.data.seeding import ORDER_KEY, derive_seed
from resnext.data.sources.registry import open_data
from resnext.errors import RequestError
from resnext.files import check_folder, report_write_errors, sync_folder
from resnext.settings import DataSettings

CLASSES_FILE, ORIGINS_FILE = "classes.txt", "origins.csv"


def make_shards(settings: DataSettings, out: Path, per_shard: int, seed: int) -> dict[str, int]:
    """Write ``out/train-000000.tar`` ..., ``out/val-000000.tar`` ..., the class names and the origin of each image.

    The image files are copied unchanged, in an order drawn with ``seed``. ``out`` appears only when it is complete.
    Returns the number of shards of each split.
    """
    if out.exists():
        raise RequestError(f"{out} exists already, and nothing is overwritten; give a folder that does not exist")
    if not out.resolve().parent.is_dir():
        raise RequestError(f"{out} must be in an existing folder")
    check_folder(out.absolute().parent, f"{out}: the folder")
    source = open_data(settings)
    if any("\n" in name for name in source.train.classes):
        raise RequestError("a class name has a line break, so the classes cannot be listed one a line")
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # left by a killed process
    try:
        with report_write_errors(out):
            part.mkdir()
            classes = "".join(f"{name}\n" for name in source.train.classes)
            (part / CLASSES_FILE).write_text(classes, "utf-8", "surrogateescape")
            with (part / ORIGINS_FILE).open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(("shard", "key", "class", "path"))
                counts = {}
                for split, dataset in (("train", source.train), ("val", source.val)):
                    counts[split] = _write_split(part, split, dataset, per_shard, seed, rows.writerow)  # type: ignore[arg-type]
            os.replace(part, out)
            sync_folder(out.resolve().parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return counts


def _write_split(
    folder: Path, split: str, dataset: EncodedDataset, per_shard: int, seed: int, note: Callable[[tuple[str, ...]], Any]
) -> int:
    """Write the shards of one split and return their number."""
    drawn = np.random.Generator(np.random.PCG64(derive_seed(seed, 0, ORDER_KEY))).permutation(len(dataset))
    shards = range(0, len(drawn), per_shard)
    for number, start in enumerate(shards):
        path = folder / f"{split}-{number:06d}.tar"
        with path.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for place, index in enumerate(drawn[start : start + per_shard].tolist(), start):
                    key, label, origin = f"{place:09d}", int(dataset.labels[index]), dataset.image_path(index)
                    extension = PurePosixPath(origin).suffix.lower()
                    image = key + (extension if extension in IMAGE_EXTENSIONS else ".jpg")
                    for name, content in ((image, dataset.read_bytes(index)), (f"{key}.cls", b"%d" % label)):
                        info = tarfile.TarInfo(name)
                        info.size = len(content)
                        tar.addfile(info, io.BytesIO(content))
                    note((path.name, key, dataset.classes[label], origin))
            file.flush()
            os.fsync(file.fileno())
    return len(shards)
