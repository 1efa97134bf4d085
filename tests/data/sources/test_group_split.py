"""Splits by groups: no group on both sides, every image once, classes as equal as groups permit."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from resnext.data import open_data, open_split
from resnext.data.dataset import Source
from resnext.data.sources.group_split import choose_held_out_groups
from resnext.errors import RequestError
from resnext.run_directory import SPLIT_FILE
from resnext.settings import DataSettings
from tests.data.sources.test_image_folder import write_image

PATTERN = r"(patient\d+)"


def measure_difference(labels: np.ndarray, held_out: np.ndarray, fraction: float) -> float:
    """Root mean square difference between the held-out share of a class and ``fraction``."""
    shares = [float(np.mean(held_out[labels == label])) for label in np.unique(labels)]
    return float(np.sqrt(np.mean((np.array(shares) - fraction) ** 2)))


@st.composite
def draw_images(draw: st.DrawFn) -> tuple[np.ndarray, list[str]]:
    """Draw labels and groups of images: groups of one class or several, of very different sizes."""
    classes, groups = draw(st.integers(1, 4)), draw(st.integers(2, 25))
    pairs = [
        (label, f"g{group}")
        for group in range(groups)
        for label in draw(st.lists(st.integers(0, classes - 1), min_size=1, max_size=12))
    ]
    order = draw(st.permutations(range(len(pairs))))
    return np.array([pairs[i][0] for i in order]), [pairs[i][1] for i in order]


def choose(labels: np.ndarray, groups: Sequence[str], fraction: float, seed: int = 0) -> np.ndarray:
    return choose_held_out_groups(labels, groups, fraction, seed, "abcd"[: labels.max() + 1])


@settings(max_examples=30)
@given(draw_images(), st.sampled_from([0.05, 0.2, 0.5, 0.8]), st.integers(0, 5))
def test_groups_are_whole_both_sides_have_images_and_training_has_every_class(
    images: tuple[np.ndarray, list[str]], fraction: float, seed: int
) -> None:
    labels, groups = images
    names = np.array(groups)
    try:
        held_out = choose(labels, groups, fraction, seed)
    except RequestError as error:
        whole = {group: {c for c in set(labels) if (names[labels == c] == group).all()} for group in set(groups)}
        assert all(whole.values())  # each group has all images of a class
        assert "no group can be held out" in str(error)
        return
    assert set(names[held_out]).isdisjoint(names[~held_out])
    assert held_out.any()
    assert set(labels[~held_out]) == set(labels)
    assert (held_out == choose(labels, groups, fraction, seed)).all()
    back = choose(labels[::-1], groups[::-1], fraction, seed)[::-1]
    assert (held_out == back).all()  # the order of the images has no influence


@settings(max_examples=20, derandomize=True)  # the search is greedy: rarely an example is 0.01 worse
@given(draw_images(), st.sampled_from([2, 3, 5]), st.integers(0, 3))
def test_classes_are_as_equal_as_those_of_scikit_learn_on_average(
    images: tuple[np.ndarray, list[str]], folds: int, seed: int
) -> None:
    labels, groups = images
    spread = {label: len({g for g, c in zip(groups, labels, strict=True) if c == label}) for label in set(labels)}
    assume(min(spread.values()) >= folds)  # else scikit-learn's folds lack classes
    theirs = []
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for _, chosen in splitter.split(labels, labels, groups):
        held_out = np.isin(np.arange(len(labels)), chosen)
        if set(labels[held_out]) == set(labels[~held_out]) == set(labels):
            theirs.append(measure_difference(labels, held_out, 1 / folds))
    assume(theirs)
    ours = choose(labels, groups, 1 / folds, seed)
    assert measure_difference(labels, ours, 1 / folds) <= np.mean(theirs) + 1e-4  # shares are counted in 1e-7


def test_single_images_as_groups_give_the_exact_share_of_each_class() -> None:
    labels = np.repeat([0, 1], [100, 40])
    held_out = choose(labels, [f"{i}" for i in range(140)], 0.1)
    assert np.bincount(labels[held_out]).tolist() == [10, 4]


def test_another_seed_holds_out_other_groups() -> None:
    labels, groups = np.repeat([0, 1], 60), [f"{i % 20}" for i in range(120)]
    assert len({choose(labels, groups, 0.2, seed).tobytes() for seed in range(8)}) > 4


def test_many_groups_and_classes_are_split_without_a_table_of_both() -> None:
    draws = np.random.default_rng(0)
    groups = np.arange(3_000).repeat(3)
    labels = draws.integers(0, 200, len(groups))
    held_out = choose_held_out_groups(labels, groups, 0.2, 0, [str(i) for i in range(200)])
    assert measure_difference(labels, held_out, 0.2) < 0.03
    assert set(groups[held_out]).isdisjoint(groups[~held_out])


def test_one_group_and_groups_that_are_the_classes_are_refused() -> None:
    with pytest.raises(RequestError, match="all 4 images are in one group, 'x'"):
        choose(np.array([0, 0, 1, 1]), list("xxxx"), 0.5)
    with pytest.raises(RequestError, match=r"such as 'x' those of 'a'.*groups must not be classes"):
        choose(np.array([0, 0, 1, 1]), list("xxyy"), 0.5)


def make_patients(root: Path, patients: int = 8) -> DataSettings:
    """Write six pictures of each patient, in two classes."""
    for number in range(patients):
        for picture in range(6):
            write_image(root / "ab"[picture % 2] / f"patient{number:02}_{picture}.png", 10 * number + picture)
    return DataSettings(source="folder", path=str(root), val_fraction=0.25, group=PATTERN)


def list_patients(source: Source) -> list[set[str]]:
    sides = (source.train, source.val)
    return [{data.image_path(i)[2:11] for i in range(len(data))} for data in sides]


def test_a_folder_is_split_by_patients_and_says_so(tmp_path: Path) -> None:
    source = open_data(make_patients(tmp_path))
    train, val = list_patients(source)
    assert (len(train), len(val), len(source.train), len(source.val)) == (6, 2, 36, 12)
    assert train.isdisjoint(val)
    assert "6 groups with 36 images train, 2 with 12 are held out" in source.split_rule
    assert open_split(make_patients(tmp_path), "val").labels.tolist() == source.val.labels.tolist()


def test_the_recorded_split_stays_when_images_come_and_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = make_patients(tmp_path / "data")
    source = open_data(asked)
    record = tmp_path / "split.csv"
    record.write_text(source.extra_files[SPLIT_FILE])
    with record.open() as file:
        assert {(row["group"], row["split"]) for row in csv.DictReader(file)} == {
            (name, side) for side, names in zip(("train", "val"), list_patients(source), strict=True) for name in names
        }
    for number in range(30):
        write_image(tmp_path / f"data/a/patient{20 + number}_1.png", number)
    next((tmp_path / "data/b").glob("patient00*")).unlink()
    asked = DataSettings(source="folder", path=asked.path, val_fraction=0.25, group=str(record))
    again = open_data(asked)
    assert list_patients(again) == list_patients(source)
    assert len(again.train) + len(again.val) == 47
    assert "30 images of" in capsys.readouterr().err


def test_a_recorded_split_of_other_images_says_what_to_do(tmp_path: Path) -> None:
    asked = make_patients(tmp_path)
    record = tmp_path / "split.csv"
    record.write_text("file,group,split\nx.png,g,val\ny.png,h,train\n")
    with pytest.raises(RequestError, match=r"split\.csv, which .* lists no image of .*--source folder"):
        open_data(DataSettings(source="folder", path=asked.path, val_fraction=0.25, group=str(record)))


def test_a_csv_file_of_a_user_must_fit_the_folder(tmp_path: Path) -> None:
    asked = make_patients(tmp_path / "data")
    table = tmp_path / "groups.csv"
    rows = [f"{path.relative_to(asked.path or '')},{path.name[:9]}" for path in Path(asked.path or "").rglob("*.png")]
    table.write_text("\n".join(["file,group", *rows]))
    by_file = DataSettings(source="folder", path=asked.path, val_fraction=0.25, group=str(table))
    assert list_patients(open_data(by_file)) == list_patients(open_data(asked))
    table.write_text("\n".join(["file,group", *rows, "a/gone.png,patient01"]))
    with pytest.raises(RequestError, match=r"names 1 files that .* does not have, such as a/gone\.png"):
        open_data(by_file)
    table.write_text("\n".join(["file,group", *rows[1:]]))
    with pytest.raises(RequestError, match="no row for 1 of 48 images"):
        open_data(by_file)


def test_folders_that_are_split_already_are_checked(tmp_path: Path) -> None:
    for split, patient in (("train", 1), ("train", 2), ("val", 3)):
        for name in "ab":
            write_image(tmp_path / split / name / f"patient{patient}_{split}.png", patient)
    asked = DataSettings(source="folder", path=str(tmp_path), group=PATTERN)
    assert len(open_data(asked).val) == 2
    write_image(tmp_path / "val/a/patient2_9.png")
    with pytest.raises(RequestError, match=r"1 groups by .* in train/ and in val/, such as 'patient2'"):
        open_data(asked)


def test_sources_with_a_split_of_their_own_take_no_groups() -> None:
    from resnext.recipe import parse_recipe

    with pytest.raises(RequestError, match=r"data\.group is about the split of a folder; digits has its own"):
        parse_recipe("", overrides={"data.group": PATTERN})
