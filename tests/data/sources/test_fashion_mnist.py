"""IDX files, also damaged ones, and the four files of Fashion-MNIST."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from resnext.data.dataset import ArrayDataset
from resnext.data.sources.fashion_mnist import ARCHIVES, CLASSES, DEBIAN_FOLDER, MEAN, STD, open_fashion_mnist
from resnext.data.sources.idx import MAX_BYTES, read_idx
from resnext.errors import RequestError
from resnext.settings import DataSettings

SMALL = {"train": 20, "t10k": 10}
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_set(folder: Path, *, zipped: bool = True, counts: dict[str, int] = SMALL) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    made = {}
    for part, n in counts.items():
        made[f"{part}-images-idx3-ubyte"] = rng.integers(0, 256, (n, 28, 28), np.uint8)
        made[f"{part}-labels-idx1-ubyte"] = (np.arange(n) % 10).astype(np.uint8)
    for name, array in made.items():
        content = idx(array)
        (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(content, 1) if zipped else content)
    return made


@in_one_folder
@given(array=arrays(np.uint8, array_shapes(min_dims=1, max_dims=3, max_side=6)), zipped=st.booleans())
def test_what_is_written_is_read(tmp_path: Path, array: np.ndarray, zipped: bool) -> None:
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    found = read_idx(path, (None,) * array.ndim)
    np.testing.assert_array_equal(found, array)
    assert found.flags.writeable


@in_one_folder
@given(content=st.binary(max_size=40), zipped=st.booleans(), magic=st.booleans())
def test_any_other_bytes_are_a_clear_error(tmp_path: Path, content: bytes, zipped: bool, magic: bool) -> None:
    content = (b"\0\0\x08\x01" if magic else b"") + content
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(content) if zipped else content)
    valid = (
        content[:4] == b"\0\0\x08\x01" and len(content) > 8 and int.from_bytes(content[4:8], "big") == len(content) - 8
    )
    if valid:
        assert read_idx(path, (None,)).tobytes() == content[8:]
    else:
        with pytest.raises(RequestError, match=str(path)):
            read_idx(path, (None,))


@in_one_folder
@given(cut=st.integers(0, 300), flip=st.integers(0, 255))
def test_a_damaged_gzip_is_a_clear_error_or_the_same_array(tmp_path: Path, cut: int, flip: int) -> None:
    array = np.arange(200, dtype=np.uint8)
    content = bytearray(gzip.compress(idx(array), mtime=0))
    if cut < len(content):
        content[cut] ^= flip
    (tmp_path / "a").write_bytes(content)
    try:
        np.testing.assert_array_equal(read_idx(tmp_path / "a", (None,)), array)
    except RequestError as error:
        assert str(tmp_path / "a") in str(error)


@pytest.mark.parametrize("dims", [(MAX_BYTES + 1,), (1 << 31, 1 << 31), (0, 28)])
def test_absurd_sizes_are_refused_before_reading(tmp_path: Path, dims: tuple[int, ...]) -> None:
    path = tmp_path / "a"
    path.write_bytes(struct.pack(f">HBB{len(dims)}I", 0, 8, len(dims), *dims))
    with pytest.raises(RequestError, match="claims"):
        read_idx(path, (None,) * len(dims))


def test_floats_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\0\0\x0d\x01" + struct.pack(">I", 1) + b"1234")
    with pytest.raises(RequestError, match="unsigned bytes"):
        read_idx(tmp_path / "a", (None,))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_folder_with_the_four_files_is_read(tmp_path: Path, zipped: bool) -> None:
    made = write_set(tmp_path / "here", zipped=zipped)
    data = DataSettings(source="fashion_mnist", path=str(tmp_path / "here"))
    source = open_fashion_mnist(data, counts=SMALL)
    np.testing.assert_array_equal(np.asarray(source.train.image(3)), made["train-images-idx3-ubyte"][3])
    np.testing.assert_array_equal(source.val.labels, made["t10k-labels-idx1-ubyte"])
    assert source.val.labels.dtype == np.int64
    assert source.val.image_path(4) == "test[4]"
    assert (source.image_size, source.train.channels) == (28, 1)


def test_missing_files_are_named(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(RequestError, match=r"lacks t10k-labels-idx1-ubyte\.gz"):
        open_fashion_mnist(DataSettings(source="fashion_mnist", path=str(tmp_path)), counts=SMALL)


def test_images_and_labels_of_another_count_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path)
    with pytest.raises(RequestError, match="20 x 28 x 28 values, expected 60000 x 28 x 28"):
        open_fashion_mnist(DataSettings(source="fashion_mnist", path=str(tmp_path)))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(idx(np.zeros(19, np.uint8)))
    with pytest.raises(RequestError, match="19 values, expected 20"):
        open_fashion_mnist(DataSettings(source="fashion_mnist", path=str(tmp_path)), counts=SMALL)


def test_a_label_out_of_range_is_named(tmp_path: Path) -> None:
    write_set(tmp_path)
    labels = np.zeros(20, np.uint8)
    labels[13] = 10
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(idx(labels))
    with pytest.raises(RequestError, match="label 10 for image 13, expected 0 to 9"):
        open_fashion_mnist(DataSettings(source="fashion_mnist", path=str(tmp_path)), counts=SMALL)


def test_without_download_the_manual_steps_are_stated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNEXT_DATA", str(tmp_path))
    data = DataSettings(source="fashion_mnist", download=False)
    with pytest.raises(RequestError, match="26421880 bytes, MD5 8d4fb7e6c68d591d4c3dfef9ec88bf0d") as caught:
        open_fashion_mnist(data, system_folder=tmp_path / "none")
    assert str(tmp_path / "fashion-mnist" / ARCHIVES[3].name) in str(caught.value)


def test_the_cache_is_used_where_the_package_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNEXT_DATA", str(tmp_path))
    write_set(tmp_path / "fashion-mnist")
    data = DataSettings(source="fashion_mnist", download=False)
    assert len(open_fashion_mnist(data, counts=SMALL, system_folder=tmp_path / "none").train) == 20


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_real_set_has_its_stated_mean_and_counts() -> None:
    source = open_fashion_mnist(DataSettings(source="fashion_mnist", download=False))
    train, val = source.train, source.val
    assert isinstance(train, ArrayDataset)
    assert np.bincount(train.labels).tolist() == [6000] * 10
    assert np.bincount(val.labels).tolist() == [1000] * 10
    values = train.images.reshape(-1)
    counts = np.bincount(values, minlength=256).astype(np.float64) / len(values)
    levels = np.arange(256) / 255
    mean = (counts * levels).sum()
    assert pytest.approx((mean,), abs=5e-5) == MEAN
    assert pytest.approx((np.sqrt((counts * (levels - mean) ** 2).sum()),), abs=5e-5) == STD
    assert CLASSES[int(train.labels[0])] == "Ankle boot"  # as the data set's own page shows it
