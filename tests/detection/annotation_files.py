"""Small data sets with boxes, in COCO's and in VOC's format, for the tests of this folder."""

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resnext.detection.data.annotations import build_dataset, drop_group_categories
from resnext.detection.data.coco import parse_coco
from resnext.detection.data.dataset import DetectionDataset
from resnext.detection.data.find_images import find_image_folder, locate_images
from resnext.detection.data.image_paths import check_images_exist

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]  # ids neither dense nor in order


def photo(path: Path, width: int = 40, height: int = 30, seed: int = 0, orientation: int = 1) -> Path:
    """A picture of noise, as JPEG with an EXIF orientation or as its ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path


def image_row(id_: int, name: str, width: int = 40, height: int = 30) -> dict[str, Any]:
    return {"id": id_, "file_name": name, "width": width, "height": height}


def box_row(id_: int, image: int, bbox: object, category: int = 3, **more: object) -> dict[str, Any]:
    return {"id": id_, "image_id": image, "category_id": category, "bbox": bbox} | more


def coco_content(**changes: Any) -> dict[str, Any]:
    """Three images: two boxes (the second a crowd), none, and one of the other category."""
    return {
        "images": [image_row(20, "a.jpg"), image_row(10, "b.jpg"), image_row(30, "c.jpg")],
        "annotations": [
            box_row(5, 30, [1, 2, 10, 5], 7, area=33.0, iscrowd=0),
            box_row(6, 20, [0.5, 1.5, 20, 10], 3, area=150, iscrowd=0, segmentation=[[0, 0, 1, 1, 2, 2]]),
            box_row(4, 20, [0, 0, 40, 30], 7, area=1200, iscrowd=1, segmentation={"counts": [1], "size": [30, 40]}),
        ],
        "categories": CATEGORIES,
    } | changes


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def coco_folder(root: Path, train: object = None, val: object = None, images: Sequence[str] = ("a", "b", "c")) -> Path:
    """PATH/annotations/instances_{train,val}.json, PATH/{train,val}/NAME.jpg."""
    for seed, (split, content) in enumerate((("train", train), ("val", val))):
        write_json(root / f"annotations/instances_{split}.json", content or coco_content())
        for place, name in enumerate(images):
            photo(root / split / f"{name}.jpg", seed=10 * seed + place)
    return root


def voc_xml(objects: str = "", size: tuple[int, int] = (40, 30), filename: str = "") -> str:
    named = f"<filename>{filename}</filename>" if filename else ""
    return (
        f"<annotation>{named}<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
        f"{objects}</annotation>"
    )


def voc_object(name: str, box: Sequence[object], difficult: int | None = None) -> str:
    sides = "".join(f"<{s}>{v}</{s}>" for s, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    hard = "" if difficult is None else f"<difficult>{difficult}</difficult>"
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    return f"<object><name>{name}</name>{part}{hard}<bndbox>{sides}</bndbox></object>"


def voc_folder(root: Path) -> Path:
    """VOC's own layout: two images to train on, one held out."""
    made = {
        "000001": voc_object("dog", (1, 1, 40, 30)) + voc_object("cat", (11, 6, 20, 10), 1),
        "000002": "",
        "000003": voc_object("bird", (3, 4, 5, 6), 0),
    }
    for seed, (name, objects) in enumerate(made.items()):
        photo(root / "JPEGImages" / f"{name}.jpg", seed=seed)
        write(root / "Annotations" / f"{name}.xml", voc_xml(objects))
    write(root / "ImageSets/Main/train.txt", "000002\n000001\n")
    write(root / "ImageSets/Main/val.txt", "000003\n")
    return root


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def read_coco(
    annotations: Path,
    images: Path | Sequence[Path],
    *,
    exif: bool = True,
    bad_boxes: str = "error",
    empty: str = "keep",
    check_files: bool = True,
) -> DetectionDataset:
    """The split in ``annotations``, with images below ``images`` (of several folders the first that has some)."""
    parsed = parse_coco(annotations)
    root = images if isinstance(images, Path) else find_image_folder(images, parsed.files)
    parsed = locate_images(drop_group_categories(parsed, []), root, exif=exif)
    dataset = build_dataset(parsed, root, exif=exif, bad_boxes=bad_boxes, empty=empty)
    if check_files:
        check_images_exist(root, dataset.files, str(annotations))
    return dataset


def pycocotools_metrics(truth: Path | dict[str, Any], results: Path | list[dict[str, Any]]) -> list[float]:
    """COCO's twelve metrics by pycocotools itself; a test is skipped without it."""
    tools, evaluation = (pytest.importorskip(f"pycocotools.{name}") for name in ("coco", "cocoeval"))
    with contextlib.redirect_stdout(io.StringIO()):
        data = tools.COCO() if isinstance(truth, dict) else tools.COCO(str(truth))
        if isinstance(truth, dict):
            data.dataset = truth
            data.createIndex()
        run = evaluation.COCOeval(data, data.loadRes(str(results) if isinstance(results, Path) else results), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return [float(value) for value in run.stats]
