import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnext.errors import RequestError
from resnext.evaluation.evaluator import Evaluation
from resnext.evaluation.output.protocol import build_protocol
from resnext.evaluation.output.tables import FILES, write_evaluation
from tests.evaluation.conftest import PREPROCESSING, make_dataset, make_evaluation

NAMES = ('a,"b', "$x_1$", "<script>alert(1)</script>", "日本\n語", "z" * 300)


def written(directory: Path, names: tuple[str, ...] = NAMES) -> Evaluation:
    label, predicted = [0, 1, 2, 3, 4, 4, 0], [0, 1, 0, 3, 3, 4, 1]
    result = make_evaluation(label, predicted, names)
    about = build_protocol(
        PREPROCESSING, data="numbers test", split="by hand", device="cpu", checkpoint="best", step=1200
    )
    write_evaluation(result, make_dataset(np.array(label), 5, names), PREPROCESSING, directory, about)
    return result


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_all_files_are_written_and_every_picture_opens(tmp_path: Path) -> None:
    written(tmp_path / "new" / "evaluation")
    assert sorted(path.name for path in (tmp_path / "new" / "evaluation").iterdir()) == sorted(FILES)
    for name in FILES:
        if name.endswith(".png"):
            with Image.open(tmp_path / "new" / "evaluation" / name) as image:
                image.load()
                assert min(image.size) > 200


def test_metrics_json_holds_the_numbers_with_protocol_and_environment(tmp_path: Path) -> None:
    result = written(tmp_path)
    values = json.loads((tmp_path / "metrics.json").read_text())
    assert (values["n"], values["correct1"], values["correct5"]) == (7, 4, 7)
    assert values["top1_error"] == pytest.approx(300 / 7)
    assert values["loss"] == math.fsum(result.losses) / 7
    assert values["classes"] == list(NAMES)
    assert sum(values["calibration"]["count"]) == 7
    about = values["protocol"]
    view = ("image_size", "resize", "fit", "interpolation", "precision", "split", "checkpoint", "step")
    assert [about[key] for key in view] == [4, 4, "crop", "bicubic", "fp32", "by hand", "best", 1200]
    assert {"torch", "device", "threads", "date"} <= values["environment"].keys()


def test_the_tables_add_up_and_keep_hostile_names(tmp_path: Path) -> None:
    result = written(tmp_path)
    images = rows(tmp_path / "images.csv")
    assert [row["path"] for row in images] == list(result.paths)
    assert [row["label"] for row in images] == [NAMES[i] for i in result.label]
    assert sum(row["label"] == row["predicted"] for row in images) == result.correct1
    assert [float(row["loss"]) for row in images] == result.losses.tolist()
    classes = rows(tmp_path / "per_class.csv")
    assert [row["class"] for row in classes] == list(NAMES)
    assert sum(int(row["images"]) for row in classes) == sum(int(row["predicted"]) for row in classes) == 7
    with (tmp_path / "confusion.csv").open(encoding="utf-8", newline="") as file:
        header, *body = csv.reader(file)
    assert header[1:] == [row[0] for row in body] == list(NAMES)
    assert np.array_equal(np.array([row[1:] for row in body], dtype=int), result.confusion)


def test_an_evaluation_of_ours_is_replaced_and_foreign_files_are_not(tmp_path: Path) -> None:
    written(tmp_path)
    before = (tmp_path / "metrics.json").read_text()
    written(tmp_path, tuple("abcde"))
    assert (tmp_path / "metrics.json").read_text() != before
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "images.csv").write_text("mine")
    with pytest.raises(RequestError, match=r"contains images\.csv, which resnext did not write"):
        written(foreign)
    assert [path.name for path in foreign.iterdir()] == ["images.csv"]
    (foreign / "metrics.json").write_text('{"accuracy": 1}')
    with pytest.raises(RequestError, match="choose another --out"):
        written(foreign)


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot be written"):
        written(tmp_path / "file" / "evaluation")


def test_a_file_name_that_is_not_utf8_is_written_with_backslashes(tmp_path: Path) -> None:
    written(tmp_path, ("a\udcff", "b", "c", "d", "e"))
    assert rows(tmp_path / "per_class.csv")[0]["class"] == "a\\udcff"
