"""Make trainval35k and minival, the COCO split of papers before 2017, from COCO's own files.

Of the 40,504 images of val2014, 5,000 are minival; the other 35,504 are used for training together with all 82,783 of
train2014 (Section 5.4). The list came with py-faster-rcnn until COCO adopted it as its 2017 split: val2017 is minival,
and train2017 the other 118,287 images (tensorpack's FasterRCNN: "trainval35k, AKA train2017"; the counts agree). So the
ids in instances_val2017.json are the list. An image has the same id in all COCO files; file names whose numbers
contradict this are an error.

Two other splits called minival are not meant: TensorFlow's of 8,059 images, and the last 5,000 images of val2014.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnext.data.classes import describe_class_difference, quote_names
from resnext.detection.data.coco import list_categories, load_json, read_images
from resnext.detection.data.image_paths import check_image_name
from resnext.errors import RequestError
from resnext.files import atomic_write, check_folder

# Numbers of images in COCO's own files.
OFFICIAL_COUNTS = {"train2014": 82_783, "val2014": 40_504, "minival": 5_000, "trainval35k": 118_287}
NUMBER_PATTERN = re.compile(r"(\d+)\.\w+$")
Content = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class ListCount:
    """The number of images and boxes of one list."""

    name: str
    images: int
    boxes: int

    @property
    def is_official(self) -> bool:
        """Whether the number of images is that of COCO's own files."""
        return self.images == OFFICIAL_COUNTS[self.name]


def make_minival(
    train2014: Path, val2014: Path, val2017: Path, out: Path, keep_segmentations: bool = False
) -> list[ListCount]:
    """Write ``instances_trainval35k.json`` and ``instances_minival.json`` into ``out``; return the counts of all lists.

    Image names get their folder in front (``train2014/...``, ``val2014/...``). Segmentations are left out unless
    ``keep_segmentations``. Raises RequestError for inputs that do not belong together or outputs that exist.
    """
    targets = {name: out / f"instances_{name}.json" for name in ("trainval35k", "minival")}
    if not out.is_dir():
        raise RequestError(f"{out} is not a folder; the lists are written into an existing one")
    for target in targets.values():
        if target.exists():
            raise RequestError(f"{target} exists already; move it away or choose another folder")
    check_folder(out)
    train = _load_content(train2014, keep_segmentations, "train2014")
    val = _load_content(val2014, keep_segmentations, "val2014")
    _check_disjoint(train, val, train2014, val2014)
    rest, minival = _split_by_ids(val, _read_minival_ids(val2017, val, val2014))
    trainval = {part: train[part] + rest[part] for part in ("images", "annotations")}
    lists = {"trainval35k": trainval | {"categories": train["categories"]}, "minival": minival}
    for name, content in lists.items():
        info = {"description": f"COCO 2014 {name}, by resnext data minival"}
        with atomic_write(targets[name], "w") as file:
            file.write(json.dumps({"info": info, **content}))
    return [
        ListCount(name, len(content["images"]), len(content["annotations"]))
        for name, content in {"train2014": train, "val2014": val, **lists}.items()
    ]


def _load_content(path: Path, keep_segmentations: bool, folder: str) -> Content:
    """Load a file and put the folder in front of its image names."""
    content = load_json(path, keep_segmentations)
    read_images(content["images"], path)
    list_categories(content["categories"], path)
    prefix = f"{folder}/"
    for place, row in enumerate(content["images"]):
        check_image_name(row["file_name"], f"{path}: images[{place}].file_name")
        row["file_name"] = prefix + row["file_name"].removeprefix(prefix)
    return {part: content[part] for part in ("images", "annotations", "categories")}


def _check_disjoint(train: Content, val: Content, train_path: Path, val_path: Path) -> None:
    """Raise RequestError unless two files can be merged: equal categories, no common ids."""
    train_ids, train_names = list_categories(train["categories"], train_path)
    val_ids, val_names = list_categories(val["categories"], val_path)
    difference = describe_class_difference(train_names, val_names, train_path.name, val_path.name)
    if difference or train_ids != val_ids:
        raise RequestError(f"the categories of {train_path} and {val_path} differ: {difference or 'their ids do'}")
    for part in ("images", "annotations"):
        common = {row.get("id") for row in train[part]} & {row.get("id") for row in val[part]}
        if common:
            raise RequestError(
                f"{train_path} and {val_path} share {len(common)} ids of {part}, such as {next(iter(common))}; "
                "expected two files of the same year"
            )


def _read_minival_ids(val2017: Path, val: Content, val_path: Path) -> set[int]:
    """Read the ids of minival. Raises RequestError unless they are images of val2014."""
    content = load_json(val2017)
    ids, names, _ = read_images(content["images"], val2017)
    known = {row["id"]: row["file_name"] for row in val["images"]}
    strangers = [name for id_, name in zip(ids, names, strict=True) if id_ not in known]
    if strangers:
        raise RequestError(
            f"{len(strangers)} of the {len(ids)} images of {val2017} are not in {val_path}: {quote_names(strangers)}; "
            "expected instances_val2017.json or another subset of val2014"
        )
    for id_, name in zip(ids, names, strict=True):
        here, there = _parse_number(known[id_]), _parse_number(name)
        if here is not None and there is not None and here != there:
            raise RequestError(f"image {id_} is {known[id_]} in {val_path} but {name} in {val2017}: not the same image")
    return set(ids)


def _parse_number(name: str) -> int | None:
    found = NUMBER_PATTERN.search(name)
    return int(found[1]) if found else None


def _split_by_ids(content: Content, ids: set[int]) -> tuple[Content, Content]:
    """Split into images not in ``ids`` and those in it, with their annotations, in the file's order."""
    parts: list[Content] = []
    for inside in (False, True):
        images = [row for row in content["images"] if (row["id"] in ids) is inside]
        annotations = [row for row in content["annotations"] if (row.get("image_id") in ids) is inside]
        parts.append({"images": images, "annotations": annotations, "categories": content["categories"]})
    return parts[0], parts[1]
