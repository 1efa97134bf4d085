"""ReaL: the reassessed labels of ImageNet's validation images (Beyer et al. 2020), several or none to an image.

``real.json`` is a list of 50,000 lists of class numbers, that of ILSVRC2012_val_00000001 first. A prediction is right
where it is in the list; images whose list is empty are left out.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from resnext.data.imagenet import imagenet_synsets, output_synsets
from resnext.data.source import Dataset
from resnext.errors import RequestError
from resnext.evaluate.evaluator import Evaluation
from resnext.evaluate.metrics import interval95, percent

IMAGES = 50_000
LARGEST = 64 << 20  # bytes
FILE_NAME = re.compile(r"(?:.*[^0-9A-Za-z_])?ILSVRC2012_val_([0-9]{8})(?:[._][^/\\]*)?", re.DOTALL)
RIGHT, WRONG, NONE = "right", "wrong", "no label"

Labels = list[frozenset[int]]


@dataclass(frozen=True)
class RealScore:
    """The error under ReaL's labels. ``verdicts`` has a word for each image of the evaluation."""

    verdicts: tuple[str, ...]

    @property
    def n(self) -> int:
        """Images that have a label."""
        return len(self.verdicts) - self.left_out

    @property
    def wrong(self) -> int:
        return self.verdicts.count(WRONG)

    @property
    def left_out(self) -> int:
        return self.verdicts.count(NONE)

    @property
    def error(self) -> float:
        """In percent of the images that have a label."""
        return percent(self.wrong, self.n)

    @property
    def interval95(self) -> tuple[float, float]:
        return interval95(self.wrong, self.n)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        error = self.error if self.n else None
        return {
            "n": self.n,
            "left_out": self.left_out,
            "correct1": self.n - self.wrong,
            "top1_error": error,
            "top1_error_interval95": list(self.interval95),
        }


def read_real(path: Path | str) -> Labels:
    """The labels of ``real.json``. Raises RequestError for any other file."""
    path = Path(path)
    if not path.is_file() or path.stat().st_size > LARGEST:
        raise RequestError(f"--real {path} is no file of ReaL labels (real.json)")
    try:
        lists = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"--real {path} cannot be read as JSON: {str(error)[:200]}") from None
    if not isinstance(lists, list) or len(lists) != IMAGES:
        what = f"a list of {len(lists):,}" if isinstance(lists, list) else "no list"
        raise RequestError(f"--real {path} is {what}; ReaL's real.json is a list of {IMAGES:,} lists of class numbers")
    for number, labels in enumerate(lists, start=1):
        if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < 1000 for label in labels):
            raise RequestError(f"--real {path}: entry {number} is not a list of class numbers from 0 to 999")
    return [frozenset(labels) for labels in lists]


def check_real(dataset: Dataset) -> None:
    """Raises RequestError unless these are validation images of ImageNet by their names, under classes of ImageNet."""
    official_numbers(dataset.classes)
    for index in range(len(dataset)):
        number_of(dataset.where(index))


def score_real(evaluation: Evaluation, labels: Labels) -> RealScore:
    """The predictions of an evaluation under ReaL's labels. Raises RequestError as ``check_real`` does."""
    official = official_numbers(evaluation.classes)[evaluation.predicted]
    verdicts = []
    for where, predicted in zip(evaluation.where, official.tolist(), strict=True):
        right = labels[number_of(where) - 1]
        verdicts.append(NONE if not right else RIGHT if predicted in right else WRONG)
    return RealScore(tuple(verdicts))


def official_numbers(classes: Sequence[str]) -> np.ndarray:
    """int64 [K]: each class's number among ImageNet's 1,000, -1 for those of larger ImageNets. Raises RequestError."""
    synsets = output_synsets(classes, len(classes))
    if synsets is None:
        raise RequestError("ReaL labels are ImageNet's 1,000 classes, but this network has others")
    places = {synset: number for number, synset in enumerate(imagenet_synsets())}
    return np.array([places.get(synset, -1) for synset in synsets], dtype=np.int64)


def number_of(path: str) -> int:
    """1 to 50,000 of a file called ILSVRC2012_val_00000001.JPEG. Raises RequestError."""
    found = FILE_NAME.fullmatch(path)
    if found is None or not 1 <= int(found[1]) <= IMAGES:
        raise RequestError(
            f"ReaL labels belong to ILSVRC2012_val_00000001.JPEG to ILSVRC2012_val_{IMAGES:08}.JPEG, not to {path!r}"
        )
    return int(found[1])
