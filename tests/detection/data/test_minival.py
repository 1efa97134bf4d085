"""trainval35k and minival out of three of COCO's files, here small ones."""

import json
from pathlib import Path
from typing import Any

import pytest

from resnext.detection.data.minival import OFFICIAL_COUNTS, ListCount, make_minival
from resnext.errors import RequestError, WorkError
from tests.detection.annotation_files import CATEGORIES, box_row, coco_content, image_row, read_coco, write_json


def name_2014(split: str, id_: int) -> str:
    return f"COCO_{split}2014_{id_:012d}.jpg"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """train2014 of 6 images, val2014 of 5, val2017 of two of these in another order."""
    made = {}
    for split, ids in (("train", range(6)), ("val", range(10, 15))):
        content = coco_content(
            images=[image_row(i, name_2014(split, i)) for i in ids],
            annotations=[box_row(1000 + i, i, [1, 1, 5, 5], area=25, segmentation=[[1, 2, 3, 4, 5, 6]]) for i in ids],
        )
        made[f"{split}2014"] = write_json(tmp_path / f"instances_{split}2014.json", content)
    held = [image_row(i, f"{i:012d}.jpg") for i in (13, 11)]
    made["val2017"] = write_json(tmp_path / "instances_val2017.json", coco_content(images=held, annotations=[]))
    made["out"] = tmp_path / "out"
    made["out"].mkdir()
    return made


def change(path: Path, **changes: Any) -> None:
    write_json(path, json.loads(path.read_text()) | changes)


def test_minival_is_the_images_of_val2017_and_the_rest_trains(files: dict[str, Path]) -> None:
    counts = make_minival(*files.values())
    assert counts == [
        ListCount("train2014", 6, 6),
        ListCount("val2014", 5, 5),
        ListCount("trainval35k", 9, 9),
        ListCount("minival", 2, 2),
    ]
    out = files["out"]
    train = read_coco(out / "instances_trainval35k.json", out, check_files=False)
    val = read_coco(out / "instances_minival.json", out, check_files=False)
    assert train.image_ids.tolist() == [0, 1, 2, 3, 4, 5, 10, 12, 14]
    assert val.image_ids.tolist() == [11, 13]  # in the order of val2014
    assert train.files[5:7] == (f"train2014/{name_2014('train', 5)}", f"val2014/{name_2014('val', 10)}")
    assert val.files[0] == f"val2014/{name_2014('val', 11)}"
    assert [len(train.get_boxes(i).boxes) for i in range(9)] == [1] * 9
    assert train.category_ids == val.category_ids == (3, 7)


def test_outlines_are_kept_where_they_are_asked_for(files: dict[str, Path]) -> None:
    make_minival(*files.values())
    rows = json.loads((files["out"] / "instances_minival.json").read_text())["annotations"]
    assert all("segmentation" not in row for row in rows)
    (files["out"] / "again").mkdir()
    make_minival(**files | {"out": files["out"] / "again"}, keep_segmentations=True)
    rows = json.loads((files["out"] / "again/instances_minival.json").read_text())["annotations"]
    assert [row["segmentation"] for row in rows] == [[[1, 2, 3, 4, 5, 6]]] * 2


def test_the_official_counts_add_up() -> None:
    """82,783 + 40,504 - 5,000 = 118,287, which is train2017 as COCO has it."""
    assert (
        OFFICIAL_COUNTS["train2014"] + OFFICIAL_COUNTS["val2014"] - OFFICIAL_COUNTS["minival"]
        == OFFICIAL_COUNTS["trainval35k"]
    )
    assert OFFICIAL_COUNTS["val2014"] - OFFICIAL_COUNTS["minival"] == 35_504
    assert ListCount("minival", 5000, 1).is_official
    assert not ListCount("minival", 8059, 1).is_official


def test_files_that_do_not_belong_together_are_refused(files: dict[str, Path]) -> None:
    def refused(message: str) -> None:
        with pytest.raises(RequestError, match=message):
            make_minival(*files.values())
        assert not list(files["out"].iterdir())

    good = files["val2017"].read_text()
    change(files["val2017"], images=[image_row(11, f"{11:012d}.jpg"), image_row(99, f"{99:012d}.jpg")])
    refused("1 of the 2 images of .*val2017.json are not in .*val2014.json: '000000000099.jpg'")
    change(files["val2017"], images=[image_row(11, f"{12:012d}.jpg")])
    refused("image 11 is .* but 000000000012.jpg in .*: not the same image")
    files["val2017"].write_text(good)
    change(files["val2014"], categories=CATEGORIES[:1])
    refused("the categories of .* differ: .*'cat'")
    change(files["val2014"], categories=[{"id": 8, "name": "dog"}, CATEGORIES[1]])
    refused("the categories of .* differ: their ids do")
    files["val2014"] = files["train2014"]
    refused("share 6 ids of images")


def test_nothing_that_is_there_is_overwritten(files: dict[str, Path]) -> None:
    make_minival(*files.values())
    before = (files["out"] / "instances_minival.json").read_bytes()
    with pytest.raises(RequestError, match="exists already"):
        make_minival(*files.values())
    assert (files["out"] / "instances_minival.json").read_bytes() == before
    files["out"] = files["out"] / "none"
    with pytest.raises(RequestError, match="is not a folder"):
        make_minival(*files.values())


def test_a_disk_that_refuses_is_said(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(WorkError, match="No space left"):
        make_minival(*files.values())
    assert not list(files["out"].iterdir())
