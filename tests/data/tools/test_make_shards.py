"""Shards made from a data set hold its files, labels and classes; half-made ones never appear."""

import csv
import tarfile
from pathlib import Path

import pytest

from resnext.data import open_data
from resnext.data.tools.make_shards import make_shards
from resnext.errors import RequestError, WorkError
from resnext.settings import DataSettings
from tests.data.layouts import WNIDS, make_sample_images, read_contents, read_member, write_archives, write_folders

pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize("layout", ["folder", "imagenet"])
def test_shards_hold_the_files_as_they_are(layout: str, tmp_path: Path) -> None:
    make = write_folders if layout == "folder" else write_archives
    settings = DataSettings(source=layout, path=str(make(tmp_path / "data", make_sample_images())))
    out = tmp_path / "shards"
    assert make_shards(settings, out, 4, seed=1) == {"train": 3, "val": 2}
    assert sorted(path.name for path in out.iterdir()) == [
        "classes.txt", "origins.csv", *(f"train-00000{i}.tar" for i in range(3)), "val-000000.tar", "val-000001.tar",
    ]  # fmt: skip
    paths = {"path": f"{out}/train-{{000000..000002}}.tar", "val_path": f"{out}/val-*.tar"}
    made = open_data(DataSettings(source="webdataset", classes=str(out / "classes.txt"), **paths))  # type: ignore[arg-type]
    source = open_data(settings)
    assert made.train.classes == source.train.classes == WNIDS
    for ours, theirs in ((made.train, source.train), (made.val, source.val)):
        assert read_contents(ours) != read_contents(theirs)  # in another order
        assert sorted(read_contents(ours)) == sorted(read_contents(theirs))
    with (out / "origins.csv").open() as file:
        origins = list(csv.DictReader(file))
    assert [row["path"] for row in origins if row["shard"].startswith("train")] != [
        source.train.image_path(i) for i in range(10)
    ]
    first = next(row for row in origins if row["path"] == source.train.image_path(0))
    with tarfile.open(out / first["shard"]) as tar:
        assert read_member(tar, f"{first['key']}.jpeg") == source.train.read_bytes(0)  # type: ignore[attr-defined]


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    settings = DataSettings(source="folder", path=str(write_folders(tmp_path / "data", make_sample_images())))
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        make_shards(settings, tmp_path / name, 100, seed)
    a, b, c = ((tmp_path / name / "train-000000.tar").read_bytes() for name in "abc")
    assert a == b != c


def test_nothing_is_overwritten_and_nothing_half_made_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = DataSettings(source="folder", path=str(write_folders(tmp_path / "data", make_sample_images())))
    (tmp_path / "there").mkdir()
    with pytest.raises(RequestError, match="exists already, and nothing is overwritten"):
        make_shards(settings, tmp_path / "there", 4, 0)
    with pytest.raises(RequestError, match="in an existing folder"):
        make_shards(settings, tmp_path / "no" / "out", 4, 0)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("resnext.data.tools.make_shards.os.fsync", full)
    with pytest.raises(WorkError, match=r"out could not be written: No space left"):
        make_shards(settings, tmp_path / "out", 4, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "there"]
