"""Write the same sample images in every layout that the sources read."""

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from resnext.data.dataset import Dataset
from resnext.data.imagenet_classes import ilsvrc2012_synsets, imagenet_synsets

WNIDS = imagenet_synsets()[5:500:99]


class SampleImage(NamedTuple):
    split: str  # train or val
    wnid: str
    name: str  # as in ImageNet
    content: bytes


def make_jpeg(seed: int, size: tuple[int, int] = (40, 36)) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def make_sample_images(wnids: Iterable[str] = WNIDS, train: int = 2) -> list[SampleImage]:
    """Make numbered images as in ImageNet: val images are not sorted by class, train images not by name."""
    wnids = list(wnids)
    contents = (make_jpeg(seed) for seed in range(10_000))
    return arrange_by_class([(wnid, [next(contents) for _ in range(train + 1)]) for wnid in wnids])


def read_sample_images(tar: tarfile.TarFile) -> list[SampleImage]:
    contents = [(m.name.split("/")[1], read_member(tar, m.name)) for m in tar.getmembers()[:36] if m.isreg()]
    return arrange_by_class(
        [(wnid, [a, contents[12 + i][1], contents[24 + i][1]]) for i, (wnid, a) in enumerate(contents[:12])]
    )


def arrange_by_class(classes: list[tuple[str, list[bytes]]]) -> list[SampleImage]:
    found = []
    for wnid, contents in classes:
        found += [SampleImage("train", wnid, f"{wnid}_{100 - i}.JPEG", c) for i, c in enumerate(contents[1:])]
    shuffled = np.random.default_rng(1).permutation(len(classes))
    for number, i in enumerate(shuffled, 1):
        found.append(SampleImage("val", classes[i][0], f"ILSVRC2012_val_{number:08d}.JPEG", classes[i][1][0]))
    return found


def read_member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None
    return file.read()


def tar_bytes(files: Mapping[str, bytes] | Iterable[tuple[str, bytes]], mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items() if isinstance(files, Mapping) else files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def write_file(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def select_split(images: list[SampleImage], split: str) -> list[SampleImage]:
    return [image for image in images if image.split == split]


def write_folders(root: Path, images: list[SampleImage]) -> Path:
    for image in images:
        write_file(root / image.split / image.wnid / image.name, image.content)
    return root


def write_archives(root: Path, images: list[SampleImage]) -> Path:
    """Write the three files of ImageNet as downloaded."""
    write_file(root / "ILSVRC2012_img_train.tar", tar_of_tars(select_split(images, "train")))
    write_file(
        root / "ILSVRC2012_img_val.tar", tar_bytes((image.name, image.content) for image in select_split(images, "val"))
    )
    write_file(root / "ILSVRC2012_devkit_t12.tar.gz", tar_bytes(devkit_files(images), "w:gz"))
    return root


def tar_of_tars(images: list[SampleImage], folder: str = "") -> bytes:
    return tar_bytes((f"{folder}{wnid}.tar", content) for wnid, content in class_tars(images).items())


def class_tars(images: list[SampleImage]) -> dict[str, bytes]:
    wnids = dict.fromkeys(image.wnid for image in reversed(images))  # in no sorted order
    return {wnid: tar_bytes((i.name, i.content) for i in images if i.wnid == wnid) for wnid in wnids}


def devkit_files(images: list[SampleImage], truth: list[object] | None = None) -> dict[str, bytes]:
    """Make the ground truth with the official numbers of the synsets; ``truth`` replaces them."""
    val = sorted(select_split(images, "val"), key=lambda image: image.name)
    numbers = {wnid: number for number, wnid in enumerate(ilsvrc2012_synsets(), 1)}
    lines = truth if truth is not None else [numbers.get(image.wnid, 1) for image in val]
    text = "".join(f"{line}\n" for line in lines).encode()
    return {"ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": text}


def write_shards(root: Path, images: list[SampleImage], per_shard: int = 4, kind: str = "cls") -> Path:
    """Write train-000000.tar ... and val-000000.tar ..., sorted by class and name."""
    wnids = sorted({image.wnid for image in images})
    for split in ("train", "val"):
        ordered = sorted(select_split(images, split), key=lambda image: (image.wnid, image.name))
        for start in range(0, len(ordered), per_shard):
            files = []
            for image in ordered[start : start + per_shard]:
                key, label = image.name.removesuffix(".JPEG"), wnids.index(image.wnid)
                files.append((f"{key}.{kind}", f"{label}\n".encode() if kind == "cls" else b'{"label": %d}' % label))
                files.append((f"{key}.jpg", image.content))
            write_file(root / f"{split}-{start // per_shard:06d}.tar", tar_bytes(files))
    return root


def write_parquet(root: Path, images: list[SampleImage], named: bool = True) -> Path:
    """Write train-00000-of-00002.parquet ..., named as on the hub."""
    import datasets

    wnids = sorted({image.wnid for image in images})
    label = datasets.ClassLabel(names=wnids) if named else datasets.Value("int64")
    root.mkdir(parents=True, exist_ok=True)
    for split, word in (("train", "train"), ("val", "validation")):
        ordered = sorted(select_split(images, split), key=lambda image: (image.wnid, image.name))
        halves = ordered[: len(ordered) // 2], ordered[len(ordered) // 2 :]
        for part, half in enumerate(halves):
            rows = {
                "image": [{"bytes": image.content, "path": image.name} for image in half],
                "label": [wnids.index(image.wnid) for image in half],
            }
            features = datasets.Features({"image": datasets.Image(), "label": label})
            table = datasets.Dataset.from_dict(rows, features=features)
            table.to_parquet(str(root / f"{word}-{part:05d}-of-00002.parquet"))
    return root


def read_contents(dataset: Dataset) -> list[tuple[int, tuple[int, int], bytes]]:
    """Return label, size and pixels of each image."""
    found = []
    for index in range(len(dataset)):
        image = dataset.image(index)
        found.append((int(dataset.labels[index]), image.size, image.tobytes()))
    return found
