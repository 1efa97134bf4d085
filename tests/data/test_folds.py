"""Folds are an exact partition with the same share of every class, and never divide a group."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resnext.data.folds import assign_folds, split_into_folds
from resnext.data.sources.registry import open_data, open_fold_images
from resnext.errors import RequestError
from resnext.settings import DataSettings


@settings(max_examples=15)
@given(
    folds=st.integers(2, 6), extra=st.lists(st.integers(0, 9), min_size=2, max_size=5), seed=st.integers(0, 2**31 - 1)
)
def test_folds_are_a_partition_in_which_each_class_is_spread_evenly(folds: int, extra: list[int], seed: int) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(extra)), [folds + more for more in extra]))
    fold = split_into_folds(labels, folds, seed)
    assert fold.shape == labels.shape
    assert set(fold.tolist()) == set(range(folds))
    for label in range(len(extra)):
        counts = [int(np.sum((fold == number) & (labels == label))) for number in range(folds)]
        assert sum(counts) == np.sum(labels == label)
        assert max(counts) - min(counts) <= 1
    np.testing.assert_array_equal(fold, split_into_folds(labels, folds, seed))


@settings(max_examples=15)
@given(
    groups=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4)), min_size=8, max_size=25),
    folds=st.integers(2, 3),
    seed=st.integers(0, 2**31 - 1),
)
def test_a_group_is_in_one_fold_and_each_class_can_always_be_learned(
    groups: list[tuple[int, int]], folds: int, seed: int
) -> None:
    labels = np.array([label for label, size in groups for _ in range(size)])
    names = np.array([number for number, (_, size) in enumerate(groups) for _ in range(size)])
    try:
        fold = split_into_folds(labels, folds, seed, names)
    except RequestError:
        return
    assert all(len(set(fold[names == name].tolist())) == 1 for name in range(len(groups)))
    for number in range(folds):
        assert np.any(fold == number)
        assert set(labels[fold != number].tolist()) == set(labels.tolist())


def test_other_seeds_give_other_folds() -> None:
    labels = np.repeat(np.arange(3), 20)
    assert not np.array_equal(split_into_folds(labels, 5, 0), split_into_folds(labels, 5, 1))


def test_the_folds_of_a_data_set_hold_out_each_training_image_once() -> None:
    parts = [DataSettings(fold=f"{number}/4", max_train_images=200) for number in range(1, 5)]
    whole, sources = open_fold_images(parts[0]), [open_data(one) for one in parts]
    held_out = [source.val.image_path(index) for source in sources for index in range(len(source.val))]
    assert sorted(held_out) == sorted(whole.image_path(index) for index in range(200))
    assert all(path.startswith("train[") for path in held_out)
    for source in sources:
        trained = {source.train.image_path(index) for index in range(len(source.train))}
        assert len(trained) == len(source.train)
        assert trained == set(held_out) - {source.val.image_path(index) for index in range(len(source.val))}
    assert "fold 2 of 4" in sources[1].split_rule
    np.testing.assert_array_equal(assign_folds(whole, parts[0], 4), assign_folds(whole, parts[3], 4))


def write_photos(folder: Path, counts: dict[str, int]) -> None:
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / name / f"p{index // 2}-{index}.png")


def test_a_folder_of_photos_is_divided_whole_and_a_folder_with_splits_keeps_its_held_out_ones_apart(
    tmp_path: Path,
) -> None:
    write_photos(tmp_path / "flat", {"a": 6, "b": 4})
    assert len(open_fold_images(DataSettings(source="folder", path=str(tmp_path / "flat"), fold="1/2"))) == 10
    write_photos(tmp_path / "split/train", {"a": 6, "b": 4})
    write_photos(tmp_path / "split/val", {"a": 3, "b": 3})
    source = open_data(DataSettings(source="folder", path=str(tmp_path / "split"), fold="1/2"))
    paths = [half.image_path(index) for half in (source.train, source.val) for index in range(len(half))]
    assert len(paths) == 10
    assert all(path.startswith("train/") for path in paths)


def test_images_of_a_group_stay_together(tmp_path: Path) -> None:
    write_photos(tmp_path, {"a": 12, "b": 10})
    grouped = DataSettings(source="folder", path=str(tmp_path), fold="1/3", group=r"^\w+/(p\d+)-")
    whole = open_fold_images(grouped)
    fold_of: dict[str, set[int]] = {}
    for index, fold in enumerate(assign_folds(whole, grouped, 3).tolist()):
        fold_of.setdefault(whole.image_path(index).split("/")[1].split("-")[0], set()).add(fold)
    assert len(fold_of) == 6
    assert all(len(folds) == 1 for folds in fold_of.values())
    assert Counter(min(folds) for folds in fold_of.values()).keys() == {0, 1, 2}


@pytest.mark.parametrize(
    ("counts", "given_settings", "says"),
    [
        ({"cat": 4, "dog": 9}, {"fold": "1/5"}, "class 'cat' has 4 images, fewer than the 5 folds: use at most 4"),
        (
            {"cat": 1, "dog": 9},
            {"fold": "1/2"},
            "class 'cat' has 1 image, fewer than the 2 folds: add images",
        ),
        ({"cat": 4, "dog": 6}, {"fold": "1/4", "group": "p([0-2])-"}, "data.group gives 3 groups, fewer than the 4"),
        ({"cat": 2, "dog": 6}, {"fold": "1/2", "group": "p([0-2])-"}, "all images of class 'cat' are in one group"),
        ({"cat": 4}, {"fold": "1/2"}, "one class, 'cat'; a classifier needs at least two"),
    ],
)
def test_images_that_cannot_be_divided_are_refused(
    counts: dict[str, int], given_settings: dict[str, str], says: str, tmp_path: Path
) -> None:
    write_photos(tmp_path, counts)
    with pytest.raises(RequestError) as caught:
        open_data(DataSettings(source="folder", path=str(tmp_path), **given_settings))
    assert says in str(caught.value)
