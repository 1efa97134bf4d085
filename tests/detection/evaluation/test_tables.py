import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnext.detection.evaluation.coco_eval import STATS, evaluate_detections
from resnext.detection.evaluation.coco_results import read_coco_results
from resnext.detection.evaluation.tables import FILES, write_detection_evaluation
from resnext.errors import RequestError
from tests.detection.synthetic import dataset, detections, random_case

A = [10, 10, 60, 60]
ABOUT = {"data": "made", "split": "by hand"}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data, found = random_case(1)
    out = tmp_path_factory.mktemp("runs") / "evaluation"
    metrics = write_detection_evaluation(evaluate_detections(data, found), data, out, ABOUT)
    assert metrics == json.loads((out / "metrics.json").read_text())
    return out


def test_every_file_is_there_and_the_pictures_open(written: Path) -> None:
    assert sorted(path.name for path in written.iterdir()) == sorted(FILES)
    for name in FILES:
        if name.endswith(".png"):
            with Image.open(written / name) as image:
                assert image.size[0] > 500


def test_the_numbers_on_disk_are_those_of_the_evaluation(written: Path) -> None:
    data, found = random_case(1)
    result = evaluate_detections(data, found)
    values = json.loads((written / "metrics.json").read_text())
    assert [values[name] for name in STATS] == [getattr(result, name) for name in STATS]
    assert result.threshold is not None
    assert values["threshold"] == result.threshold._asdict()
    assert (values["n"], values["boxes"], values["detections"]) == (result.n, result.boxes, found.n)
    assert values["protocol"] == ABOUT
    assert "torch" in values["environment"]
    classes = rows(written / "per_class.csv")
    assert [float(row["ap"]) for row in classes] == [one.ap for one in result.per_class]
    assert sum(int(row["boxes"]) for row in classes) == result.boxes


def test_the_detections_on_disk_give_the_same_numbers_again(written: Path) -> None:
    data, found = random_case(1)
    again = evaluate_detections(data, read_coco_results(written / "detections.json", data))
    result = evaluate_detections(data, found)
    assert [getattr(again, name) for name in STATS] == [getattr(result, name) for name in STATS]


def test_the_tables_add_up(written: Path) -> None:
    images = rows(written / "images.csv")
    assert len(images) == 12
    for row in images:
        matched, missed, false = (int(row[key]) for key in ("matched", "missed", "false"))
        assert matched + missed == int(row["boxes"])
        whole = 2 * matched + missed + false
        assert row["f1"] == "" if whole == 0 else float(row["f1"]) == pytest.approx(2 * matched / whole)
    curves = rows(written / "curves.csv")
    for row in rows(written / "per_class.csv"):
        own = [one for one in curves if one["class"] == row["class"]]
        assert [float(one["recall"]) for one in own] == [round(0.01 * i, 2) for i in range(101)]
        for curve, number in (("precision50", "ap50"), ("precision75", "ap75"), ("precision", "ap")):
            assert np.mean([float(one[curve]) for one in own]) == pytest.approx(float(row[number]))


def test_what_is_unknown_is_null_in_json_and_empty_in_tables(tmp_path: Path) -> None:
    data = dataset([], classes=("cat", "dog"))
    write_detection_evaluation(evaluate_detections(data, detections()), data, tmp_path / "e", ABOUT)
    values = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert [values[name] for name in STATS] == [None] * 12
    assert values["threshold"] is None
    assert [row["ap"] for row in rows(tmp_path / "e" / "per_class.csv")] == ["", ""]
    assert rows(tmp_path / "e" / "images.csv")[0]["f1"] == ""
    assert rows(tmp_path / "e" / "curves.csv") == []


def test_an_evaluation_replaces_its_like_but_nothing_else(tmp_path: Path) -> None:
    data = dataset([(0, 0, A)])
    result = evaluate_detections(data, detections((0, 0, A, 0.9)))
    out = tmp_path / "e"
    out.mkdir()
    (out / "metrics.json").write_text('{"format": "resnext-evaluation"}')
    with pytest.raises(RequestError, match=r"contains metrics.json, which resnext did not write"):
        write_detection_evaluation(result, data, out, ABOUT)
    (out / "metrics.json").unlink()
    for _ in range(2):
        write_detection_evaluation(result, data, out, ABOUT)
    assert json.loads((out / "metrics.json").read_text())["ap"] == pytest.approx(1)
