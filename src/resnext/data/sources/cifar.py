"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) from the official binary archives (the Python ones are pickles)."""

import tarfile
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from resnext.data.dataset import ArrayDataset, Source
from resnext.data.files.download import Archive, data_folder, download, find_mismatch
from resnext.errors import RequestError
from resnext.settings import DataSettings

PIXEL_BYTES = 3 * 32 * 32  # a record is the labels, then the red, green and blue planes row by row
MAX_TEXT_BYTES = 1 << 16
MAX_MEMBERS = 64


@dataclass(frozen=True, kw_only=True)
class CifarLayout:
    """Layout of one of the two archives, and the statistics of its images."""

    name: str
    archive: Archive
    folder: str  # in the archive
    train_files: tuple[str, ...]
    test_files: tuple[str, ...]
    names_file: str
    classes: int
    label_bytes: int  # CIFAR-100 has the coarse label before the fine one
    test_records: int  # in each test file
    train_records: int  # in each training file
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def record_bytes(self) -> int:
        """Size of a record in bytes."""
        return self.label_bytes + PIXEL_BYTES

    def file_sizes(self) -> dict[str, int]:
        """Return the exact size in bytes of every file of records."""
        train = dict.fromkeys(self.train_files, self.train_records * self.record_bytes)
        return train | dict.fromkeys(self.test_files, self.test_records * self.record_bytes)


def _scale_from_255(*values: float) -> tuple[float, ...]:
    return tuple(value / 255 for value in values)


# mean and std: the release's datasets/cifar10.lua and cifar100.lua, on the scale of 0..255
CIFAR10 = CifarLayout(
    name="cifar10",
    archive=Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "cifar-10-binary.tar.gz",
        170052171,
        "c32a1d4ab5d03f1284b67883e8d87530",
    ),
    folder="cifar-10-batches-bin",
    train_files=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    test_files=("test_batch.bin",),
    names_file="batches.meta.txt",
    classes=10,
    label_bytes=1,
    test_records=10000,
    train_records=10000,
    mean=_scale_from_255(125.3, 123.0, 113.9),
    std=_scale_from_255(63.0, 62.1, 66.7),
)
CIFAR100 = CifarLayout(
    name="cifar100",
    archive=Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        "cifar-100-binary.tar.gz",
        168513733,
        "03b5dce01913d631647c71ecec9e9cb8",
    ),
    folder="cifar-100-binary",
    train_files=("train.bin",),
    test_files=("test.bin",),
    names_file="fine_label_names.txt",
    classes=100,
    label_bytes=2,
    test_records=10000,
    train_records=50000,
    mean=_scale_from_255(129.3, 124.1, 112.4),
    std=_scale_from_255(68.2, 65.4, 70.4),
)


def open_cifar(settings: DataSettings, layout: CifarLayout) -> Source:
    """Open a CIFAR data set from ``settings.path``, else from the cache, else download it.

    ``settings.path`` is the archive, its unpacked folder, or a folder with either.
    """
    place = _find_data(settings, layout)
    files = _read_folder(place, layout) if place.is_dir() else _read_archive(place, layout)
    classes = _parse_class_names(files[layout.names_file], place, layout)
    train = _parse_split(files, "train", classes, place, layout)
    val = _parse_split(files, "test", classes, place, layout)
    split = f"the data set's own: {len(train)} training and {len(val)} test images"
    return Source(train, val, 32, layout.mean, layout.std, split)


open_cifar10 = partial(open_cifar, layout=CIFAR10)
open_cifar100 = partial(open_cifar, layout=CIFAR100)  # with its 100 fine classes


def _find_data(settings: DataSettings, layout: CifarLayout) -> Path:
    """Find the archive or its unpacked folder; download the archive if there is none."""
    archive = layout.archive
    given = settings.path is not None
    folder = Path(settings.path).expanduser() if settings.path is not None else data_folder()
    if given and not folder.exists():
        raise RequestError(f"data.path {folder} does not exist; it may be {archive.name} or a folder that holds it")
    if folder.is_file() or (folder / layout.names_file).is_file():
        return folder
    for candidate in (folder / layout.folder, folder / archive.name):
        if candidate.exists():
            return candidate
    if given:
        wanted = f"{archive.name}, {layout.folder}/ or {layout.names_file}"
        raise RequestError(f"data.path {folder} has none of {wanted}; {archive.manual_steps(folder)}")
    if not settings.download:
        raise RequestError(f"{layout.name} is not in {folder} and data.download is off; {archive.manual_steps(folder)}")
    return download(archive, folder)


def _read_folder(folder: Path, layout: CifarLayout) -> dict[str, bytes]:
    files = {}
    try:
        for name, size in layout.file_sizes().items():
            _check_size(folder / name, (folder / name).stat().st_size, size, layout)
            files[name] = (folder / name).read_bytes()
        with (folder / layout.names_file).open("rb") as text:
            files[layout.names_file] = text.read(MAX_TEXT_BYTES)
    except OSError as error:
        raise RequestError(f"cannot read {layout.name} in {folder}: {error}") from error
    return files


def _read_archive(path: Path, layout: CifarLayout) -> dict[str, bytes]:
    """Read the wanted files of the archive into memory. Nothing is unpacked, so names in it never become paths."""
    wrong = find_mismatch(path, layout.archive)
    if wrong:
        raise RequestError(f"{path} is not {layout.archive.url}: {wrong}; remove it to download it again")
    sizes = layout.file_sizes()
    wanted = {f"{layout.folder}/{name}": name for name in (*sizes, layout.names_file)}
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r|gz") as tar:
            for count, member in enumerate(tar):
                if count >= MAX_MEMBERS:
                    raise RequestError(f"{path} has more than {MAX_MEMBERS} members")
                name = wanted.get(member.name.removeprefix("./"))
                if name is None or name in files:
                    continue
                _check_size(path / member.name, member.size, sizes.get(name), layout)
                content = tar.extractfile(member) if member.isreg() else None
                if content is None:
                    raise RequestError(f"{path}: {member.name} is not a regular file")
                files[name] = content.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise RequestError(f"cannot read {path} as a tar.gz: {error}") from error
    missing = [name for name in wanted.values() if name not in files]
    if missing:
        raise RequestError(f"{path} lacks {layout.folder}/{missing[0]}")
    return files


def _check_size(path: Path, size: int, expected: int | None, layout: CifarLayout) -> None:
    if expected is None and size > MAX_TEXT_BYTES:
        raise RequestError(f"{path} has {size} bytes, too many for a list of class names")
    if expected is not None and size != expected:
        records = f"{expected // layout.record_bytes} records of {layout.record_bytes}"
        raise RequestError(f"{path} has {size} bytes, expected {expected} ({records})")


def _parse_class_names(text: bytes, place: Path, layout: CifarLayout) -> tuple[str, ...]:
    names = tuple(line.strip() for line in text.decode("utf-8", "replace").splitlines() if line.strip())
    if len(names) != layout.classes or len(set(names)) != len(names):
        what = f"{len(names)} class names, {len(set(names))} of them different"
        raise RequestError(f"{place}: {layout.names_file} has {what}; expected {layout.classes}")
    return names


def _parse_split(
    files: dict[str, bytes], split: str, classes: tuple[str, ...], place: Path, layout: CifarLayout
) -> ArrayDataset:
    images, labels = [], []
    for name in layout.train_files if split == "train" else layout.test_files:
        records = np.frombuffer(files[name], np.uint8).reshape(-1, layout.record_bytes)
        fine = records[:, layout.label_bytes - 1]
        if fine.max() >= layout.classes:
            where, last = int(fine.argmax()), layout.classes - 1
            raise RequestError(f"{place}: record {where} of {name} has label {fine[where]}, expected 0 to {last}")
        labels.append(fine.astype(np.int64))
        images.append(records[:, layout.label_bytes :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return ArrayDataset(f"{layout.name} {split}", classes, 3, np.concatenate(images), np.concatenate(labels))
