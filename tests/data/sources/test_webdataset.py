"""WebDataset shards: samples, keys, labels and classes, and the errors for shards that are not valid."""

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnext.data import open_data, open_split
from resnext.data.imagenet_classes import imagenet_synsets
from resnext.data.sources.webdataset import split_sample_name
from resnext.errors import RequestError, WorkError
from resnext.settings import DataSettings
from tests.data.layouts import make_jpeg, make_sample_images, tar_bytes, write_file, write_shards

pytestmark = pytest.mark.usefixtures("cache")
A, B = make_jpeg(1), make_jpeg(2)
TWO = [("x/0.jpg", A), ("x/0.cls", b"0"), ("x/1.cls", b"1"), ("x/1.jpg", B)]


def shards(root: Path, train: list[list[tuple[str, bytes]]], val: list[tuple[str, bytes]] = TWO) -> DataSettings:
    for number, files in enumerate(train):
        write_file(root / f"train-{number}.tar", tar_bytes(files))
    write_file(root / "val-0.tar", tar_bytes(val))
    last = len(train) - 1
    return DataSettings(
        source="webdataset", path=f"{root}/train-{{0..{last}}}.tar", val_path=f"{root}/val-{{0..0}}.tar"
    )


def refused(message: str, root: Path, *train: list[tuple[str, bytes]], **changes: str) -> None:
    with pytest.raises(RequestError, match=message):
        open_data(replace(shards(root, list(train)), **changes))  # type: ignore[arg-type]


def test_a_sample_is_what_shares_a_key_and_stays_in_its_place(tmp_path: Path) -> None:
    more = [
        *(("x/2.JPG", A), ("x/2.cls", b" 3\n"), ("x/2.txt", b"words"), ("x/2.seg.png", b"a mask")),
        *(("x/3.webp", B), ("x/3.json", b'{"label": 2, "id": "x"}'), ("README", b""), ("__meta__.json", b"{}")),
    ]
    source = open_data(shards(tmp_path, [TWO, more]))
    train = source.train
    assert train.labels.tolist() == [0, 1, 3, 2]
    assert [train.image_path(i) for i in range(4)] == [
        "train-0.tar:x/0.jpg", "train-0.tar:x/1.jpg", "train-1.tar:x/2.JPG", "train-1.tar:x/3.webp",
    ]  # fmt: skip
    assert train.image(1).tobytes() == train.image(3).tobytes() != train.image(0).tobytes()
    assert train.classes == source.val.classes == ("0", "1", "2", "3")
    assert train.name == "train-0.tar ... train"
    assert source.split_rule.startswith("2 shards of ")


NAME = st.text("ab./_", min_size=1, max_size=12)


@given(NAME)
def test_keys_are_split_as_webdataset_splits_them(name: str) -> None:
    """Its rule as a pattern (webdataset.tariterators.base_plus_ext), for every name that the pattern takes."""
    match = re.match(r"^((?:.*/|)[^.]+)[.]([^/]*)$", name)
    if match:
        assert split_sample_name(name.encode()) == (match[1].encode(), match[2].encode())


def test_classes_come_from_a_file_or_are_imagenet_s(tmp_path: Path) -> None:
    settings = shards(tmp_path, [TWO])
    names = write_file(tmp_path / "names.txt", b"cat\n dog \n\nemu\n")
    assert open_data(replace(settings, classes=str(names))).val.classes == ("cat", "dog", "emu")
    assert open_data(replace(settings, classes="imagenet")).train.classes == imagenet_synsets()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has 0 names"),
        (b"cat\ncat\n", "has 'cat' twice"),
        (b"\xff\xfe\n", "cannot be read"),
        (b"x" * (1 << 22) + b"\ny", "has 1 names|bytes"),
        (b"cat\ndog\n", "label 2.*; the last class is 1"),
        (None, "cannot be read: No such file"),
    ],
)
def test_class_names_that_do_not_serve_are_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    if content is not None:
        write_file(path, content)
    refused(message, tmp_path, [*TWO, ("5.jpg", A), ("5.cls", b"2")], classes=str(path))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("5.cls", b"0")], r"train-0\.tar: sample 5 has no image among 'cls'"),
        (
            [("5.cls", b"0"), ("6.cls", b"1"), ("5.jpg", A), ("6.jpg", B)],
            "adjacent in the tar, as with tar --sort=name",
        ),
        ([("5.jpg", A), ("5.png", A), ("5.cls", b"0")], "sample 5 has 2 images"),
        ([("5.jpg", A)], r"train-0\.tar: sample 5 has no label"),
        ([("5.jpg", A), ("5.cls", b"cat")], "sample 5 has no label; expected 5.cls with a whole number"),
        ([("5.jpg", A), ("5.cls", b"-1")], "sample 5 has no label"),
        ([("5.jpg", A), ("5.cls", b"1.5")], "sample 5 has no label"),
        ([("5.jpg", A), ("5.json", b'{"label": true}')], "sample 5 has no label"),
        ([("5.jpg", A), ("5.json", b"[" * 60000)], "sample 5 has no label"),
        ([("5.jpg", A), ("5.json", b"{")], "sample 5 has no label"),
        ([("5.jpg", A), ("5.cls", b"1" * 70000)], r"5\.cls has 70000 bytes, too many for a label"),
        ([("5.jpg", A), ("5.cls", b"999999999")], "label 999999999 is too large for a class number"),
        ([("5.jpg", A), ("5.cls", b"0"), ("6.jpg", A), ("6.cls", b"0"), ("5.txt", b"")], "key 5 occurs twice"),
        ([("5.jpg", A), ("5.cls", b"0"), ("5.jpg", A)], "sample 5 has two files of one extension"),
    ],
)
def test_a_sample_that_is_none_is_named(files: list[tuple[str, bytes]], message: str, tmp_path: Path) -> None:
    refused(message, tmp_path, [*TWO, *files])


def test_a_key_in_two_shards_is_named(tmp_path: Path) -> None:
    refused(r"key x/1 occurs twice, in 'train-0\.tar', 'train-1\.tar'", tmp_path, TWO, TWO[2:])


def test_files_of_the_system_in_a_shard_are_passed_over(tmp_path: Path) -> None:
    apple = [("x/._0.jpg", b"apple"), ("x/.DS_Store", b""), ("__MACOSX/x/0.jpg", b"apple"), ("@eaDir/x/0.jpg", A)]
    assert len(open_data(shards(tmp_path, [[*apple, *TWO]])).train) == 2


def test_classes_without_a_training_image_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from_one = [("5.jpg", A), ("5.cls", b"1"), ("6.jpg", B), ("6.cls", b"2")]
    assert open_data(shards(tmp_path, [from_one], from_one)).train.classes == ("0", "1", "2")
    errors = capsys.readouterr().err
    assert "no image is of class '0', so the network cannot learn that output" in errors
    assert "labels count from 0" in errors


def test_one_class_is_none(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="needs at least two"):
        open_data(shards(tmp_path, [TWO[:2]], TWO[:2]))


def test_shards_that_are_missing_cut_or_misspelled_are_named(tmp_path: Path) -> None:
    settings = shards(tmp_path, [TWO])
    with pytest.raises(RequestError, match=r"missing: .*train-1\.tar.*train-2\.tar"):
        open_data(replace(settings, path=f"{tmp_path}/train-{{0..2}}.tar"))
    with pytest.raises(RequestError, match="matches nothing"):
        open_data(replace(settings, path=f"{tmp_path}/trian-*.tar"))
    with pytest.raises(RequestError, match="same number of digits"):
        open_data(replace(settings, path=f"{tmp_path}/train-{{0..02}}.tar"))
    with pytest.raises(RequestError, match=r"needs data\.path and data\.val_path"):
        open_data(replace(settings, val_path=None))
    os.truncate(tmp_path / "train-0.tar", 1000)
    with pytest.raises(RequestError, match=r"train-0\.tar was cut off"):
        open_data(settings)


def test_one_split_can_be_opened_alone(tmp_path: Path) -> None:
    write_shards(tmp_path, make_sample_images())
    for said in ({"path": f"{tmp_path}/val-*"}, {"val_path": f"{tmp_path}/val-*"}):
        val = open_split(DataSettings(source="webdataset", **said), "val")  # type: ignore[arg-type]
        assert len(val) == 5
        assert val.image_path(0).startswith("val-000000.tar:ILSVRC")
    with pytest.raises(RequestError, match=r"needs data\.path"):
        open_split(DataSettings(source="webdataset"), "val")


def test_a_shard_cut_off_after_opening_is_named_with_its_image(tmp_path: Path) -> None:
    train = open_data(shards(tmp_path, [TWO])).train
    os.truncate(tmp_path / "train-0.tar", 700)
    with pytest.raises(WorkError, match=r"cannot read x/1\.jpg of .*train-0\.tar: "):
        train.image(1)
