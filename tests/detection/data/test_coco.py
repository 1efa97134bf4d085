"""COCO's files: what is read, against pycocotools, and every way in which a file can be wrong."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnext.detection.data import coco
from resnext.detection.data.dataset import DetectionDataset
from resnext.errors import RequestError
from tests.detection.annotation_files import (
    CATEGORIES,
    box_row,
    coco_content,
    coco_folder,
    image_row,
    photo,
    pycocotools_metrics,
    read_coco,
    write_json,
)
from tests.sample_files import SHARED


def read(folder: Path, content: object, **options: Any) -> DetectionDataset:
    options = {"check_files": False} | options
    return read_coco(write_json(folder / "x.json", content), folder, **options)


def test_labels_count_categories_by_ascending_id_and_boxes_go_to_their_images(tmp_path: Path) -> None:
    dataset = read(tmp_path, coco_content())
    assert dataset.name == "x.json"
    assert (dataset.classes, dataset.category_ids) == (("cat", "dog"), (3, 7))
    assert dataset.files == ("a.jpg", "b.jpg", "c.jpg")  # in the file's order
    first = dataset.get_boxes(0)
    assert first.boxes.tolist() == [[0.5, 1.5, 20.5, 11.5], [0, 0, 40, 30]]
    assert (first.labels.tolist(), first.crowd.tolist(), first.areas.tolist()) == ([0, 1], [False, True], [150, 1200])
    assert first.boxes.dtype == np.float32
    assert len(dataset.get_boxes(1).boxes) == 0
    assert dataset.get_boxes(2).boxes.tolist() == [[1, 2, 11, 7]]
    assert dataset.counts == {}


def write_made_up_coco(folder: Path) -> None:
    """Write two splits with crowds, boxes that stick out, images without boxes, and ids out of order."""
    drawn = np.random.default_rng(0)
    categories = [{"id": id_, "name": name} for id_, name in ((9, "platelet"), (2, "red cell"), (5, "white cell"))]
    for split, count in (("train", 12), ("val", 5)):
        ids = drawn.permutation(100)[:count].tolist()
        images = [image_row(id_, f"{id_}.jpg", 60, 40) for id_ in ids]
        boxes = []
        for number in range(3 * count):
            box = np.round(drawn.uniform((-5, -5, 8, 8), (40, 20, 40, 40)), 2).tolist()
            category, crowd = (9, 2, 5)[number % 3], int(number % 4 == 3)
            image = int(drawn.choice(ids[1:]))
            boxes.append(box_row(number + 1, image, box, category, area=0.7 * box[2] * box[3], iscrowd=crowd))
        (folder / "annotations").mkdir(exist_ok=True)
        content = {"images": images, "annotations": boxes, "categories": categories}
        write_json(folder / "annotations" / f"instances_{split}.json", content)
        (folder / split).mkdir()
        for row in images:
            photo(folder / split / row["file_name"], 60, 40)


@pytest.mark.parametrize("source", ["made up", *["BCCD"] * SHARED.is_dir()])
def test_it_is_what_pycocotools_reads(source: str, tmp_path: Path) -> None:
    tools = pytest.importorskip("pycocotools.coco")
    if source == "BCCD":
        with tarfile.open(SHARED / "bccd-coco.tar") as tar:
            tar.extractall(tmp_path, filter="data")
    else:
        write_made_up_coco(tmp_path)
    for path in sorted(tmp_path.rglob("instances_*.json")):
        expected = tools.COCO(str(path))
        split = path.stem.removeprefix("instances_")
        dataset = read_coco(path, path.parent.parent / split)
        assert dataset.image_ids.tolist() == [image["id"] for image in expected.dataset["images"]]
        assert [{"id": i, "name": n} for i, n in zip(dataset.category_ids, dataset.classes, strict=True)] == [
            {"id": c["id"], "name": c["name"]} for c in expected.loadCats(sorted(expected.getCatIds()))
        ]
        truth: dict[int, list[dict[str, Any]]] = {}
        for row in dataset.to_coco_dict()["annotations"]:
            truth.setdefault(row["image_id"], []).append(row)
        for index, id_ in enumerate(dataset.image_ids.tolist()):
            rows = expected.loadAnns(expected.getAnnIds(imgIds=[id_]))
            found = dataset.get_boxes(index)
            corners = np.array([[x, y, x + w, y + h] for x, y, w, h in (row["bbox"] for row in rows)], np.float32)
            size = dataset.sizes[index]
            corners = corners.reshape(-1, 4).clip(0, np.tile(size, 2))
            assert np.array_equal(found.boxes, corners)
            for key in ("bbox", "area", "category_id", "iscrowd"):
                assert [row[key] for row in truth.get(id_, [])] == [row[key] for row in rows]


def test_its_ground_truth_is_judged_as_the_file_itself(tmp_path: Path) -> None:
    """Bit for bit, with crowds and boxes that stick out, over detections that are right, near and wrong."""
    rng = np.random.default_rng(0)
    images = [image_row(3 * i + 1, f"{i}.jpg", 300, 200) for i in range(20)]
    annotations, detections = [], []
    for id_ in range(1, 151):
        image, category = 3 * int(rng.integers(20)) + 1, int(rng.choice([3, 7]))
        box = [round(float(v), 2) for v in (*rng.uniform(-5, (280, 180)), *rng.uniform(6, 120, 2))]
        crowd = int(rng.random() < 0.1)
        annotations.append(box_row(id_, image, box, category, area=0.7 * box[2] * box[3], iscrowd=crowd))
        near = [round(v + float(rng.normal(0, 2)), 2) for v in box]
        score = round(float(rng.random()), 3)
        detections.append({"image_id": image, "category_id": category, "bbox": near, "score": score})
    path = write_json(tmp_path / "x.json", coco_content(images=images, annotations=annotations))
    results = write_json(tmp_path / "results.json", detections)
    expected = pycocotools_metrics(path, results)
    ours = read_coco(path, tmp_path, check_files=False).to_coco_dict()
    assert pycocotools_metrics(ours, results) == expected
    assert 0.2 < expected[0] < 0.95


def test_areas_and_crowds_that_are_not_stated_are_width_times_height_and_no(tmp_path: Path) -> None:
    dataset = read(
        tmp_path, coco_content(annotations=[box_row(1, 10, [0, 0, 4, 5]), box_row(2, 10, [0, 0, 2, 3], area=None)])
    )
    assert dataset.areas.tolist() == [20, 6]
    assert dataset.crowd.tolist() == [False, False]


def test_null_stands_for_every_optional_key_that_is_not_there(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    images = [image_row(20, "a.jpg") | {"width": None, "height": None, "license": None}]
    box = box_row(1, 20, [0, 0, 4, 5], area=None, iscrowd=None, segmentation=None, keypoints=None)
    categories = [row | {"supercategory": None} for row in CATEGORIES]
    dataset = read(tmp_path, coco_content(images=images, annotations=[box], categories=categories, info=None))
    assert (dataset.sizes.tolist(), dataset.areas.tolist(), dataset.crowd.tolist()) == ([[40, 30]], [20], [False])


def test_ids_may_be_0(tmp_path: Path) -> None:
    """As tools number that count from 0: judged by pycocotools, what was annotated is found."""
    images = [image_row(i, name) for i, name in enumerate(("a.jpg", "b.jpg"))]
    rows = [box_row(i, i, [1, 2, 10, 5], i, area=50) for i in range(2)]
    categories = [{"id": 0, "name": "dog"}, {"id": 1, "name": "cat"}]
    dataset = read(tmp_path, coco_content(images=images, annotations=rows, categories=categories))
    assert (dataset.classes, dataset.category_ids) == (("dog", "cat"), (0, 1))
    assert (dataset.labels.tolist(), dataset.image_ids.tolist()) == ([0, 1], [0, 1])
    found = [{"image_id": i, "category_id": i, "bbox": [1, 2, 10, 5], "score": 0.5} for i in range(2)]
    assert pycocotools_metrics(dataset.to_coco_dict(), found)[0] == pytest.approx(1)


def roboflow(root: str = "cells", name: str = "cat", **changes: Any) -> dict[str, Any]:
    """The root category that Roboflow writes: id 0, above all others."""
    categories = [{"id": 0, "name": root, "supercategory": "none"}]
    categories += [{"id": i, "name": n, "supercategory": root} for i, n in ((3, name), (7, "dog"))]
    return coco_content(categories=categories) | changes


@pytest.mark.parametrize("name", ["kitten", "cat"])
def test_a_category_that_only_groups_others_is_no_class(tmp_path: Path, name: str) -> None:
    dataset = read(tmp_path, roboflow("cat", name))
    plain = read(tmp_path, coco_content())
    assert dataset.category_ids == plain.category_ids == (3, 7)
    assert np.array_equal(dataset.labels, plain.labels)
    assert read(tmp_path, roboflow("cat", name, annotations=[])).category_ids == (3, 7)
    assert dataset.counts == {"category left out ('cat': a supercategory of others, without boxes)": 1}
    assert 0 not in [row["id"] for row in dataset.to_coco_dict()["categories"]]


def test_a_list_of_categories_alone_has_no_group_that_is_called_as_a_class(tmp_path: Path) -> None:
    assert coco.list_categories(roboflow("cells")["categories"], tmp_path) == ([0, 3, 7], ["cells", "cat", "dog"])
    assert coco.list_categories(roboflow("cat")["categories"], tmp_path) == ([3, 7], ["cat", "dog"])


def test_a_category_with_boxes_or_above_itself_alone_stays(tmp_path: Path) -> None:
    boxed = read(tmp_path, roboflow(annotations=[box_row(1, 10, [0, 0, 4, 5], 0)]))
    assert boxed.classes == ("cells", "cat", "dog")
    above = [
        {"id": 1, "name": "person", "supercategory": "person"},
        {"id": 2, "name": "car", "supercategory": "vehicle"},
    ]
    assert read(tmp_path, coco_content(categories=above, annotations=[])).classes == ("person", "car")
    above[1]["supercategory"] = "person"
    assert read(tmp_path, coco_content(categories=above, annotations=[])).classes == ("person", "car")
    circle = [{"id": 1, "name": "a", "supercategory": "b"}, {"id": 2, "name": "b", "supercategory": "a"}]
    assert read(tmp_path, coco_content(categories=circle, annotations=[])).classes == ("a", "b")
    twice = roboflow("cat", annotations=[box_row(1, 10, [0, 0, 4, 5], 0), box_row(2, 10, [0, 0, 4, 5], 3)])
    with pytest.raises(RequestError, match="the categories 0 and 3 have the same name, 'cat'"):
        read(tmp_path, twice)


def test_a_file_without_annotations_is_a_data_set_of_background(tmp_path: Path) -> None:
    dataset = read(tmp_path, coco_content(annotations=[]))
    assert len(dataset) == 3
    assert dataset.boxes.shape == (0, 4)
    assert len(read(tmp_path, coco_content(annotations=[]), empty="drop")) == 0


def test_bad_boxes_and_empty_images_follow_the_policies(tmp_path: Path) -> None:
    rows = [box_row(1, 10, [0, 0, 4, 0]), box_row(2, 20, [35, 0, 10, 5]), box_row(3, 30, ["1", 0, 4, 4])]
    with pytest.raises(
        RequestError, match=r"x\.json: the box \[0, 0, 4, 0\] of annotation 1, image 10 \(b\.jpg\), has no"
    ):
        read(tmp_path, coco_content(annotations=rows))
    kept = read(tmp_path, coco_content(annotations=rows), bad_boxes="drop")
    assert len(kept) == 3
    assert kept.counts == {"boxes cut at the edge": 1, "bad boxes left out": 2}
    assert read(tmp_path, coco_content(annotations=rows), bad_boxes="drop", empty="drop").files == ("a.jpg",)


def without(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda content: {k: v for k, v in content.items() if k != key}


def changed(part: str, place: int, **values: object) -> Callable[[dict[str, Any]], object]:
    def change(content: dict[str, Any]) -> object:
        content[part][place] = content[part][place] | values
        return content

    return change


def gone(part: str, place: int, key: str) -> Callable[[dict[str, Any]], object]:
    def change(content: dict[str, Any]) -> object:
        content[part][place] = {k: v for k, v in content[part][place].items() if k != key}
        return content

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: [], "is a list, not COCO's annotations"),
        (lambda c: [{"image_id": 1, "score": 0.5}], "a list of detections"),
        (lambda c: 5, "JSON but not COCO's"),
        (without("annotations"), "it has no 'annotations', only 'images', 'categories'"),
        (lambda c: c | {"images": {}}, "'images' must be a list, not an object"),
        (lambda c: c | {"annotations": [3]}, r"annotations\[0\] must be an object, not a number"),
        (lambda c: c | {"images": []}, "has no images"),
        (lambda c: c | {"categories": []}, "no categories"),
        (changed("images", 1, id=20), "two images have the id 20, 'a.jpg' and 'b.jpg'"),
        (changed("annotations", 1, id=5), r"two annotations have the id 5, annotations\[0\] and annotations\[1\]"),
        (changed("categories", 1, id=7), "two categories have the id 7, 'dog' and 'cat'"),
        (changed("categories", 1, name="dog"), "the categories 3 and 7 have the same name, 'dog'"),
        (changed("categories", 0, name=""), "must have a name"),
        (
            changed("annotations", 0, image_id=31),
            "annotation 5 refers to image 31, which is not among.*nearest id is 30",
        ),
        (changed("annotations", 0, category_id=1), r"the category 1, .*its categories are 3 \(cat\), 7 \(dog\)"),
        (changed("annotations", 0, image_id="30"), 'image_id must be a whole number, not the text "30"$'),
        (changed("annotations", 0, id=True), "id must be a whole number, not true$"),
        (changed("annotations", 0, id=2**63), "id must be a whole number"),
        (
            gone("annotations", 0, "id"),
            r"annotations\[0\] has no 'id', only 'image_id', 'category_id', 'bbox', 'area', 'iscrowd'$",
        ),
        (lambda c: c | {"annotations": [{}]}, r"annotations\[0\] has no 'id', nor any other key"),
        (changed("annotations", 0, category_id=None), "category_id must be a whole number, not null"),
        (gone("annotations", 0, "bbox"), "annotation 5 has no bbox"),
        (changed("annotations", 0, iscrowd=2), "iscrowd must be 0 or 1, not 2"),
        (changed("annotations", 0, area=-1), "area must be a finite number of at least 0, not -1"),
        (changed("annotations", 0, area=float("nan")), "area must be a finite number"),
        (changed("annotations", 0, area="9"), "area must be a finite number"),
        (changed("annotations", 0, bbox=[1, 2, 3]), r"\[1, 2, 3\].*is not four finite numbers"),
        (changed("annotations", 0, bbox=[1, 2, float("nan"), 4]), "is not four finite numbers"),
        (changed("annotations", 0, bbox=[1, 2, 10**400, 4]), "is not four finite numbers"),
        (changed("annotations", 0, bbox=[True, 2, 3, 4]), "is not four finite numbers"),
        (changed("annotations", 0, bbox=[41, 2, 3, 4]), "lies outside the image of 40 x 30 pixels"),
        (
            changed("images", 0, height=-1),
            r"images\[0\] \(a.jpg\): height must be a whole number of pixels up to .*, not -1",
        ),
        (changed("images", 0, width="40"), 'width must be .*, not the text "40"'),
        (gone("images", 0, "width"), "a.jpg, whose size is missing in x.json: No such file"),
        (changed("images", 0, height=30.5), "height must be a whole number"),
        (changed("images", 0, file_name="../a.jpg"), "is outside the image folder"),
        (changed("images", 0, file_name="x/../../a.jpg"), "is outside the image folder"),
        (changed("images", 0, file_name="..\\a.jpg"), "is outside the image folder"),
        (changed("images", 0, file_name="/etc/a.jpg"), "is outside the image folder"),
        (changed("images", 0, file_name=""), "must name a file"),
        (changed("images", 0, file_name="a\0.jpg"), "must name a file"),
        (gone("images", 0, "file_name"), r"images\[0\] has no 'file_name', only 'id', 'width', 'height'"),
        (changed("images", 0, file_name=None), r"images\[0\].file_name must name a file, not null"),
        (changed("images", 0, file_name="C:\\\\a.jpg"), "is outside the image folder"),
    ],
)
def test_each_fault_of_a_file_is_one_sentence(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    content = json.loads(json.dumps(coco_content()))
    with pytest.raises(RequestError, match=message) as caught:
        read(tmp_path, change(content))
    assert "x.json" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b'{"images": [', "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"images": [], "annotations": [], "categories": [{"id": ' + b"9" * 5000 + b"}]}", "is not JSON"),
    ],
)
def test_what_is_no_json_is_one_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(RequestError, match=message):
        read_coco(tmp_path / "x.json", tmp_path)


def test_files_that_are_not_there_or_too_large_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RequestError, match="does not exist"):
        read_coco(tmp_path / "no.json", tmp_path)
    with pytest.raises(RequestError, match="is not a file"):
        read_coco(tmp_path, tmp_path)
    monkeypatch.setattr(coco, "MAX_BYTES", 10)
    with pytest.raises(RequestError, match="at most 10 are read"):
        read(tmp_path, coco_content())


def test_missing_images_are_named_all_at_once(tmp_path: Path) -> None:
    images = [image_row(i, f"part{i % 2}/{i}.jpg") for i in range(20)]
    for i in (3, 4):
        photo(tmp_path / f"part{i % 2}/{i}.jpg")
    photo(tmp_path / "part0/00.jpg")
    with pytest.raises(
        RequestError, match=r"2 of the 20 images of .*x\.json are in .*; missing: 'part0/0.jpg', .*"
    ) as caught:
        read(tmp_path, coco_content(images=images, annotations=[]), check_files=True)
    assert "and 13 more" in str(caught.value)
    assert "(did you mean '00.jpg'?)" in str(caught.value)


def test_a_folder_of_images_that_is_not_there_is_said(tmp_path: Path) -> None:
    path = write_json(tmp_path / "x.json", coco_content())
    with pytest.raises(RequestError, match=r"the image folder .*none, does not exist"):
        read_coco(path, tmp_path / "none")


def test_of_several_folders_the_one_with_the_images_is_taken(tmp_path: Path) -> None:
    root = coco_folder(tmp_path)
    dataset = read_coco(root / "annotations/instances_val.json", [root / "none", root, root / "val", root / "train"])
    assert dataset.root == str(root / "val")


def test_a_mark_of_byte_order_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(coco_content()).encode())
    assert len(read_coco(tmp_path / "x.json", tmp_path, check_files=False)) == 3


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "name", "supercategory", "file_name", "width")


@settings(max_examples=200)
@given(
    part=st.sampled_from(("images", "annotations", "categories")),
    key=st.sampled_from(KEYS),
    value=JSON,
)
def test_any_value_anywhere_is_read_or_refused_and_never_nan(
    tmp_path_factory: pytest.TempPathFactory, part: str, key: str, value: object
) -> None:
    content = json.loads(json.dumps(coco_content()))
    content[part][0][key] = value
    try:
        dataset = read(tmp_path_factory.mktemp("any"), content, bad_boxes="drop")
    except RequestError:
        return
    assert np.isfinite(dataset.boxes).all()
    assert np.isfinite(dataset.areas).all()
    assert (dataset.boxes[:, 2:] > dataset.boxes[:, :2]).all()
    assert json.dumps(dataset.to_coco_dict(), allow_nan=False)


@settings(max_examples=100)
@given(
    content=JSON | st.dictionaries(st.sampled_from(("images", "annotations", "categories")), st.lists(JSON, max_size=3))
)
def test_any_json_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: object) -> None:
    with pytest.raises(RequestError):
        read(tmp_path_factory.mktemp("any"), content)
