"""Folders of images: the layouts, against torchvision's ImageFolder, and everything that can be wrong with them."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import ImageFolder

from resnext.data import BadImageError, open_data, open_split
from resnext.data.sources.image_folder import FolderDataset, split_by_hash
from resnext.errors import RequestError
from resnext.settings import DataSettings


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (8, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def make(root: Path, layout: dict[str, int], extension: str = ".png") -> Path:
    """Images 0..n-1 in each of the folders."""
    for folder, n in layout.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            write_image(root / folder / f"{i}{extension}", seed=i)
    return root


def folder(root: Path, **changes: object) -> DataSettings:
    return DataSettings(source="folder", path=str(root), **changes)  # type: ignore[arg-type]


TWO = {"train/cat": 3, "train/dog": 2, "val/cat": 1, "val/dog": 2}


def test_train_and_val_are_read_as_torchvision_reads_them(tmp_path: Path) -> None:
    names = ("class10", "class2", "Zebra", "ant", "äh")
    make(tmp_path, {f"{split}/{name}": 2 for split in ("train", "val") for name in names})
    write_image(tmp_path / "train/ant/b/deep.JPEG", 7)
    write_image(tmp_path / "train/ant/a.jpg", 8)
    source = open_data(folder(tmp_path))
    theirs = ImageFolder(str(tmp_path / "train"))
    assert list(source.train.classes) == theirs.classes
    assert source.train.labels.tolist() == theirs.targets
    paths = [os.path.relpath(path, tmp_path) for path, _ in theirs.samples]
    assert [source.train.image_path(i) for i in range(len(source.train))] == paths
    for i in range(len(paths)):
        assert source.train.image(i).tobytes() == theirs[i][0].tobytes()
    assert (source.image_size, len(source.mean)) == (224, 3)
    assert source.train.name == f"{tmp_path.name} train"


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test"])
def test_each_usual_name_of_the_held_out_folder_serves(tmp_path: Path, name: str) -> None:
    make(tmp_path, {"train/a": 1, "train/b": 1, f"{name}/a": 2, f"{name}/b": 1})
    source = open_data(folder(tmp_path))
    assert len(source.val) == 3
    assert f"{name}/ is held out (3)" in source.split_rule


def test_val_goes_before_test(tmp_path: Path) -> None:
    make(tmp_path, TWO | {"test/cat": 5, "test/dog": 5})
    assert len(open_data(folder(tmp_path)).val) == 3


def test_grey_when_asked(tmp_path: Path) -> None:
    source = open_data(folder(make(tmp_path, TWO), channels=1))
    assert source.train.image(0).mode == "L"
    assert (len(source.mean), source.train.channels) == (1, 1)
    with pytest.raises(RequestError, match=r"3 .RGB. or 1"):
        open_data(folder(tmp_path, channels=2))


def test_hidden_files_and_other_files_are_left_out_and_capitals_are_read(tmp_path: Path) -> None:
    make(tmp_path, TWO)
    (tmp_path / "train/cat/.hidden.png").write_bytes(b"")
    (tmp_path / "train/cat/notes.txt").write_text("x")
    (tmp_path / "train/.cache").mkdir()
    (tmp_path / "train/readme.md").write_text("x")
    write_image(tmp_path / "train/cat/CAPITAL.PNG")
    source = open_data(folder(tmp_path))
    assert (len(source.train), source.train.classes) == (6, ("cat", "dog"))


def test_links_to_files_and_folders_are_followed_and_circles_end(tmp_path: Path) -> None:
    make(tmp_path / "data", TWO)
    elsewhere = make(tmp_path / "elsewhere", {"more": 2})
    (tmp_path / "data/train/cat/link.png").symlink_to(elsewhere / "more/0.png")
    (tmp_path / "data/train/cat/more").symlink_to(elsewhere / "more")
    (tmp_path / "data/train/cat/circle").symlink_to(tmp_path / "data/train/cat")
    source = open_data(folder(tmp_path / "data"))
    assert len(source.train) == 3 + 1 + 2 + 2
    cats = {source.train.image_path(i) for i in np.flatnonzero(source.train.labels == 0)}
    assert {"train/cat/link.png", "train/cat/more/0.png"} <= cats  # by the folder of the link, not of the file


def test_a_link_to_a_folder_above_brings_no_other_class_in(tmp_path: Path) -> None:
    make(tmp_path, TWO)
    (tmp_path / "train/cat/up").symlink_to("..")
    assert len(open_data(folder(tmp_path)).train) == 5


@pytest.mark.parametrize("place", ["train/emu", "train/cat/more", "val"])
def test_a_link_to_nothing_is_named_where_it_may_have_been_a_folder(tmp_path: Path, place: str) -> None:
    make(tmp_path, {"train/cat": 2, "train/dog": 2, "test/cat": 1, "test/dog": 1})
    (tmp_path / place).symlink_to("/not/mounted/here")
    refused(tmp_path, f"{place} is a link to /not/mounted/here, which does not exist")


def test_folders_of_the_system_are_no_classes_and_hold_no_images(tmp_path: Path) -> None:
    system = ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN")
    make(tmp_path, TWO | {f"train/{name}": 1 for name in system} | {f"train/cat/{name}": 1 for name in system})
    source = open_data(folder(tmp_path))
    assert (len(source.train), source.train.classes) == (5, ("cat", "dog"))


def test_other_names_of_the_same_formats_are_read(tmp_path: Path) -> None:
    make(tmp_path, TWO)
    for extension, kind in {"jfif": "JPEG", "JPE": "JPEG", "apng": "PNG", "pnm": "PPM"}.items():
        Image.new("RGB", (8, 6)).save(tmp_path / f"train/cat/x.{extension}", kind)
    data = open_data(folder(tmp_path)).train
    assert [data.image(i).size for i in range(len(data))] == [(8, 6)] * (5 + 4)


def test_pictures_that_are_not_read_are_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path, TWO)
    for name in ("a.heic", "b.HEIC", "c.avif", "notes.txt"):
        (tmp_path / "train/cat" / name).write_bytes(b"x")
    open_data(folder(tmp_path))
    open_data(folder(tmp_path))
    errors = capsys.readouterr().err
    assert errors.count("left out (2 .heic, 1 .avif)") == 1
    assert errors.count("\n") == 1


@pytest.mark.parametrize("name", ["a[b]c", "a*b", "a{1..2}b", "a#b", "a%20b", "a b", "ü"])
def test_any_name_of_a_folder_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    make(tmp_path / name, TWO)
    source = open_data(folder(tmp_path / name))
    assert source.val.image(0).size == (8, 6)


def test_a_bad_image_is_named(tmp_path: Path) -> None:
    make(tmp_path, TWO)
    (tmp_path / "train/dog/1.png").write_bytes((tmp_path / "train/dog/1.png").read_bytes()[:50])
    data = open_data(folder(tmp_path)).train
    with pytest.raises(BadImageError, match=r"train/dog/1\.png"):
        data.image(4)


def test_a_name_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    make(tmp_path, TWO)
    name = os.fsdecode(b"caf\xe9.png")
    write_image(tmp_path / "a.png").rename(tmp_path / "train/cat" / name)
    data = pickle.loads(pickle.dumps(open_data(folder(tmp_path)).train))
    at = [data.image_path(i) for i in range(len(data))].index(f"train/cat/{name}")
    assert data.image(at).size == (8, 6)


# One folder, divided


def whole(paths: list[str], classes: tuple[str, ...]) -> FolderDataset:
    labels = np.array([classes.index(path.split("/")[0]) for path in paths], np.int64)
    return FolderDataset("toy all", classes, 3, "/", np.array([os.fsencode(p) for p in paths]), labels)


def sides(paths: list[str], fraction: float, seed: int) -> dict[str, str]:
    classes = tuple(sorted({path.split("/")[0] for path in paths}))
    train, val = split_by_hash(whole(sorted(paths), classes), fraction, seed)
    return {data.image_path(i): side for side, data in (("train", train), ("val", val)) for i in range(len(data))}


def test_the_share_is_held_out_in_every_class() -> None:
    found = sides([f"{c}/{i}.png" for c in "abc" for i in range(1000)], 0.2, 0)
    assert len(found) == 3000
    for c in "abc":
        n = sum(side == "val" for path, side in found.items() if path.startswith(c))
        assert abs(n - 200) < 5 * np.sqrt(1000 * 0.2 * 0.8)


@given(st.lists(st.integers(2, 12), min_size=2, max_size=4), st.floats(0.001, 0.9), st.integers(0, 10**6))
def test_every_class_is_on_both_sides_and_no_image_on_two(counts: list[int], fraction: float, seed: int) -> None:
    paths = [f"c{c}/{i}.png" for c, n in enumerate(counts) for i in range(n)]
    found = sides(paths, fraction, seed)
    assert set(found) == set(paths)
    for c in range(len(counts)):
        assert {side for path, side in found.items() if path.startswith(f"c{c}/")} == {"train", "val"}


def test_added_images_move_none_and_another_seed_moves_some() -> None:
    before = [f"{c}/{i}.png" for c in "ab" for i in range(200)]
    first = sides(before, 0.2, 5)
    after = sides(before + [f"{c}/new{i}.png" for c in "ab" for i in range(300)], 0.2, 5)
    assert all(after[path] == side for path, side in first.items())
    assert sides(before, 0.2, 6) != first


def test_the_split_is_the_same_wherever_the_folder_lies(tmp_path: Path) -> None:
    made = [make(tmp_path / name, {"cat": 8, "dog": 8}) for name in ("one", "two/deep")]
    sources = [open_data(folder(root, val_fraction=0.3, split_seed=4)) for root in made]
    places = [[s.val.image_path(i) for i in range(len(s.val))] for s in sources]
    assert places[0] == places[1]
    assert "split_seed 4" in sources[0].split_rule
    assert len(sources[0].train) + len(sources[0].val) == 16


def test_train_alone_can_be_divided_too(tmp_path: Path) -> None:
    make(tmp_path, {"train/cat": 6, "train/dog": 6})
    source = open_data(folder(tmp_path, val_fraction=0.3))
    assert len(source.train) + len(source.val) == 12
    with pytest.raises(RequestError, match="val_fraction"):
        open_data(folder(tmp_path))


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    make(tmp_path, {"car": 2, "plane": 2, "train": 2})
    assert open_data(folder(tmp_path, val_fraction=0.5)).train.classes == ("car", "plane", "train")


# One split alone, for evaluation


def test_one_split_alone_can_be_opened(tmp_path: Path) -> None:
    make(tmp_path / "a", TWO)
    make(tmp_path / "b", {"val/cat": 2, "val/dog": 1})
    make(tmp_path / "c", {"cat": 2, "dog": 2})
    assert len(open_split(folder(tmp_path / "a"), "train")) == 5
    assert len(open_split(folder(tmp_path / "a"), "val")) == 3
    assert len(open_split(folder(tmp_path / "b"), "val")) == 3
    assert len(open_split(folder(tmp_path / "c"), "val")) == 4
    assert len(open_split(folder(tmp_path / "c", max_val_images=3), "val")) == 3
    with pytest.raises(RequestError, match="val/ but nothing for train"):
        open_split(folder(tmp_path / "b"), "train")


# What is wrong with a folder


def refused(root: Path, message: str, **changes: object) -> None:
    with pytest.raises(RequestError, match=message):
        open_data(folder(root, **changes))


def test_a_path_that_is_not_there_is_told_the_layout(tmp_path: Path) -> None:
    refused(tmp_path / "none", r"none does not exist; expected PATH/train/CLASS/IMAGE.*\.jpg")
    refused(write_image(tmp_path / "a.png"), "is a file")
    with pytest.raises(RequestError, match=r"needs data\.path"):
        open_data(DataSettings(source="folder"))


def test_an_empty_folder_is_told_the_layout(tmp_path: Path) -> None:
    refused(tmp_path, "no class folders; expected PATH", val_fraction=0.1)
    make(tmp_path, {"cat": 0, "dog": 0})
    refused(tmp_path, "no images in its 2 folders", val_fraction=0.1)


@pytest.mark.parametrize(
    ("layout", "val_fraction", "message"),
    [
        ({"train": 2, "val": 2}, None, "train has no class folders"),
        ({"cat": 2, "dog": 2}, None, r"one folder of classes.*data\.val_fraction 0\.1"),
        (TWO, 0.1, r"train/ and val/ already; remove data\.val_fraction"),
        (
            {f"{split}/{name}": 3 for split in ("train", "Valid") for name in ("cat", "dog")},
            0.3,
            "train/ and Valid/, which look like splits",
        ),
        (
            {f"data/{place}": n for place, n in TWO.items()},
            None,
            r"nothing but data/, which has the splits: set data\.path .*/data",
        ),
        ({"val/cat": 2, "val/dog": 2}, None, "val/ but no train/"),
        (TWO | {"train/emu": 0}, None, "'emu' of .*train has no images"),
        (TWO | {"train/emu": 1, "val/gnu": 1}, None, "only train/ has 'emu'; only val/ has 'gnu'"),
        (TWO | {"val/gnu": 1}, None, "only val/ has 'gnu'"),
        ({"train/cat": 3, "val/cat": 2}, None, "one class, 'cat'; a classifier needs at least two"),
        ({"cat": 5, "dog": 1}, 0.2, "'dog' has one image, and a split needs two"),
    ],
)
def test_a_layout_that_cannot_train_is_told_what_is_wrong(
    tmp_path: Path, layout: dict[str, int], val_fraction: float | None, message: str
) -> None:
    refused(make(tmp_path, layout), message, val_fraction=val_fraction)


def test_a_test_folder_without_labels_says_how_to_divide_train(tmp_path: Path) -> None:
    make(tmp_path, {"train/cat": 6, "train/dog": 6, "test": 3})
    refused(tmp_path, r"or set data\.path .*/train to split that folder", val_fraction=0.3)
    assert len(open_data(folder(tmp_path / "train", val_fraction=0.3)).train) < 12


@pytest.mark.parametrize(
    "names", [("Train", "Val"), ("Training", "Testing"), ("training_set", "test_set"), ("seg_train", "seg_test")]
)
def test_splits_of_other_names_are_not_taken_for_classes(tmp_path: Path, names: tuple[str, str]) -> None:
    make(tmp_path, {f"{split}/{name}": 3 for split in names for name in ("cat", "dog")})
    for share in ({}, {"val_fraction": 0.3}):
        refused(tmp_path, rf"{names[0]}/ and {names[1]}/, which look like splits.* train/ and val/", **share)


def test_a_held_out_split_may_lack_classes_of_the_training(tmp_path: Path) -> None:
    root = make(tmp_path, {"train/ant": 2, "train/cat": 2, "train/dog": 2, "val/dog": 3})
    source = open_data(folder(root))
    assert source.val.classes == source.train.classes == ("ant", "cat", "dog")
    assert source.val.labels.tolist() == [2, 2, 2]
    assert source.split_rule.endswith("val/ is held out (3), without any of 'ant', 'cat'")
    assert open_split(folder(root), "val").labels.tolist() == [2, 2, 2]


def test_one_class_alone_can_be_evaluated(tmp_path: Path) -> None:
    assert open_split(folder(make(tmp_path, {"cat": 3})), "val").classes == ("cat",)
