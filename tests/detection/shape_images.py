"""Folders of pictures with clear coloured shapes, which a tiny network can learn, and recipes for them."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageDraw

from tests.detection.annotation_files import box_row, image_row, write_json

KINDS = (("disc", (220, 40, 40)), ("bar", (40, 70, 220)))


def picture(size: tuple[int, int], shapes: list[tuple[int, list[float]]]) -> Image.Image:
    """Red discs and blue bars on grey."""
    image = Image.new("RGB", size, (150, 150, 150))
    draw = ImageDraw.Draw(image)
    for kind, (x, y, w, h) in shapes:
        corners = (x, y, x + w - 1, y + h - 1)
        (draw.ellipse if kind == 0 else draw.rectangle)(corners, fill=KINDS[kind][1])
    return image


def folder(root: Path, train: int = 10, val: int = 4, size: tuple[int, int] = (64, 48)) -> Path:
    """COCO's layout: every image has one or two shapes, but the last of the training images none."""
    draw = np.random.default_rng(3)
    for split, count in (("train", train), ("val", val)):
        (root / split).mkdir(parents=True)
        images = []
        for number in range(count):
            wide = size if number % 3 else size[::-1]
            empty = split == "train" and number == count - 1
            shapes: list[tuple[int, list[float]]] = []
            for place in range(0 if empty else int(draw.integers(1, 3))):
                w, h = (float(v) for v in draw.integers(12, 22, 2))
                x, y = float(draw.integers(0, wide[0] // 2 - 22 + 1)), float(draw.integers(0, wide[1] - 22))
                shapes.append((int(draw.integers(2)), [x + place * wide[0] // 2, y, w, h]))
            picture(wide, shapes).save(root / split / f"{number}.png")
            images.append((wide, shapes))
        write(root, split, images)
    return root


def one_image(root: Path, copies: int) -> Path:
    """COCO's layout: four shapes in one image, which is there ``copies`` times to train on and once held out."""
    size = (96, 72)
    shapes = [(0, [6.0, 8, 24, 24]), (1, [44.0, 6, 30, 18]), (1, [10.0, 44, 20, 24]), (0, [58.0, 38, 28, 28])]
    for split, count in (("train", copies), ("val", 1)):
        for number in range(count):
            (root / split).mkdir(parents=True, exist_ok=True)
            picture(size, shapes).save(root / split / f"{number}.png")
        write(root, split, [(size, shapes)] * count)
    return root


def write(root: Path, split: str, images: list[tuple[tuple[int, int], list[tuple[int, list[float]]]]]) -> None:
    """The annotations of images ``0.png``, ``1.png`` ..., each of a size and with shapes."""
    rows = [(number, kind, box) for number, (_, shapes) in enumerate(images) for kind, box in shapes]
    content = {
        "images": [image_row(number, f"{number - 1}.png", *size) for number, (size, _) in enumerate(images, 1)],
        "annotations": [
            box_row(row, number + 1, box, kind + 1, area=box[2] * box[3], iscrowd=0)
            for row, (number, kind, box) in enumerate(rows, 1)
        ],
        "categories": [{"id": id_, "name": name} for id_, (name, _) in enumerate(KINDS, 1)],
    }
    write_json(root / "annotations" / f"instances_{split}.json", content)


def recipe(path: Path, data: Path, **changes: Any) -> Path:
    """A recipe of a tiny detector: two epochs of two steps; ``changes`` are like train__epochs=3."""
    values: dict[str, dict[str, Any]] = {
        "model": {"name": "resnext11_2x4d", "stem": "imagenet", "blocks": [1, 1, 1], "base_channels": 4},
        "detector": {
            "fpn_channels": 8,
            "head_channels": 16,
            "anchor_sizes": [8, 16, 32, 64],
            "rpn_batch": 32,
            "roi_batch": 32,
            "rpn_post_nms_train": 60,
            "rpn_pre_nms_test": 60,
            "rpn_post_nms_test": 40,
            "score": 0.0,
            "detections": 10,
        },
        "data": {"path": str(data), "min_size": 48, "max_size": 64, "workers": 0},
        "augment": {"color_jitter": 0.1},
        "optimizer": {"lr": 0.02},
        "train": {"epochs": 2, "batch_size": 4, "checkpoint_steps": 1, "device": "cpu", "threads": 1, "seed": 3},
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        values.setdefault(section, {})[name] = value
    path.write_text(yaml.safe_dump(values))
    return path
