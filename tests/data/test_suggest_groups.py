"""Names that suggest groups are recognised, and names of common data sets are not mistaken for them."""

import os
import re
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from resnext.data import open_data
from resnext.data.groups import find_groups
from resnext.data.sources.image_folder import FolderDataset
from resnext.data.suggest_groups import find_group_hint, suggest_groups
from resnext.settings import DataSettings
from tests.data.sources.test_group_split import make_patients
from tests.data.sources.test_image_folder import write_image

CLASSES = ("cat", "dog")


def make_dataset(paths: Sequence[str]) -> FolderDataset:
    """A data set of these files, which need not exist: ``CLASS/NAME`` or ``train/CLASS/NAME``."""
    classes = tuple(sorted({path.split("/")[path.startswith("train/")] for path in paths}))
    labels = np.array([classes.index(path.split("/")[path.startswith("train/")]) for path in paths])
    return FolderDataset("x", classes, 3, "/", np.array([os.fsencode(path) for path in paths]), labels)


def name_all(name: Callable[[int, int], str], count: int = 40, root: str = "") -> list[str]:
    """Name ``count`` pictures of each class by ``name(number of the class, number of the picture)``."""
    return [f"{root}{kind}/{name(k, i)}" for k, kind in enumerate(CLASSES) for i in range(count)]


def shoot(k: int, i: int, code: str = "IMG_%Y%m%d_%H%M%S.jpg", every: int = 7) -> str:
    """Name photos of bursts of five, every day another burst."""
    start = datetime(2024, 5, 12, 10 + k) + timedelta(days=i // 5)
    return (start + timedelta(seconds=every * (i % 5))).strftime(code)


@pytest.mark.parametrize(
    ("name", "pattern", "group_of"),
    [
        (lambda k, i: f"patient{i // 8:02}_slide{i % 2}_{i:04}.jpg", "(patient[0-9]+)", lambda k, i: i // 8),
        (lambda k, i: f"Slide-{i // 8} field {i}.TIF", "(Slide-[0-9]+)", lambda k, i: i // 8),
        (lambda k, i: f"vid{i // 8}_frame{i:04}.png", "(vid[0-9]+)", lambda k, i: i // 8),
        (lambda k, i: f"{'Subject' if i % 2 else 'subject'}_{i // 8}/{i}.png", None, None),  # two spellings
        (lambda k, i: f"subject_{i // 8}/{i}.png", "(subject_[0-9]+)", lambda k, i: i // 8),
        (lambda k, i: f"pond {'abcde'[i // 8]}_frame_{i}.png", None, lambda k, i: i // 8),
        (lambda k, i: f"leaf{i // 2}_jpg.rf.{uuid.UUID(int=i).hex}.jpg", r"([^/]+)[.]rf[.]", lambda k, i: i // 2),
        (lambda k, i: f"plot{i // 8}b_{i % 8}.png", r"([^/]+)[-_ ][0-9]+[.][^./]+$", lambda k, i: i // 8),
        (shoot, "([0-9]{8})[-_]?[0-9]{2}", lambda k, i: i // 5),
        (lambda k, i: shoot(k, i, "%Y-%m-%d %H.%M.%S.jpg"), None, lambda k, i: i // 5),
        (lambda k, i: shoot(k, i, "WhatsApp Image %Y-%m-%d at %H.%M.%S.jpeg"), None, lambda k, i: i // 5),
    ],
)
@pytest.mark.parametrize("root", ["", "train/"])
def test_names_that_say_what_belongs_together_suggest_it(
    name: Callable[[int, int], str], pattern: str | None, group_of: Callable[[int, int], int] | None, root: str
) -> None:
    paths = name_all(name, root=root)
    hint = suggest_groups(make_dataset(paths))
    assert hint is not None
    if pattern is not None:
        assert hint.pattern == pattern
    assert f"--data.group '{hint.pattern}'" in hint.describe()
    groups = find_groups(paths, hint.pattern)  # the pattern serves as it is
    if group_of is not None:
        expected = [group_of(k, i) for k in range(2) for i in range(40)]
        assert len(set(zip(groups, expected, strict=True))) == len(set(expected)) == len(set(groups))


@pytest.mark.parametrize(
    "name",
    [
        lambda k, i: f"{i}_{CLASSES[k]}.png",
        lambda k, i: f"{i}.png",
        lambda k, i: f"{k}_{i}.png",
        lambda k, i: f"{i}_{k}.png",
        lambda k, i: f"{uuid.UUID(int=(k * 40 + i) * 2**90 + 17)}.jpg",
        lambda k, i: f"{uuid.uuid5(uuid.NAMESPACE_DNS, f'{k} {i}').hex}_{i % 3}.jpg",
        lambda k, i: f"n0144076{k}_{100 * i}.JPEG",
        lambda k, i: f"ILSVRC2012_val_{k * 40 + i:08}.JPEG",
        lambda k, i: f"IMG_{k * 40 + i:04}.JPG",
        lambda k, i: f"DSC{k * 40 + i:05}.JPG",
        lambda k, i: f"{CLASSES[k]}_{i:04}_{7919 * i}.jpg",
        lambda k, i: f"image_{i:05}.jpg",
        lambda k, i: f"patient{k * 40 + i:04}.png",  # one picture of each
        lambda k, i: f"slide{k}_{i}.png",  # a class is a slide
        lambda k, i: f"outpatient_{i}.png",
        lambda k, i: shoot(k, i, every=7200),  # hours apart
        lambda k, i: f"{uuid.uuid5(uuid.NAMESPACE_DNS, f'{k} {i}')}___RS_HL {i}.JPG",  # PlantVillage
        lambda k, i: f"{1715508912345 + 97 * i}.jpg",
        lambda k, i: f"photo ({i}).jpg",
    ],
)
def test_usual_names_suggest_nothing(name: Callable[[int, int], str]) -> None:
    assert suggest_groups(make_dataset(name_all(name))) is None


def test_a_class_of_that_name_does_not_hide_the_groups() -> None:
    paths = [f"{kind}/x_slide{i // 4}_{i}.png" for kind in ("slide1", "slide2") for i in range(24)]
    hint = suggest_groups(make_dataset(paths))
    assert hint is not None
    assert find_groups(paths, hint.pattern) == [re.sub(r".*x_(slide\d+)_.*", r"\1", path) for path in paths]


def test_a_split_that_has_no_group_on_both_sides_needs_no_hint(tmp_path: Path) -> None:
    asked = make_patients(tmp_path / "one")
    plain = DataSettings(source="folder", path=asked.path, val_fraction=0.25)
    assert find_group_hint(plain, open_data(plain)) is not None
    assert find_group_hint(asked, open_data(asked)) is None
    for number in range(12):
        split, patient = ("train", number // 4) if number < 8 else ("val", 7)
        write_image(tmp_path / f"two/{split}/{'ab'[number % 2]}/patient{patient}_{number}.png", number)
    split = DataSettings(source="folder", path=str(tmp_path / "two"))
    assert find_group_hint(split, open_data(split)) is None
    write_image(tmp_path / "two/val/a/patient1_99.png")
    assert find_group_hint(split, open_data(split)) is not None
