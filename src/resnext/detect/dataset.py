"""Images with boxes, as every source of them gives them; what training, evaluation and checks read."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from resnext.data.images import Facts, read_image, read_with_facts
from resnext.data.source import BadImage, digest_of
from resnext.detect.boxes import LEFT_OUT


class WrongSize(BadImage):
    """A picture of another size than its annotations state."""


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
    boxes: np.ndarray  # float32 [M, 4]: cut at the image's edge
    labels: np.ndarray  # int64 [M]
    crowd: np.ndarray  # bool [M]
    areas: np.ndarray  # float64 [M]
    stated: np.ndarray | None = None  # float64 [M, 4]: x, y, width, height as in the file, before any cut
    exif: bool = True
    either_as_stored: bool = False  # photographs that fit their size both as stored and upright stay as stored
    split: str = ""  # how train and val were divided, where one file was
    own_ids: bool = False  # the annotations have no ids (VOC): those of images and categories are only counted here
    counts: dict[str, int] = field(default_factory=dict)  # what the policies did: {"boxes cut at the edge": 3}

    def __len__(self) -> int:
        return len(self.files)

    def listing_digest(self) -> str:
        """A digest of which images there are, in which order, and of their boxes."""
        columns = (self.offsets, self.boxes, self.labels, self.crowd)
        return digest_of(map(os.fsencode, self.files), *columns)

    def image(self, index: int) -> Image.Image:
        """The picture, RGB, of the stated size. Raises BadImage naming the file where it cannot be used.

        With ``exif`` a photograph is turned upright where only that gives the stated size, and stays as it is stored
        where only this does: the boxes were drawn in pixels of the stated size. ``either_as_stored`` decides where
        both do (turned by 180°, mirrored, or square).
        """
        return self.image_with_facts(index)[0]

    def image_with_facts(self, index: int) -> tuple[Image.Image, Facts]:
        """``image``, and what the file says of itself."""
        path = Path(self.root) / self.files[index]
        stated = (int(self.sizes[index, 0]), int(self.sizes[index, 1]))
        pixels, facts = read_with_facts(path, 3, self.exif)
        turned = self.exif and facts.orientation != 1
        if turned and facts.size == stated and (pixels.size != stated or self.either_as_stored):
            pixels = read_image(path, 3, exif=False)
        if pixels.size != stated:
            raise WrongSize(str(path), f"it has {_size(pixels.size)} pixels, but its annotations state {_size(stated)}")
        return pixels, facts

    def annotations(self, index: int) -> Boxes:
        """What is annotated in image ``index``."""
        part = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return Boxes(self.boxes[part], self.labels[part], self.crowd[part], self.areas[part])

    def where(self, index: int) -> str:
        """The image's path under the data's folder."""
        return self.files[index]

    def owners(self) -> np.ndarray:
        """int64 [M]: the index of each box's image."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def ground_truth(self) -> dict[str, Any]:
        """The data set in COCO's format, as its evaluation wants it: boxes as [x, y, width, height], as stated.

        Annotations are numbered anew from 1, because pycocotools takes an id of 0 for no match.
        """
        boxes = self._stated().tolist()
        images = self.image_ids[self.owners()].tolist()
        areas, crowd = self.areas.tolist(), self.crowd.tolist()
        return {
            "images": [
                {"id": id_, "file_name": name, "width": width, "height": height}
                for id_, name, (width, height) in zip(
                    self.image_ids.tolist(), self.files, self.sizes.tolist(), strict=True
                )
            ],
            "annotations": [
                {
                    "id": i + 1,
                    "image_id": images[i],
                    "category_id": self.category_ids[label],
                    "bbox": boxes[i],
                    "area": areas[i],
                    "iscrowd": int(crowd[i]),
                }
                for i, label in enumerate(self.labels.tolist())
            ],
            "categories": [
                {"id": id_, "name": name} for id_, name in zip(self.category_ids, self.classes, strict=True)
            ],
        }

    def subset(self, indices: np.ndarray) -> "DetectionDataset":
        """The images at ``indices`` (int64 [n]), in that order, with their boxes."""
        indices = np.asarray(indices, np.int64)
        starts, counts = self.offsets[indices], np.diff(self.offsets)[indices]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        rows = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)
        return replace(
            self,
            files=tuple(self.files[i] for i in indices),
            image_ids=self.image_ids[indices],
            sizes=self.sizes[indices],
            offsets=offsets,
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            crowd=self.crowd[rows],
            areas=self.areas[rows],
            stated=None if self.stated is None else self.stated[rows],
        )

    def _stated(self) -> np.ndarray:
        if self.stated is not None:
            return self.stated
        corners = self.boxes.astype(np.float64)
        return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def limited(dataset: DetectionDataset, limit: int | None, seed: int) -> DetectionDataset:
    """``limit`` images drawn by ``seed``, in their old order; the data set itself when it has no more than that.

    ``counts`` says how many others there were.
    """
    if limit is None or limit >= len(dataset):
        return dataset
    drawn = np.random.Generator(np.random.Philox(key=seed)).permutation(len(dataset))[:limit]
    counts = dataset.counts | {"images left out by the limit": len(dataset) - limit}
    return replace(dataset.subset(np.sort(drawn)), counts=counts)


def without_empty(dataset: DetectionDataset) -> DetectionDataset:
    """The images that have a box to train on, one that is no crowd; ``counts`` says how many others there were."""
    trained_on = np.bincount(dataset.owners()[~dataset.crowd], minlength=len(dataset)) > 0
    if trained_on.all():
        return dataset
    counts = dataset.counts | {"images without boxes left out": int((~trained_on).sum())}
    return replace(dataset.subset(np.flatnonzero(trained_on)), counts=counts)


def explain_no_boxes(dataset: DetectionDataset) -> str:
    """A sentence where a split has no box that can be trained on or judged by; empty where it has."""
    if not dataset.crowd.all():
        return ""
    if len(dataset.crowd):
        return f"every box of {dataset.name} is a crowd or a difficult object, which nothing is learnt from"
    bad = f", the {dataset.counts[LEFT_OUT]} bad ones left out" if LEFT_OUT in dataset.counts else ""
    return f"{dataset.name} has no boxes{bad}, so there is nothing to learn or to judge by"


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
