"""ReaL: the reassessed labels of ImageNet's validation images (Beyer et al. 2020), with several or no labels per image.

``real.json`` is a list of 50,000 lists of class numbers, starting with ILSVRC2012_val_00000001. A prediction is correct
if it is in the image's list; images with an empty list are left out.
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
    """The error on ReaL labels. ``outcomes`` has RIGHT, WRONG or NO_LABEL for each image of the evaluation."""

    verdicts: tuple[str, ...]

    @property
    def n(self) -> int:
        """Number of images that have a label."""
        return len(self.verdicts) - self.left_out

    @property
    def wrong(self) -> int:
        """Number of wrong predictions."""
        return self.verdicts.count(WRONG)

    @property
    def left_out(self) -> int:
        """Number of images without a label."""
        return self.verdicts.count(NONE)

    @property
    def error(self) -> float:
        """Top-1 error in percent of the images that have a label."""
        return percent(self.wrong, self.n)

    @property
    def interval95(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the error."""
        return interval95(self.wrong, self.n)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        error = self.error if self.n else None
        return {
            "n": self.n,
            "left_out": self.left_out,
            "correct1": self.n - self.wrong,
            "top1_error": error,
            "top1_error_interval95": list(self.interval95),
        }


def read_real(path: Path | str) -> Labels:
    """Read the labels of ``real.json``. Raises RequestError for any other file."""
    path = Path(path)
    if not path.is_file() or path.stat().st_size > LARGEST:
        raise RequestError(f"--real {path} is not a file of ReaL labels (real.json)")
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
    """Check by file names and classes that these are ImageNet validation images; raises RequestError otherwise."""
    official_numbers(dataset.classes)
    for index in range(len(dataset)):
        number_of(dataset.where(index))


def score_real(evaluation: Evaluation, labels: Labels) -> RealScore:
    """Score the predictions of an evaluation on ReaL labels. Raises RequestError as ``check_imagenet_validation``."""
    official = official_numbers(evaluation.classes)[evaluation.predicted]
    verdicts = []
    for where, predicted in zip(evaluation.where, official.tolist(), strict=True):
        right = labels[number_of(where) - 1]
        verdicts.append(NONE if not right else RIGHT if predicted in right else WRONG)
    return RealScore(tuple(verdicts))


def official_numbers(classes: Sequence[str]) -> np.ndarray:
    """Map each class to its number among ImageNet's 1,000: int64 [K], -1 for classes of larger ImageNets."""
    synsets = output_synsets(classes, len(classes))
    if synsets is None:
        raise RequestError("ReaL labels need ImageNet's 1,000 classes, but this network has others")
    places = {synset: number for number, synset in enumerate(imagenet_synsets())}
    return np.array([places.get(synset, -1) for synset in synsets], dtype=np.int64)


def number_of(path: str) -> int:
    """Return the number, 1 to 50,000, in a file name like ILSVRC2012_val_00000001.JPEG."""
    found = FILE_NAME.fullmatch(path)
    if found is None or not 1 <= int(found[1]) <= IMAGES:
        raise RequestError(
            f"ReaL labels belong to ILSVRC2012_val_00000001.JPEG to ILSVRC2012_val_{IMAGES:08}.JPEG, not to {path!r}"
        )
    return int(found[1])
