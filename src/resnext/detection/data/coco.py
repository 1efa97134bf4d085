"""Read COCO's detection format: a JSON file of images, annotations and categories.

Segmentations, keypoints and licenses are not read. Labels number the categories by ascending id, as COCO's tools do.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from resnext.data.classes import format_remainder
from resnext.detection.data.annotations import RawAnnotations
from resnext.detection.data.box_policy import MAX_SIDE, RawBoxes
from resnext.errors import RequestError

MAX_BYTES = 1 << 32  # ten times the largest file of COCO
REQUIRED_KEYS = ("images", "annotations", "categories")
UNUSED_KEYS = ("segmentation", "keypoints", "captions")
Row = dict[str, Any]


def parse_coco(path: Path) -> RawAnnotations:
    """Read a file, bad boxes included. Raises RequestError for anything else that is invalid."""
    content = load_json(path)
    boxed = {id_ for row in content["annotations"] if isinstance(id_ := row.get("category_id"), int)}
    names, groups = _read_categories(content["categories"], path, boxed)
    category_ids, classes = list(names), list(names.values())
    image_ids, files, sizes = read_images(content["images"], path)
    found, ids = _read_annotations(content["annotations"], path, image_ids, category_ids, classes)
    said = [row["bbox"] for row in content["annotations"]]

    def box_name(place: int) -> str:
        image = int(found.image[place])
        where = f"annotation {ids[place]}, image {image_ids[image]} ({files[image]}),"
        return f"{path}: the box {format_value(said[place])} of {where}"

    return RawAnnotations(
        name=path.name,
        classes=tuple(classes),
        category_ids=tuple(category_ids),
        image_ids=np.array(image_ids, np.int64),
        files=tuple(files),
        sizes=sizes,
        boxes=found,
        describe_box=box_name,
        describe_image=lambda place: f"{path}: images[{place}].file_name",
        group_ids=tuple(groups),
    )


def load_json(
    path: Path, keep_segmentations: bool = False, required_keys: Sequence[str] = REQUIRED_KEYS
) -> dict[str, list[Any]]:
    """Load a COCO file, without segmentations unless ``keep_segmentations``. Raises RequestError.

    ``required_keys`` must be present; COCO's files of test images have no annotations.
    """
    content = _parse_json(path, None if keep_segmentations else _drop_unused_keys)
    if not isinstance(content, dict):
        what = "a list," if isinstance(content, list) else "JSON but"
        if isinstance(content, list) and content and isinstance(content[0], dict) and "score" in content[0]:
            what = "a list of detections (COCO's results format),"
        raise RequestError(f"{path} is {what} not COCO's annotations: an object with {', '.join(REQUIRED_KEYS)}")
    for part in required_keys:
        if part not in content:
            has = ", ".join(repr(key) for key in list(content)[:10]) or "nothing"
            raise RequestError(f"{path} is JSON but not COCO's annotations: it has no {part!r}, only {_truncate(has)}")
        if not isinstance(content[part], list):
            raise RequestError(f"{path}: {part!r} must be a list, not {_describe_type(content[part])}")
        for place, row in enumerate(content[part]):
            if not isinstance(row, dict):
                raise RequestError(f"{path}: {part}[{place}] must be an object, not {_describe_type(row)}")
    return content


def _parse_json(path: Path, hook: Callable[[Row], Row] | None) -> object:
    if not path.is_file():
        raise RequestError(f"{path} {'is not a file' if path.exists() else 'does not exist'}; expected COCO's format")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise RequestError(f"{path} has {size} bytes; at most {MAX_BYTES} are read")
        with path.open(encoding="utf-8-sig") as file:
            return json.load(file, object_hook=hook)
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from error
    except RecursionError:
        raise RequestError(f"{path} is not COCO annotations: it is nested too deeply") from None
    except ValueError as error:  # also bytes that are not UTF-8, and numbers of thousands of digits
        raise RequestError(f"{path} is not JSON: {error}") from error


def _drop_unused_keys(row: Row) -> Row:
    """Drop unused keys while parsing; polygons are nine tenths of COCO's files."""
    for key in UNUSED_KEYS:
        row.pop(key, None)
    return row


def list_categories(rows: list[Row], path: Path) -> tuple[list[int], list[str]]:
    """Return ids and names by ascending id, without group categories that share a class's name."""
    names, groups = _read_categories(rows, path, set())
    classes = {name for id_, name in names.items() if id_ not in groups}
    ids = [id_ for id_, name in names.items() if id_ not in groups or name not in classes]
    return ids, [names[id_] for id_ in ids]


def _read_categories(rows: list[Row], path: Path, boxed: set[int]) -> tuple[dict[int, str], set[int]]:
    """Return names by ascending id, and the ids of categories that may be groups of others.

    A group is the ``supercategory`` of others but not of itself, and has no box (``boxed`` are the ids with one).
    Roboflow writes one, named like the project. Raises RequestError for two classes with the same name; a group may
    have the name of a class.
    """
    names = _read_names(rows, path)
    above = {row["id"]: value for row in rows if isinstance(value := row.get("supercategory"), str)}
    over_others = set(above.values())
    groups = {id_ for id_, name in names.items() if name in over_others and above.get(id_) != name} - boxed
    if len(groups) == len(names):  # each is the supercategory of another, so none can be told apart
        groups = set()
    class_of = {name: id_ for id_, name in reversed(names.items()) if id_ not in groups}
    for id_, name in names.items():
        first = class_of.setdefault(name, id_)
        if first != id_ and id_ not in groups:
            raise RequestError(f"{path}: the categories {first} and {id_} have the same name, {name!r}")
    return names, groups


def _read_names(rows: list[Row], path: Path) -> dict[int, str]:
    names: dict[int, str] = {}
    for place, row in enumerate(rows):
        where = f"{path}: categories[{place}]"
        id_, name = _read_id(row, "id", where), row.get("name")
        if not isinstance(name, str) or not name.strip():
            raise RequestError(f"{where} must have a name, not {format_value(name)}")
        if id_ in names:
            raise RequestError(f"{path}: two categories have the id {id_}, {names[id_]!r} and {name!r}")
        names[id_] = name
    if not names:
        raise RequestError(f"{path} has no categories, so there is nothing to detect")
    return dict(sorted(names.items()))


def read_images(rows: list[Row], path: Path) -> tuple[list[int], list[str], np.ndarray]:
    """Return ids, file names and sizes (int64 [N, 2]: width, height; 0 if missing) in the file's order."""
    if not rows:
        raise RequestError(f"{path} has no images")
    place_of: dict[int, int] = {}
    files: list[str] = []
    sizes: list[tuple[int, int]] = []
    for place, row in enumerate(rows):
        where = f"{path}: images[{place}]"
        id_ = _read_id(row, "id", where)
        name = _read_file_name(row, where)
        if id_ in place_of:
            raise RequestError(f"{path}: two images have the id {id_}, {files[place_of[id_]]!r} and {name!r}")
        place_of[id_] = place
        files.append(name)
        sizes.append((_read_side(row, "width", where), _read_side(row, "height", where)))
    return list(place_of), files, np.array(sizes, np.int64)


def _read_annotations(
    rows: list[Row], path: Path, image_ids: list[int], category_ids: list[int], classes: list[str]
) -> tuple[RawBoxes, list[int]]:
    """Read all annotations and their ids, in the file's order."""
    image_of = {id_: place for place, id_ in enumerate(image_ids)}
    label_of = {id_: place for place, id_ in enumerate(category_ids)}
    place_of: dict[int, int] = {}
    count = len(rows)
    image, labels = np.zeros(count, np.int64), np.zeros(count, np.int64)
    stated, areas = np.full((count, 4), np.nan), np.full(count, np.nan)
    crowd = np.zeros(count, bool)
    for place, row in enumerate(rows):
        where = f"{path}: annotations[{place}]"
        id_ = _read_id(row, "id", where)
        if id_ in place_of:
            raise RequestError(
                f"{path}: two annotations have the id {id_}, annotations[{place_of[id_]}] and annotations[{place}]"
            )
        place_of[id_] = place
        image_id, category_id = _read_id(row, "image_id", where), _read_id(row, "category_id", where)
        if image_id not in image_of:
            near = min(image_ids, key=lambda known: abs(known - image_id))
            raise RequestError(
                f"{path}: annotation {id_} refers to image {image_id}, which is not among the file's "
                f"{len(image_ids)} images; the nearest id is {near}"
            )
        if category_id not in label_of:
            known = ", ".join(f"{i} ({name})" for i, name in list(zip(category_ids, classes, strict=True))[:5])
            raise RequestError(
                f"{path}: annotation {id_} has the category {category_id}, which the file does not define; "
                f"its categories are {known}{format_remainder(classes)}"
            )
        if "bbox" not in row:
            expected = "expected COCO's instances, each with a bbox [x, y, width, height]"
            raise RequestError(f"{path}: annotation {id_} has no bbox; {expected}")
        image[place], labels[place] = image_of[image_id], label_of[category_id]
        stated[place] = _read_box(row["bbox"])
        crowd[place] = _read_crowd(row.get("iscrowd"), where)
        areas[place] = _read_area(row.get("area"), where)
    return RawBoxes(image, labels, stated, crowd, areas), list(place_of)


def _read_id(row: Row, key: str, where: str) -> int:
    """Read a 64-bit integer."""
    value = row.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
        return value
    if key not in row:
        raise RequestError(f"{where} has no {key!r}, {_list_keys(row)}")
    raise RequestError(f"{where}.{key} must be a whole number, not {format_value(value)}")


def _read_file_name(row: Row, where: str) -> str:
    name = row.get("file_name")
    if isinstance(name, str) and name.strip() and "\0" not in name:
        return name
    if "file_name" not in row:
        raise RequestError(f"{where} has no 'file_name', {_list_keys(row)}")
    raise RequestError(f"{where}.file_name must name a file, not {format_value(name)}")


def _read_side(row: Row, key: str, where: str) -> int:
    """Read a side in pixels; 0 where there is none."""
    value = row.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None:
        return 0
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SIDE:
        return value
    raise RequestError(
        f"{where} ({row['file_name']}): {key} must be a whole number of pixels up to {MAX_SIDE}, not "
        f"{format_value(value)}"
    )


def _read_box(value: object) -> list[float]:
    """Read four numbers; NaN where they are not numbers."""
    if isinstance(value, list) and len(value) == 4 and all(_is_number(part) for part in value):
        return [_to_float(part) for part in value]
    return [np.nan] * 4


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _to_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer of more than 308 digits
        return float("inf")


def _read_crowd(value: object, where: str) -> bool:
    """Read iscrowd; False where it is missing."""
    if value is None:
        return False
    if value in (0, 1):  # also false, true
        return bool(value)
    raise RequestError(f"{where}.iscrowd must be 0 or 1, not {format_value(value)}")


def _read_area(value: object, where: str) -> float:
    """Read the area; NaN where it is missing, to be replaced by width x height."""
    if value is None:
        return float("nan")
    if _is_number(value) and 0 <= (area := _to_float(cast(float, value))) < float("inf"):
        return area
    raise RequestError(f"{where}.area must be a finite number of at least 0, not {format_value(value)}")


def format_value(value: object) -> str:
    """Format a value as shortened JSON for messages; strings are marked as text, as "1" is not 1."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError):  # thousands of digits, or of levels
        return _describe_type(value)
    return _truncate(f"the text {text}" if isinstance(value, str) else text)


def _truncate(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}..."


def _list_keys(row: Row) -> str:
    return f"only {_truncate(', '.join(map(repr, list(row)[:10])))}" if row else "nor any other key"


def _describe_type(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", type(None): "null", bool: "true or false"}
    return kinds.get(type(value), "a number")
