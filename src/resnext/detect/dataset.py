"""Images with boxes, as every source of them gives them; what training, evaluation and checks read."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from resnext.data.images import read_image


class Boxes(NamedTuple):
    """What is annotated in one image, in pixels of the image as it is stated (upright where it is turned)."""

    boxes: np.ndarray  # float32 [n, 4]: x1, y1, x2, y2
    labels: np.ndarray  # int64 [n], into the data set's classes
    crowd: np.ndarray  # bool [n]: a box around many, which is neither trained on nor counted as missed
    areas: np.ndarray  # float64 [n]: as stated, by which COCO tells small from large


@dataclass(frozen=True, eq=False, kw_only=True)
class DetectionDataset:
    """One split. Boxes of all images lie below each other; those of image i from ``offsets[i]`` to ``offsets[i+1]``."""

    name: str  # for people: ``instances_val.json``
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]  # of each class, in the files
    root: str  # folder of the images
    files: tuple[str, ...]  # below it
    image_ids: np.ndarray  # int64 [N]
    sizes: np.ndarray  # int64 [N, 2]: width, height as stated
    offsets: np.ndarray  # int64 [N + 1]
    boxes: np.ndarray  # float32 [M, 4]
    labels: np.ndarray  # int64 [M]
    crowd: np.ndarray  # bool [M]
    areas: np.ndarray  # float64 [M]
    exif: bool = True
    counts: dict[str, int] = field(default_factory=dict)  # what the policies did: {"boxes cut at the edge": 3}

    def __len__(self) -> int:
        return len(self.files)

    def image(self, index: int) -> Image.Image:
        """The picture, RGB, of the stated size. Raises BadImage naming the file where it cannot be used."""
        return read_image(Path(self.root) / self.files[index], 3, self.exif)

    def annotations(self, index: int) -> Boxes:
        """What is annotated in image ``index``."""
        part = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return Boxes(self.boxes[part], self.labels[part], self.crowd[part], self.areas[part])

    def where(self, index: int) -> str:
        """The image's path under the data's folder."""
        return self.files[index]

    def ground_truth(self) -> dict[str, Any]:
        """The data set in COCO's format, as its evaluation wants it: boxes as [x, y, width, height]."""
        raise NotImplementedError
