"""CIFAR's binary format, with small archives of the same layout."""

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnext.data.sources.cifar import CIFAR10, CIFAR100, CifarLayout, open_cifar
from resnext.errors import RequestError
from resnext.settings import DataSettings

TEN = replace(CIFAR10, test_records=4, train_records=6)
HUNDRED = replace(CIFAR100, test_records=5, train_records=7)
BOTH = pytest.mark.parametrize("layout", [TEN, HUNDRED], ids=["cifar10", "cifar100"])


def record_file(layout: CifarLayout, n: int, seed: int) -> bytes:
    """Records written pixel by pixel, as the data set's page describes them."""
    rng = np.random.default_rng(seed)
    content = bytearray()
    for _ in range(n):
        label = int(rng.integers(layout.classes))
        content += bytes([label]) if layout.label_bytes == 1 else bytes([label // 5, label])
        image = rng.integers(0, 256, (32, 32, 3), np.uint8)
        for plane in range(3):
            for row in range(32):
                content += bytes(image[row, :, plane].tolist())
    return bytes(content)


def make_files(layout: CifarLayout) -> dict[str, bytes]:
    files = {name: record_file(layout, layout.train_records, i) for i, name in enumerate(layout.train_files)}
    files |= {name: record_file(layout, layout.test_records, 99) for name in layout.test_files}
    files[layout.names_file] = ("\n".join(f"kind{i:03}" for i in range(layout.classes)) + "\n\n").encode()
    files["readme.html"] = b"<p>not asked for</p>"
    return files


def make_archive(path: Path, layout: CifarLayout, files: dict[str, bytes]) -> CifarLayout:
    """Write the tar.gz; returns the layout with its size and MD5."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{layout.folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return described(path, layout)


def described(path: Path, layout: CifarLayout) -> CifarLayout:
    """The layout with the archive's size and MD5."""
    content = path.read_bytes()
    return replace(layout, archive=replace(layout.archive, bytes=len(content), md5=hashlib.md5(content).hexdigest()))


def make_folder(path: Path, files: dict[str, bytes]) -> None:
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).write_bytes(content)


def at(path: Path, layout: CifarLayout) -> DataSettings:
    return DataSettings(source=layout.name, path=str(path), download=False)


@BOTH
def test_archive_and_unpacked_folder_give_the_same_images(tmp_path: Path, layout: CifarLayout) -> None:
    files = make_files(layout)
    layout = make_archive(tmp_path / "a" / layout.archive.name, layout, files)
    make_folder(tmp_path / "b" / layout.folder, files)
    places = [tmp_path / "a", tmp_path / "a" / layout.archive.name, tmp_path / "b", tmp_path / "b" / layout.folder]
    sources = [open_cifar(at(place, layout), layout) for place in places]
    assert len({s.train.labels.tobytes() for s in sources}) == 1
    assert len({b"".join(s.val.image(i).tobytes() for i in range(len(s.val))) for s in sources}) == 1
    assert len(sources[0].train) == layout.train_records * len(layout.train_files)
    assert sources[0].val.name == f"{layout.name} test"


@BOTH
def test_pixels_and_labels_are_where_the_format_has_them(tmp_path: Path, layout: CifarLayout) -> None:
    files = make_files(layout)
    make_folder(tmp_path / layout.folder, files)
    source = open_cifar(at(tmp_path, layout), layout)
    content, size = files[layout.test_files[0]], layout.record_bytes
    for i in range(layout.test_records):
        record = content[i * size : (i + 1) * size]
        assert source.val.labels[i] == record[layout.label_bytes - 1]
        for row, column, plane in ((0, 0, 0), (5, 31, 1), (31, 2, 2)):
            pixel = source.val.image(i).getpixel((column, row))
            assert isinstance(pixel, tuple)
            assert pixel[plane] == record[layout.label_bytes + plane * 1024 + row * 32 + column]
    assert source.train.classes[17 % layout.classes] == f"kind{17 % layout.classes:03}"


def test_the_official_sizes_and_constants() -> None:
    assert CIFAR10.file_sizes()["data_batch_1.bin"] == 30730000
    assert CIFAR100.file_sizes() == {"train.bin": 153700000, "test.bin": 30740000}
    assert pytest.approx((0.4914, 0.4824, 0.4467), abs=1e-4) == CIFAR10.mean
    assert pytest.approx((0.2675, 0.2565, 0.2761), abs=1e-4) == CIFAR100.std


def test_another_size_or_md5_names_both(tmp_path: Path) -> None:
    path = tmp_path / TEN.archive.name
    layout = make_archive(path, TEN, make_files(TEN))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RequestError, match=f"MD5 is {hashlib.md5(content).hexdigest()}, expected {layout.archive.md5}"):
        open_cifar(at(tmp_path, TEN), layout)
    path.write_bytes(content[:-1])
    with pytest.raises(RequestError, match=f"{len(content) - 1} bytes, expected {len(content)}"):
        open_cifar(at(tmp_path, TEN), layout)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data_batch_3.bin", bytes(18437), r"data_batch_3\.bin has 18437 bytes, expected 18438 \(6 records of 3073\)"),
        ("data_batch_3.bin", bytes(18439), r"data_batch_3\.bin has 18439 bytes, expected 18438 \(6 records of 3073\)"),
        (
            "test_batch.bin",
            bytes(3073) + (b"\x0a" + bytes(3072)) * 3,
            r"record 1 of test_batch\.bin has label 10, expected 0 to 9",
        ),
        ("batches.meta.txt", b"cat\ndog\n", r"2 class names.*expected 10"),
    ],
)
def test_a_file_that_cannot_be_right_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    files = make_files(TEN) | {name: content}
    layout = make_archive(tmp_path / TEN.archive.name, TEN, files)
    make_folder(tmp_path / "b" / TEN.folder, files)
    for place in (tmp_path, tmp_path / "b"):
        with pytest.raises(RequestError, match=message):
            open_cifar(at(place, TEN), layout)


def test_a_link_in_the_archive_is_refused_and_nothing_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / TEN.archive.name
    with tarfile.open(path, "w:gz") as tar:
        escape = tarfile.TarInfo("../escaped.bin")
        escape.size = 3
        tar.addfile(escape, io.BytesIO(b"bad"))
        link = tarfile.TarInfo(f"{TEN.folder}/batches.meta.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    with pytest.raises(RequestError, match="not a regular file"):
        open_cifar(at(tmp_path, TEN), described(path, TEN))
    assert list(tmp_path.iterdir()) == [path]
    assert not (tmp_path.parent / "escaped.bin").exists()


def test_a_member_that_is_missing_is_named(tmp_path: Path) -> None:
    files = make_files(TEN)
    del files["data_batch_5.bin"]
    layout = make_archive(tmp_path / TEN.archive.name, TEN, files)
    with pytest.raises(RequestError, match=r"lacks cifar-10-batches-bin/data_batch_5\.bin"):
        open_cifar(at(tmp_path, TEN), layout)


def test_something_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / TEN.archive.name
    path.write_bytes(b"not a tar at all")
    with pytest.raises(RequestError, match=r"as a tar\.gz"):
        open_cifar(at(tmp_path, TEN), described(path, TEN))


def test_an_empty_or_missing_path_is_told_what_belongs_there(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"has none of cifar-10-binary\.tar\.gz.*170052171 bytes"):
        open_cifar(at(tmp_path, CIFAR10), CIFAR10)
    with pytest.raises(RequestError, match="does not exist"):
        open_cifar(at(tmp_path / "none", CIFAR10), CIFAR10)


def test_without_download_the_cache_must_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNEXT_DATA", str(tmp_path))
    with pytest.raises(RequestError, match=r"data\.download is off"):
        open_cifar(DataSettings(source="cifar10", download=False), CIFAR10)
    layout = make_archive(tmp_path / TEN.archive.name, TEN, make_files(TEN))
    assert len(open_cifar(DataSettings(source="cifar10", download=False), layout).val) == 4


@pytest.mark.slow
def test_the_real_photographs_go_through_the_binary_format(shared_data: Path, tmp_path: Path) -> None:
    """All 60,000 as a binary folder of the official sizes; every class, and a thousand images pixel by pixel."""
    splits: dict[str, list[tuple[str, bytes]]] = {"train": [], "test": []}
    with tarfile.open(shared_data / "cifar10-jpeg.tar.xz") as tar:
        for info in tar:
            if info.isreg():
                split, name, _ = info.name.split("/")
                file = tar.extractfile(info)
                assert file is not None
                splits[split].append((name, file.read()))
    names = sorted({name for name, _ in splits["train"]})
    drawn = {s: [rows[i] for i in np.random.default_rng(0).permutation(len(rows))] for s, rows in splits.items()}
    records = {
        split: [
            bytes([names.index(name)])
            + np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).transpose(2, 0, 1).tobytes()
            for name, jpeg in rows
        ]
        for split, rows in drawn.items()
    }
    files = {f"data_batch_{i + 1}.bin": b"".join(records["train"][i * 10000 : (i + 1) * 10000]) for i in range(5)}
    files |= {"test_batch.bin": b"".join(records["test"]), "batches.meta.txt": "\n".join(names).encode()}
    make_folder(tmp_path / "cifar-10-batches-bin", files)
    source = open_cifar(DataSettings(source="cifar10", path=str(tmp_path)), CIFAR10)
    assert (len(source.train), len(source.val), list(source.train.classes)) == (50000, 10000, names)
    assert np.bincount(source.train.labels).tolist() == [5000] * 10
    for dataset, rows in ((source.train, drawn["train"]), (source.val, drawn["test"])):
        for i in range(0, len(dataset), len(dataset) // 500):
            assert dataset.classes[dataset.labels[i]] == rows[i][0]
            assert np.array_equal(dataset.image(i), Image.open(io.BytesIO(rows[i][1])).convert("RGB"))
