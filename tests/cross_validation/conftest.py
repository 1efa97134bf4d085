"""Photos with wrong labels, and cross-validations of them whose folds are trained in this process."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resnext
from resnext.cli import main
from resnext.cross_validation.directory import FoldRun
from resnext.data.sources.digits import open_digits
from resnext.recipe import parse_recipe
from resnext.settings import DataSettings, Recipe

TINY = """
model: {name: resnext11_2x4d, base_channels: 8}
data: {source: folder, image_size: 8, channels: 1, workers: 0}
augment: {crop: pad, pad: 1}
optimizer: {lr: 0.1, weight_decay: 0.0005}
schedule: {name: cosine, warmup_epochs: 1}
train: {epochs: 15, batch_size: 8, ema_decay: 0.8, label_smoothing: 0.1, channels_last: "no", fast: "no", threads: 1}
"""


@dataclass(frozen=True)
class Photos:
    """A folder of real scans of digits, some in the folder of another digit."""

    folder: Path
    wrong: frozenset[str]  # paths below the folder


def write_digits(folder: Path, digits: Sequence[int], count: int, wrong: int, seed: int) -> Photos:
    """Write ``count`` scans of each digit as PNG files, and ``wrong`` of all under another label."""
    random, source = np.random.default_rng(seed), open_digits(DataSettings()).train
    chosen = [
        (int(index), digit)
        for digit in digits
        for index in random.choice(np.flatnonzero(source.labels == digit), count, replace=False)
    ]
    falsified = set(random.choice(len(chosen), wrong, replace=False).tolist())
    paths = set()
    for number, (index, digit) in enumerate(chosen):
        others = [other for other in digits if other != digit]
        label = int(random.choice(others)) if number in falsified else digit
        path = Path(f"digit {label}") / f"scan {number:03}.png"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        source.image(index).save(folder / path)
        if number in falsified:
            paths.add(path.as_posix())
    return Photos(folder, frozenset(paths))


def make_recipe(folder: Path, **overrides: object) -> Recipe:
    """Make a recipe whose training on such a folder takes a second."""
    return parse_recipe(TINY, overrides={"data.path": str(folder)} | overrides)


@pytest.fixture(scope="package")
def quick_folds() -> Iterator[None]:
    """Folds are trained in this process, without plots at their start and end."""

    def train_here(
        pending: Sequence[FoldRun], folder: Path, make_command: Callable[[FoldRun], list[str]], *_: object
    ) -> list[FoldRun]:
        folder.mkdir(parents=True, exist_ok=True)
        return [run for run in pending if main(make_command(run)[1:]) != 0]

    def write_nothing(state: Any, *_: object) -> str:
        state.run.evaluation.mkdir(exist_ok=True)
        (state.run.evaluation / "metrics.json").write_text("{}")
        return ""

    patch = pytest.MonkeyPatch()
    patch.setattr("resnext.cross_validation.train_folds.train_runs", train_here)
    patch.setattr("resnext.training.classification.write_final_evaluation", write_nothing)
    patch.setattr("resnext.training.classification.write_samples", lambda *_: None)
    yield
    patch.undo()


@dataclass(frozen=True)
class Finished:
    """A finished cross-validation of the photos."""

    photos: Photos
    copied: str  # the path that has a copy under another label
    recipe: Recipe
    result: resnext.Crossval


@pytest.fixture(scope="package")
def finished(tmp_path_factory: pytest.TempPathFactory, quick_folds: None) -> Finished:  # noqa: ARG001
    """Two folds of 80 scans, 8 of which have the wrong label; and a copy of one under another label."""
    place = tmp_path_factory.mktemp("crossval")
    photos = write_digits(place / "scans", (0, 1), 40, 8, seed=0)
    right = next(f"digit 0/{one.name}" for one in sorted((photos.folder / "digit 0").iterdir())
                 if f"digit 0/{one.name}" not in photos.wrong)  # fmt: skip
    shutil.copy(photos.folder / right, photos.folder / "digit 1/copy ü.png")
    recipe = make_recipe(photos.folder)
    return Finished(photos, right, recipe, resnext.crossval(recipe, place / "out", folds=2, quiet=True))
