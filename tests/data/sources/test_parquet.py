"""Parquet files as the hub has them: columns, splits, classes, and rows that hold no image."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnext.data import BadImageError, open_data, open_split
from resnext.data.sources.parquet import HUB_URL_PATTERN
from resnext.errors import RequestError
from resnext.settings import DataSettings
from tests.data.layouts import WNIDS, make_jpeg, make_sample_images, read_contents, write_file, write_parquet

datasets = pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pytestmark = pytest.mark.usefixtures("cache", "_library_cache")


@pytest.fixture
def _library_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))


def parquet(root: Path, **changes: object) -> DataSettings:
    return DataSettings(source="parquet", path=str(root), **changes)  # type: ignore[arg-type]


def write(path: Path, **columns: Any) -> Path:
    """A file that knows nothing of the library's types."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def test_splits_columns_and_classes_are_found(tmp_path: Path) -> None:
    source = open_data(parquet(write_parquet(tmp_path / "data", make_sample_images())))
    assert source.train.classes == source.val.classes == WNIDS
    assert (len(source.train), len(source.val)) == (10, 5)
    assert source.train.image_path(3) == "data train[3]"
    assert "(10 images)" in source.split_rule


def test_paths_of_their_own_are_whole_splits(tmp_path: Path) -> None:
    root = write_parquet(tmp_path / "data", make_sample_images(), named=False)
    settings = parquet(root / "train-{00000..00001}-of-00002.parquet", val_path=f"{root}/validation*.parquet")
    source = open_data(settings)
    assert source.train.classes == ("0", "1", "2", "3", "4")
    assert read_contents(source.train) == read_contents(open_data(parquet(root)).train)
    assert read_contents(open_split(settings, "val")) == read_contents(source.val)
    alone = open_split(parquet(root / "validation-00000-of-00002.parquet"), "val")
    assert len(alone) == 2
    named = open_data(replace(settings, classes=str(write_file(tmp_path / "names", b"a\nb\nc\nd\ne\n"))))
    assert named.val.classes == tuple("abcde")


def test_files_without_the_library_s_types_serve(tmp_path: Path) -> None:
    files = [make_jpeg(1), make_jpeg(2)]
    write(tmp_path / "a/train.parquet", img=[{"bytes": f, "path": None} for f in files], fine_label=[0, 1])
    write(tmp_path / "a/test.parquet", image=files, labels=[1, 0])
    source = open_data(parquet(tmp_path / "a"))
    ours, theirs = ([pixels for *_, pixels in read_contents(data)] for data in (source.train, source.val))
    assert ours == theirs
    assert source.val.labels.tolist() == [1, 0]


def test_a_row_without_bytes_is_a_bad_image_and_no_path_is_followed(tmp_path: Path) -> None:
    secret = write_file(tmp_path / "secret.jpg", make_jpeg(1))
    files = {str(secret): None, "x": b"hello", "y": make_jpeg(2)}
    rows = [{"bytes": content, "path": path} for path, content in files.items()]
    write(tmp_path / "a/train.parquet", image=rows, label=[0, 1, 0])
    train = open_split(parquet(tmp_path / "a"), "train")
    with pytest.raises(BadImageError, match=r"a train\[0\]: the row has no bytes"):
        train.image(0)
    with pytest.raises(BadImageError, match=r"a train\[1\]: not an image"):
        train.image(1)
    assert train.image(2).mode == "RGB"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"picture": [b"x", b"y"], "label": [0, 1]}, "no image column image or img; its columns are picture, label"),
        ({"image": [b"x", b"y"], "target": [0, 1]}, "no label column label or labels or fine_label"),
        ({"image": [1, 2], "label": [0, 1]}, "column image does not hold images"),
        ({"image": [b"x", b"y"], "label": ["cat", "dog"]}, "label has .*expected one whole number a row"),
        ({"image": [b"x", b"y"], "label": [0.5, 1.0]}, "expected one whole number"),
        ({"image": [b"x", b"y"], "label": [[0], [1]]}, "expected one whole number"),
        ({"image": [b"x", b"y"], "label": [0, -1]}, "image 1 has label -1; the last class is 0|at least two"),
        ({"image": [b"x", b"y"], "label": [0, None]}, "expected one whole number"),
    ],
)
def test_columns_that_do_not_serve_are_named(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    write(tmp_path / "a/train.parquet", **columns)
    with pytest.raises(RequestError, match=message):
        open_split(parquet(tmp_path / "a"), "train")


def test_unlabelled_rows_are_named_and_classes_without_images_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = pa.array([{"bytes": make_jpeg(i), "path": None} for i in range(3)])
    write(tmp_path / "one/train.parquet", image=images, label=[1, 2, 3])
    write(tmp_path / "one/test.parquet", image=images, label=[1, 2, 3])
    open_data(parquet(tmp_path / "one"))
    assert "no image is of class '0'" in capsys.readouterr().err
    write(tmp_path / "two/train.parquet", image=images, label=[0, 1, 2])
    write(tmp_path / "two/test.parquet", image=images, label=[-1, -1, -1])  # as hubs publish a test set
    with pytest.raises(RequestError, match="image 0 has label -1, and 2 more"):
        open_data(parquet(tmp_path / "two"))


def test_places_that_hold_no_parquet_are_told_the_layout(tmp_path: Path) -> None:
    for settings, message in (
        (DataSettings(source="parquet"), r"needs data\.path; expected train"),
        (parquet(tmp_path / "none"), "is not a folder of splits; expected train"),
        (parquet(tmp_path), "has no train files among its 0"),
        (parquet(tmp_path / "x*.parquet", val_path=str(tmp_path)), "matches nothing"),
        (parquet(tmp_path / "x.parquet", val_path=str(tmp_path)), "missing: .*x.parquet"),
    ):
        with pytest.raises(RequestError, match=message):
            open_data(settings)
    write_file(tmp_path / "train.parquet", b"PAR1 but not quite")
    with pytest.raises(RequestError, match="cannot read the Parquet data"):
        open_split(parquet(tmp_path), "train")


def test_classes_that_differ_between_splits_are_shown(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a", make_sample_images())
    write_parquet(tmp_path / "b", make_sample_images(WNIDS[:3]))
    with pytest.raises(RequestError, match="classes of the two splits differ"):
        open_data(parquet(tmp_path / "a" / "train*", val_path=str(tmp_path / "b" / "validation*")))


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(RequestError, match=r"resnext\[hub-data\]"):
        open_data(parquet(tmp_path))


# ---- the hub, which a stand-in plays


class Hub:
    """A stand-in for the library's functions that records their arguments."""

    def __init__(self, root: Path, splits: list[str]) -> None:
        self.root, self.splits = root, splits
        self.asked: list[tuple[Any, ...]] = []
        self.load = datasets.load_dataset

    def get_dataset_split_names(self, name: str, revision: str | None, download_config: Any) -> list[str]:
        self.asked.append(("splits", name, revision, download_config.local_files_only))
        return self.splits

    def load_dataset(self, name: str, split: str, revision: str | None, download_config: Any) -> Any:
        self.asked.append(("load", name, split, revision, download_config.local_files_only))
        return self.load("parquet", data_files=sorted(map(str, self.root.glob(f"{split}*"))), split="train")


def test_the_hub_is_asked_for_the_splits_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_parquet(tmp_path / "data", make_sample_images())
    hub = Hub(root, ["test", "train", "validation"])
    for name in ("get_dataset_split_names", "load_dataset"):
        monkeypatch.setattr(datasets, name, getattr(hub, name))
    source = open_data(DataSettings(source="parquet", path="hf://datasets/ilsvrc/imagenet-1k@v1"))
    assert [row for row in hub.asked if row[0] == "load"] == [
        ("load", "ilsvrc/imagenet-1k", "train", "v1", False),
        ("load", "ilsvrc/imagenet-1k", "validation", "v1", False),
    ]
    assert source.train.name == "imagenet-1k@v1 train"
    assert source.val.classes == WNIDS
    hub.splits = ["train"]
    with pytest.raises(RequestError, match=r"has no split validation or val .*; it has train"):
        open_data(DataSettings(source="parquet", path="hf://datasets/ilsvrc/imagenet-1k", download=False))
    assert hub.asked[1][0] == "load"
    assert hub.asked[-2][-1] is True


@pytest.mark.parametrize(
    ("place", "parts"),
    [
        ("hf://datasets/cifar10", ("cifar10", None)),
        ("hf://datasets/a/b-c.d/", ("a/b-c.d", None)),
        ("hf://datasets/a/b@refs/convert/parquet", ("a/b", "refs/convert/parquet")),
        ("hf://datasets/a/b/data/*.parquet", None),
        ("hf://datasets/../etc", None),
        ("hf://models/a/b", None),
    ],
)
def test_names_on_the_hub(place: str, parts: tuple[str, str | None] | None) -> None:
    match = HUB_URL_PATTERN.fullmatch(place)
    assert (match and match.groups()) == parts


def test_labels_are_numbers_of_any_width(tmp_path: Path) -> None:
    files = [make_jpeg(i) for i in range(3)]
    for number, kind in enumerate((np.uint8, np.int16, np.int64)):
        write(tmp_path / f"{number}/train.parquet", image=files, label=np.array([0, 2, 1], kind))
        train = open_split(parquet(tmp_path / f"{number}"), "train")
        assert train.labels.dtype == np.int64
        assert train.labels.tolist() == [0, 2, 1]
        assert train.read_bytes(1) == files[1]  # type: ignore[attr-defined]
