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

from resnext.data.dataset import Dataset
from resnext.data.imagenet_classes import imagenet_synsets, resolve_output_synsets
from resnext.errors import RequestError
from resnext.evaluation.evaluator import Evaluation
from resnext.evaluation.metrics import compute_interval95, to_percent

VALIDATION_IMAGES = 50_000
MAX_BYTES = 64 << 20  # bytes
FILE_NAME_PATTERN = re.compile(r"(?:.*[^0-9A-Za-z_])?ILSVRC2012_val_([0-9]{8})(?:[._][^/\\]*)?", re.DOTALL)
RIGHT, WRONG, NO_LABEL = "right", "wrong", "no label"

RealLabels = list[frozenset[int]]


@dataclass(frozen=True)
class RealScore:
    """The error on ReaL labels. ``outcomes`` has RIGHT, WRONG or NO_LABEL for each image of the evaluation."""

    outcomes: tuple[str, ...]

    @property
    def n(self) -> int:
        """Number of images that have a label."""
        return len(self.outcomes) - self.unlabelled

    @property
    def wrong(self) -> int:
        """Number of wrong predictions."""
        return self.outcomes.count(WRONG)

    @property
    def unlabelled(self) -> int:
        """Number of images without a label."""
        return self.outcomes.count(NO_LABEL)

    @property
    def error(self) -> float:
        """Top-1 error in percent of the images that have a label."""
        return to_percent(self.wrong, self.n)

    @property
    def interval95(self) -> tuple[float, float]:
        """The 95 % Wilson interval of the error."""
        return compute_interval95(self.wrong, self.n)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "n": self.n,
            "left_out": self.unlabelled,
            "correct1": self.n - self.wrong,
            "top1_error": self.error if self.n else None,
            "top1_error_interval95": list(self.interval95),
        }


def read_real_labels(path: Path) -> RealLabels:
    """Read the labels of ``real.json``. Raises RequestError for any other file."""
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise RequestError(f"--real {path} is not a file of ReaL labels (real.json)")
    try:
        lists = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"--real {path} cannot be read as JSON: {str(error)[:200]}") from None
    if not isinstance(lists, list) or len(lists) != VALIDATION_IMAGES:
        what = f"a list of {len(lists):,}" if isinstance(lists, list) else "no list"
        raise RequestError(
            f"--real {path} is {what}; ReaL's real.json is a list of {VALIDATION_IMAGES:,} lists of class numbers"
        )
    for number, labels in enumerate(lists, start=1):
        if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < 1000 for label in labels):
            raise RequestError(f"--real {path}: entry {number} is not a list of class numbers from 0 to 999")
    return [frozenset(labels) for labels in lists]


def check_imagenet_validation(dataset: Dataset) -> None:
    """Check by file names and classes that these are ImageNet validation images; raises RequestError otherwise."""
    map_to_imagenet1k(dataset.classes)
    for index in range(len(dataset)):
        parse_image_number(dataset.image_path(index))


def score_real(evaluation: Evaluation, labels: RealLabels) -> RealScore:
    """Score the predictions of an evaluation on ReaL labels. Raises RequestError as ``check_imagenet_validation``."""
    official = map_to_imagenet1k(evaluation.classes)[evaluation.predicted]
    verdicts = []
    for where, predicted in zip(evaluation.paths, official.tolist(), strict=True):
        right = labels[parse_image_number(where) - 1]
        verdicts.append(NO_LABEL if not right else RIGHT if predicted in right else WRONG)
    return RealScore(tuple(verdicts))


def map_to_imagenet1k(classes: Sequence[str]) -> np.ndarray:
    """Map each class to its number among ImageNet's 1,000: int64 [K], -1 for classes of larger ImageNets."""
    synsets = resolve_output_synsets(classes, len(classes))
    if synsets is None:
        raise RequestError("ReaL labels need ImageNet's 1,000 classes, but this network has others")
    places = {synset: number for number, synset in enumerate(imagenet_synsets())}
    return np.array([places.get(synset, -1) for synset in synsets], dtype=np.int64)


def parse_image_number(path: str) -> int:
    """Return the number, 1 to 50,000, in a file name like ILSVRC2012_val_00000001.JPEG."""
    found = FILE_NAME_PATTERN.fullmatch(path)
    if found is None or not 1 <= int(found[1]) <= VALIDATION_IMAGES:
        raise RequestError(
            f"ReaL labels belong to ILSVRC2012_val_00000001.JPEG to ILSVRC2012_val_{VALIDATION_IMAGES:08}.JPEG, not "
            f"to {path!r}"
        )
    return int(found[1])
