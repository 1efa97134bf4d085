"""The detection data set: images with boxes, the same for every source format."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from resnext.data.dataset import BadImageError, hash_file_list
from resnext.data.decode.pillow import ImageInfo, read_image, read_image_with_info
from resnext.detection.data.box_policy import DROPPED


class WrongSizeError(BadImageError):
    """An image whose size differs from the one in its annotations."""


def describe_wrong_size(size: Sequence[int], stated: Sequence[int]) -> str:
    """Describe an image (width, height) whose size differs from the one in its annotations."""
    return f"it has {size[0]} x {size[1]} pixels, but its annotations say {stated[0]} x {stated[1]}"


class ImageBoxes(NamedTuple):
    """Boxes of one image, in pixels of the image at its annotated size (upright where it is turned)."""

    boxes: np.ndarray  # float32 [n, 4]: x1, y1, x2, y2
    labels: np.ndarray  # int64 [n], indices into the data set's classes
    crowd: np.ndarray  # bool [n]: a box around several objects, not trained on and not counted as missed
    areas: np.ndarray  # float64 [n]: as annotated; COCO's size classes use them


@dataclass(frozen=True, eq=False, kw_only=True)
class DetectionDataset:
    """One split. The boxes of image i are rows ``offsets[i]`` to ``offsets[i+1]`` of the arrays of all boxes."""

    name: str  # for messages, such as ``instances_val.json``
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]  # id of each class in the annotation files
    root: str  # folder of the images
    files: tuple[str, ...]  # paths relative to root
    image_ids: np.ndarray  # int64 [N]
    sizes: np.ndarray  # int64 [N, 2]: annotated width, height
    offsets: np.ndarray  # int64 [N + 1]
    boxes: np.ndarray  # float32 [M, 4]: x1, y1, x2, y2, clipped to the image
    labels: np.ndarray  # int64 [M]
    crowd: np.ndarray  # bool [M]
    areas: np.ndarray  # float64 [M]
    stated: np.ndarray  # float64 [M, 4]: x, y, width, height as in the file, not clipped
    exif: bool = True
    keeps_stored_orientation: bool = False  # keep images as stored whose size fits both as stored and upright
    split_rule: str = ""  # how train and val were split, where both come from one file
    has_generated_ids: bool = False  # ids of images and categories are generated, as the annotations have none (VOC)
    counts: dict[str, int] = field(default_factory=dict)  # what was changed or left out: {"boxes cut at the edge": 3}

    def __len__(self) -> int:
        return len(self.files)

    def listing_digest(self) -> str:
        """Compute a digest of the images, their order and their boxes."""
        columns = (self.offsets, self.boxes, self.labels, self.crowd)
        return hash_file_list(map(os.fsencode, self.files), *columns)

    def load_image(self, index: int) -> Image.Image:
        """Read the image as RGB at its annotated size. Raises BadImage naming a file that cannot be used.

        With ``exif``, an image is turned upright or kept as stored, whichever gives the annotated size, because the
        boxes refer to that size. Where both do (turned 180°, mirrored, square), ``keeps_stored_orientation`` decides.
        """
        return self.load_image_with_facts(index)[0]

    def load_image_with_facts(self, index: int) -> tuple[Image.Image, ImageInfo]:
        """Read the image, and the facts of its file (format, orientation, size)."""
        path = Path(self.root) / self.files[index]
        stated = (int(self.sizes[index, 0]), int(self.sizes[index, 1]))
        pixels, facts = read_image_with_info(path, 3, self.exif)
        turned = self.exif and facts.orientation != 1
        if turned and facts.size == stated and (pixels.size != stated or self.keeps_stored_orientation):
            pixels = read_image(path, 3, exif=False)
        if pixels.size != stated:
            raise WrongSizeError(str(path), describe_wrong_size(pixels.size, stated))
        return pixels, facts

    def get_boxes(self, index: int) -> ImageBoxes:
        """Return the boxes of image ``index``."""
        part = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return ImageBoxes(self.boxes[part], self.labels[part], self.crowd[part], self.areas[part])

    def map_boxes_to_images(self) -> np.ndarray:
        """Return the image index of each box: int64 [M]."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def to_coco_dict(self) -> dict[str, Any]:
        """Convert to COCO's format, boxes as annotated. Ids count from 1, as pycocotools takes 0 for no match."""
        boxes = self.stated.tolist()
        images = self.image_ids[self.map_boxes_to_images()].tolist()
        areas, crowd = self.areas.tolist(), self.crowd.tolist()
        rows = zip(self.image_ids.tolist(), self.files, self.sizes.tolist(), strict=True)
        return {
            "images": [
                {"id": id_, "file_name": name, "width": width, "height": height} for id_, name, (width, height) in rows
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

    def select_images(self, indices: np.ndarray) -> "DetectionDataset":
        """Select the images at ``indices`` (int64 [n]), in that order, with their boxes."""
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
            stated=self.stated[rows],
        )


def random_subset(dataset: DetectionDataset, limit: int | None, seed: int) -> DetectionDataset:
    """Select ``limit`` images at random by ``seed``, in their old order; ``counts`` gets the number left out."""
    if limit is None or limit >= len(dataset):
        return dataset
    drawn = np.random.Generator(np.random.Philox(key=seed)).permutation(len(dataset))[:limit]
    counts = dataset.counts | {"images left out by the limit": len(dataset) - limit}
    return replace(dataset.select_images(np.sort(drawn)), counts=counts)


def drop_empty_images(dataset: DetectionDataset) -> DetectionDataset:
    """Drop images without a box to train on (crowds do not count); ``counts`` gets their number."""
    trained_on = np.bincount(dataset.map_boxes_to_images()[~dataset.crowd], minlength=len(dataset)) > 0
    if trained_on.all():
        return dataset
    counts = dataset.counts | {"images without boxes left out": int((~trained_on).sum())}
    return replace(dataset.select_images(np.flatnonzero(trained_on)), counts=counts)


def explain_no_boxes(dataset: DetectionDataset) -> str:
    """Explain why a split has no box to train on or evaluate with; empty where it has one."""
    if not dataset.crowd.all():
        return ""
    if len(dataset.crowd):
        return f"every box of {dataset.name} is a crowd or a difficult object, which are not used in training"
    bad = f" after {dataset.counts[DROPPED]} bad ones were left out" if DROPPED in dataset.counts else ""
    return f"{dataset.name} has no boxes{bad}, so nothing can be trained or evaluated"
