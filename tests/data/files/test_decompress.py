"""Compressed tars are decompressed once and atomically, and are then read as any other."""

import bz2
import gzip
import lzma
import shutil
from collections import namedtuple
from pathlib import Path

import fsspec
import pytest

from resnext.data import open_data
from resnext.data.files.decompress import decompress_tar
from resnext.errors import RequestError, WorkError
from resnext.settings import DataSettings
from tests.data.layouts import make_sample_images, read_contents, tar_bytes, write_archives, write_file, write_shards

pytestmark = pytest.mark.usefixtures("cache")
PACKERS = {"tar.gz": gzip.compress, "tgz": gzip.compress, "tar.bz2": bz2.compress, "tar.xz": lzma.compress}


@pytest.mark.parametrize("ending", PACKERS)
def test_a_compressed_tar_becomes_the_plain_one_once(
    ending: str, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = tar_bytes({"a.jpg": bytes(3000)})
    path = write_file(tmp_path / f"a.{ending}", PACKERS[ending](plain))
    made = Path(decompress_tar(str(path)))
    assert made.read_bytes() == plain
    assert made.is_relative_to(cache / "decompressed")
    assert "once" in capsys.readouterr().err
    assert decompress_tar(str(path)) == str(made)
    assert capsys.readouterr().err == ""
    path.write_bytes(PACKERS[ending](tar_bytes({"b.jpg": b""})))
    assert decompress_tar(str(path)) != str(made)


def test_training_from_compressed_shards_is_training_from_plain_ones(tmp_path: Path) -> None:
    images = make_sample_images()
    write_shards(tmp_path / "plain", images)
    for path in (tmp_path / "plain").glob("*.tar"):
        write_file(tmp_path / "packed" / f"{path.name}.gz", gzip.compress(path.read_bytes()))
    plain, packed = (
        open_data(DataSettings(source="webdataset", path=f"{root}/train*", val_path=f"{root}/val*"))
        for root in (tmp_path / "plain", tmp_path / "packed")
    )
    assert read_contents(plain.train) == read_contents(packed.train)
    root = write_archives(tmp_path / "imagenet", images)
    whole = root / "ILSVRC2012_img_train.tar"
    settings = DataSettings(source="imagenet", path=str(whole), val_path=str(root))
    expected = read_contents(open_data(settings).train)
    whole.with_name("train.tar.gz").write_bytes(gzip.compress(whole.read_bytes()))
    found = open_data(DataSettings(source="imagenet", path=str(whole.with_name("train.tar.gz")), val_path=str(root)))
    assert read_contents(found.train) == expected


def test_a_compressed_tar_on_a_store_serves() -> None:
    with fsspec.open("memory://decompressed-tests/a.tar.gz", "wb") as file:
        file.write(gzip.compress(bytes(512)))
    assert Path(decompress_tar("memory://decompressed-tests/a.tar.gz")).read_bytes() == bytes(512)


def test_a_cut_or_foreign_stream_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    good = gzip.compress(bytes(range(256)) * 100)
    for content in (good[:-20], b"hello", good[:-8] + bytes(8), good):
        path = write_file(tmp_path / "a.tar.gz", content)
        with pytest.raises(WorkError, match=r"a\.tar\.gz (is not a whole gzip file|was cut off)"):
            decompress_tar(str(path))
        assert [p.name for p in (cache / "decompressed").iterdir() if not p.name.endswith(".lock")] == []


def test_a_full_disk_is_noticed_before_and_while_writing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_file(tmp_path / "a.tar.gz", gzip.compress(bytes(1 << 20)))
    usage = namedtuple("usage", "free")
    for answers in ([usage(1000)], [usage(1 << 40), usage(1 << 20)]):
        left = iter(answers)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, left=left: next(left))
        with pytest.raises(WorkError, match=r"bytes free, too few to decompress .*RESNEXT_DATA"):
            decompress_tar(str(path))
        assert [p.name for p in (cache / "decompressed").iterdir() if not p.name.endswith(".lock")] == []


def test_a_missing_archive_or_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match=r"missing: .*none\.tar\.gz"):
        decompress_tar(str(tmp_path / "none.tar.gz"))
    monkeypatch.setattr("resnext.data.files.decompress.compr", {})
    with pytest.raises(RequestError, match="zstandard"):
        decompress_tar(str(write_file(tmp_path / "a.tar.zst", b"\x28\xb5\x2f\xfd")))
