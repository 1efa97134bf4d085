"""``resnext detect``: its output, its files, and its error messages."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnext.cli import main
from resnext.detection.data.open import open_detection_data
from resnext.detection.evaluation.protocol import format_detection_protocol
from resnext.detection.predict import DetectPrediction, draw_predictions, predict
from resnext.detection.settings import DetectDataSettings
from resnext.detection.weights import load_detector, save_detector
from resnext.errors import RequestError
from resnext.evaluation.output.drawing_paths import make_drawing_paths
from resnext.model.network import create_model
from resnext.weights.native import save
from tests.detection.annotation_files import box_row, image_row, photo, write_json
from tests.detection.shape_images import folder, recipe
from tests.detection.tiny_detector import CIFAR, detector

pytestmark = pytest.mark.usefixtures("blank_figures")
KEYS = ("image_id", "category_id", "bbox", "score", "file_name", "category")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``d.safetensors``, a detector of ``shapes``' two classes, and ``data``."""
    root = tmp_path_factory.mktemp("detect")
    folder(root / "data", train=3, val=3)
    save_detector(detector(CIFAR, ("disc", "bar"), detections=5), root / "d.safetensors")
    return root


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The error message of a command that must end with status 2."""
    capsys.readouterr()
    assert main(["detect", *map(str, words)]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("resnext: ")
    assert errors.count("\n") == 1, errors
    return errors


def test_predict_writes_coco_results_and_drawings(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, out, file = place / "data" / "val", tmp_path / "drawn", tmp_path / "found.json"
    words = ["detect", "predict", str(place / "d.safetensors"), str(images), "--device", "cpu"]
    assert main([*words, "--json", str(file), "--out", str(out)]) == 0
    rows = json.loads(file.read_text())
    model = load_detector(place / "d.safetensors")
    assert len(rows) == 15
    for row in rows:
        assert tuple(row) == KEYS
        assert row["category"] == row["category_id"]
        assert row["category"] in model.classes
        assert row["image_id"] == row["file_name"]
        with Image.open(row["file_name"]) as picture:
            x, y, w, h = row["bbox"]
            assert x >= 0 <= y
            assert w >= 0 <= h
            assert x + w <= picture.width + 0.01
            assert y + h <= picture.height + 0.01
        assert 0 <= row["score"] <= 1
    names = sorted(path.name for path in out.iterdir())
    assert names == ["0.png", "1.png", "2.png"]
    with Image.open(out / "1.png") as drawn, Image.open(images / "1.png") as plain:
        assert not np.array_equal(np.asarray(drawn.convert("RGB").resize(plain.size)), np.asarray(plain))
    printed = capsys.readouterr().out
    assert all(f"{number}.png: " in printed for number in range(3))


def test_printed_json_is_the_files(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["detect", "predict", str(place / "d.safetensors"), str(place / "data" / "val"), "--device", "cpu"]
    assert main([*words, "--json", str(tmp_path / "found.json")]) == 0
    capsys.readouterr()
    assert main([*words, "--json", "-", "--batch-size", "1"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "found.json").read_text())


def test_a_higher_score_leaves_only_the_surest(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["detect", "predict", str(place / "d.safetensors"), str(place / "data" / "val"), "--device", "cpu"]
    assert main([*words, "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)
    limit = sorted(row["score"] for row in rows)[len(rows) // 2]
    assert main([*words, "--json", "-", "--score", str(limit + 1e-5)]) == 0
    left = json.loads(capsys.readouterr().out)
    assert left == [row for row in rows if row["score"] > limit + 1e-5]
    assert main([*words, "--score", "1"]) == 0
    assert capsys.readouterr().out.count(": nothing") == 3


def test_nothing_is_drawn_over_which_is_said_before_the_work(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnext.detection.predict.predict", lambda *_, **__: pytest.fail("it worked first"))
    out = tmp_path / "drawn"
    out.mkdir()
    (out / "1.png").write_bytes(b"mine")
    said = refused(capsys, "predict", place / "d.safetensors", place / "data/val", "--device", "cpu", "--out", out)
    assert "1.png exists already: give --out an empty folder" in said
    assert (out / "1.png").read_bytes() == b"mine"
    assert [path.name for path in out.iterdir()] == ["1.png"]


def test_drawn_pictures_of_the_same_name_stand_beside_each_other(tmp_path: Path) -> None:
    found = []
    for number, name in enumerate(("a/x.png", "b/x.png", "x-2.png", "c/x.jpg", "broken.png")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (20 + number, 20)).save(path)
        nothing = np.empty((0, 4), np.float32), np.empty(0, np.int64), np.empty(0, np.float32)
        found.append(DetectPrediction(str(path), *nothing, error="broken" if "broken" in name else None))
    paths = [one.path for one in found]
    assert draw_predictions(found, make_drawing_paths(tmp_path / "out", paths), ("a",)) == 4
    assert len(list((tmp_path / "out").iterdir())) == 4
    with pytest.raises(RequestError, match="exists already"):
        make_drawing_paths(tmp_path / "out", paths)


def test_an_unreadable_image_is_named_and_the_others_are_done(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = place / "data" / "val" / "0.png"
    bad = tmp_path / "bad.png"
    bad.write_bytes(good.read_bytes()[:100])
    file = tmp_path / "found.json"
    words = ["detect", "predict", str(place / "d.safetensors"), str(bad), str(good), "--device", "cpu"]
    assert main([*words, "--json", str(file), "--out", str(tmp_path / "drawn"), "--batch-size", "2"]) == 1
    captured = capsys.readouterr()
    assert f"resnext: {bad}: " in captured.err
    assert {row["file_name"] for row in json.loads(file.read_text())} == {str(good)}
    assert [path.name for path in (tmp_path / "drawn").iterdir()] == ["0.png"]
    assert "0.png: " in captured.out


def test_detections_of_a_file_are_judged_as_the_detector_that_made_them(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(place / "data"), "--out"]
    words = ["detect", "evaluate", str(place / "d.safetensors"), "--device", "cpu", "--workers", "0"]
    assert main([*words, *data, str(tmp_path / "one")]) == 0
    file = tmp_path / "one" / "detections.json"
    capsys.readouterr()
    assert main(["detect", "evaluate", "--detections", str(file), *data, str(tmp_path / "two")]) == 0
    assert "3 images of instances_val.json" in capsys.readouterr().out
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert one["ap50"] is not None
    for key in ("ap", "ap50", "ap75", "ar1", "ar100", "n"):
        assert one[key] == two[key]


def own_truth(place: Path, root: Path) -> Path:
    """The images of ``place`` under other ids, annotated with what the detector finds there; classes in other order."""
    model = load_detector(place / "d.safetensors")
    shutil.copytree(place / "data" / "val", root / "val")
    found = predict(model, [root / "val" / f"{number}.png" for number in range(3)])
    ids, categories = (5, 0, 2), {"bar": 1, "disc": 2}
    rows = []
    for image, one in zip(ids, found, strict=True):
        for (x1, y1, x2, y2), label in list(zip(one.boxes.tolist(), one.labels.tolist(), strict=True))[::2]:
            category = categories[model.classes[label]]
            box = [x1, y1, x2 - x1, y2 - y1]
            rows.append(box_row(len(rows) + 1, image, box, category, area=box[2] * box[3], iscrowd=0))
    sizes = [one.size or (0, 0) for one in found]
    content = {
        "images": [image_row(id_, f"{n}.png", *size) for n, (id_, size) in enumerate(zip(ids, sizes, strict=True))],
        "annotations": rows,
        "categories": [{"id": 0, "name": "things"}, *({"id": i, "name": name} for name, i in categories.items())],
    }
    write_json(root / "annotations" / "instances_val.json", content)
    return root


def test_a_file_of_predictions_has_the_numbers_of_the_detector_whatever_the_ids(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = own_truth(place, tmp_path / "data")
    annotations, weights = data / "annotations" / "instances_val.json", str(place / "d.safetensors")
    judge = ["detect", "evaluate", "--data", str(data), "--out"]
    assert main([*judge, str(tmp_path / "own"), weights, "--device", "cpu", "--workers", "0"]) == 0
    assert (
        "classes matched by name; unknown to the detector, without boxes in the data: 'things'"
        in capsys.readouterr().err
    )
    look = ["detect", "predict", weights, str(data / "val"), "--device", "cpu", "--json"]
    assert main([*look, str(tmp_path / "ids.json"), "--annotations", str(annotations)]) == 0
    assert capsys.readouterr().err == ""
    assert main([*look, str(tmp_path / "names.json"), "--images-json", str(tmp_path / "images.json")]) == 0
    assert "no --annotations FILE was given" in capsys.readouterr().err
    for name in ("ids", "names"):
        assert main([*judge, str(tmp_path / name), "--detections", str(tmp_path / f"{name}.json")]) == 0
    own, *files = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("own", "ids", "names"))
    assert own["ap"] > 0.3
    assert own["protocol"]["classes"].startswith("classes matched by name")
    assert [one["ap"] for one in files] == [pytest.approx(own["ap"], abs=0.02)] * 2
    table = json.loads((tmp_path / "images.json").read_text())
    assert [row["detections"] for row in table["images"]] == [5, 5, 5]
    rows = json.loads((tmp_path / "ids.json").read_text())
    assert {(row["image_id"], row["category_id"]) for row in rows} <= {(i, k) for i in (5, 0, 2) for k in (1, 2)}
    rows[0]["image_id"] = 2 if rows[0]["image_id"] != 2 else 5
    write_json(tmp_path / "wrong.json", rows)
    said = refused(capsys, "evaluate", "--detections", tmp_path / "wrong.json", "--data", data)
    assert "it was written with other ids" in said


def test_more_detections_than_100_can_count(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["detect", "evaluate", str(place / "d.safetensors"), "--data", str(place / "data"), "--device", "cpu"]
    assert main([*words, "--workers", "0", "--max-detections", "150", "--out", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert "AR of 1, 10, 150 detections" in captured.out
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    protocol = metrics["protocol"]
    assert protocol["detections"] == protocol["max_detections"] == metrics["max_detections"] == 150
    assert metrics["detections"] > 3 * 5  # the detector's own limit
    assert main([*words, "--workers", "0"]) == 0
    assert "AR of 1, 10, 100 detections" in capsys.readouterr().out


def test_boxes_beyond_what_counts_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = [[4 * (k % 9), 3 * (k // 9), 3, 2] for k in range(12)]
    rows = [box_row(k + 1, 1, box, 1, area=6, iscrowd=0) for k, box in enumerate(boxes)]
    content = {"images": [image_row(1, "a.jpg")], "annotations": rows, "categories": [{"id": 1, "name": "seed"}]}
    write_json(tmp_path / "annotations/instances_val.json", content)
    photo(tmp_path / "val/a.jpg")
    found = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9} for box in boxes]
    words = ["detect", "evaluate", "--data", str(tmp_path), "--detections", str(write_json(tmp_path / "f.json", found))]
    assert main([*words, "--max-detections", "10", "--out", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert "1 image of instances_val.json has more boxes than the 10 detections of a class that count" in captured.err
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["images_beyond"] == metrics["protocol"]["images_beyond"] == 1
    assert metrics["ar100"] == pytest.approx(10 / 12)
    line = format_detection_protocol(metrics["protocol"], 1, 12)
    assert "10 detections per class and image count (COCO: 100) · images with more than 10 boxes of a class: 1" in line
    assert main(words) == 0
    assert "AP 100.0 %  AP50 100.0 %  AP75 100.0 %" in (captured := capsys.readouterr()).out
    assert captured.err == ""


@pytest.mark.usefixtures("one_thread")
def test_a_run_is_judged_on_the_share_it_held_out(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = folder(tmp_path / "data", train=12, val=1), tmp_path / "run"
    (data / "annotations/instances_val.json").unlink()
    settings = recipe(tmp_path / "r.yaml", data, data__val_fraction=0.3, train__epochs=1)
    assert main(["detect", "train", str(settings), "--run", str(run)]) == 0
    _, val = open_detection_data(DetectDataSettings(path=str(data), val_fraction=0.3))
    metrics = json.loads((run / "evaluation/metrics.json").read_text())
    assert metrics["n"] == len(val) < 12
    assert metrics["protocol"]["split"] == "a hash of each file's name with split_seed 0 holds out about 0.3"
    capsys.readouterr()
    for words, expected in (
        ([], f"{len(val)} images of instances_train.json val"),
        (["--split", "train"], f"{12 - len(val)} images of instances_train.json train"),
        (["--data", str(data)], f"{len(val)} images of instances_train.json val"),
        (["--data", str(place / "data")], "3 images of instances_val.json"),
        (
            ["--annotations", "annotations/instances_train.json", "--images", "train"],
            "12 images of instances_train.json",
        ),
    ):
        assert main(["detect", "evaluate", str(run), "--workers", "0", "--out", str(tmp_path / "out"), *words]) == 0
        assert expected in capsys.readouterr().out
    assert main(["detect", "evaluate", str(run), "--workers", "0"]) == 0
    assert json.loads((run / "evaluation/metrics.json").read_text())["protocol"] == metrics["protocol"]


def test_training_images_and_other_places_can_be_judged(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["detect", "evaluate", str(place / "d.safetensors"), "--device", "cpu", "--workers", "0"]
    assert main([*words, "--data", str(place / "data"), "--split", "train"]) == 0
    assert "3 images of instances_train.json" in capsys.readouterr().out
    elsewhere = ["--annotations", "annotations/instances_train.json", "--images", "train"]
    assert main([*words, "--data", str(place / "data"), *elsewhere]) == 0
    assert "3 images of instances_train.json" in capsys.readouterr().out
    assert not (place / "evaluation").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["tarin"], "tarin"),
        ([], "ACTION"),
        (["train"], "needs a RECIPE"),
        (["train", "missing.yaml"], "there is no recipe missing.yaml"),
        (["train", "RECIPE", "--detector.poool", "max"], "did you mean '--detector.pool'"),
        (["train", "RECIPE", "--detector.layout", "fnp"], "did you mean 'fpn'"),
        (["train", "RECIPE", "--data.path", "nowhere"], "nowhere"),
        (["train", "RECIPE", "--detector.score", "2"], "detector.score must be from 0 to 1"),
        (["train", "RECIPE", "--train.stage", "fast_rcnn"], "needs train.proposals"),
        (["train", "RECIPE", "--data.val", "missing.json"], "missing.json"),
        (["evaluate"], "needs either RUN_OR_WEIGHTS or --detections FILE"),
        (["evaluate", "WEIGHTS", "--detections", "x.json"], "either RUN_OR_WEIGHTS or --detections"),
        (["evaluate", "WEIGHTS"], "name the images: --data PATH"),
        (["evaluate", "nowhere.pt", "--data", "DATA"], "nowhere.pt does not exist"),
        (["evaluate", "WEIGHTS", "--data", "DATA", "--annotations", "missing.json"], "missing.json"),
        (["evaluate", "WEIGHTS", "--data", "DATA", "--score", "2"], "--score 2 must be from 0 to 1"),
        (["evaluate", "WEIGHTS", "--data", "DATA", "--source", "cooc"], "cooc"),
        (["evaluate", "--detections", "missing.json", "--data", "DATA"], "missing.json"),
        (
            ["evaluate", "THREE", "--data", "DATA"],
            "the detector does not know 'disc', 'bar': it knows 3 classes (a, b, c)",
        ),
        (["evaluate", "OTHER", "--data", "DATA"], "the detector does not know 'bar'; did you mean 'brr'?"),
        (["evaluate", "WEIGHTS", "--data", "DATA", "--max-detections", "5"], "--max-detections 5 must be at least 10"),
        (["predict", "WEIGHTS"], "IMAGE"),
        (["predict", "WEIGHTS", "DATA", "--annotations", "missing.json"], "missing.json"),
        (["predict", "WEIGHTS", "DATA", "--json", "-", "--images-json", "-"], "cannot both be printed"),
        (["predict", "WEIGHTS", "DATA", "--images-json", "nowhere/x.json"], "there is no folder nowhere"),
        (["predict", "nowhere.pt", "DATA"], "nowhere.pt does not exist"),
        (["predict", "CLASSIFIER", "DATA"], "holds a classifier, not a detector; resnext predict and evaluate run it"),
        (["predict", "WEIGHTS", "nowhere.jpg"], "nowhere.jpg"),
        (["predict", "WEIGHTS", "DATA", "--score", "nan"], "--score nan must be from 0 to 1"),
        (["predict", "WEIGHTS", "DATA", "--bn-eps", "-1"], "bn_eps must be"),
        (["predict", "WEIGHTS", "DATA", "--json", "nowhere/x.json"], "there is no folder nowhere"),
        (["predict", "WEIGHTS", "DATA", "--out", "RECIPE"], "cannot be written to"),
        (["predict", "WEIGHTS", "DATA", "--device", "gpu"], "gpu"),
        (["predict", "WEIGHTS", "DATA", "--checkpoint", "last"], "--checkpoint last selects a checkpoint of a run"),
        (["evaluate", "WEIGHTS", "--data", "DATA", "--checkpoint", "last"], "--checkpoint last selects a checkpoint"),
        (["evaluate", "--detections", "x", "--data", "DATA", "--score", "0.5"], "--score is for running a detector"),
        (["evaluate", "--detections", "x", "--data", "DATA", "--device", "gpu"], "--device is for running a detector"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_status_2(
    words: list[str],
    says: str,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_detector(detector(CIFAR, ("a", "b", "c")), tmp_path / "three.safetensors")
    save_detector(detector(CIFAR, ("disc", "brr")), tmp_path / "other.safetensors")
    save(create_model(CIFAR.change(num_classes=3)), tmp_path / "classifier.safetensors")
    recipe(tmp_path / "r.yaml", place / "data")
    names = {
        "RECIPE": tmp_path / "r.yaml",
        "WEIGHTS": place / "d.safetensors",
        "DATA": place / "data",
        "THREE": tmp_path / "three.safetensors",
        "OTHER": tmp_path / "other.safetensors",
        "CLASSIFIER": tmp_path / "classifier.safetensors",
    }
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert says in refused(capsys, *(names.get(word, word) for word in words))
    assert not list(Path.cwd().rglob("*.safetensors"))


@pytest.mark.parametrize("action", ["train", "evaluate", "predict"])
def test_every_action_helps_without_torch(action: str) -> None:
    code = (
        "import sys; from resnext.cli import main\n"
        f"try: main(['detect', {action!r}, '--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules, 'heavy imports for a --help'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert f"resnext detect {action}" in done.stdout


def test_runs_of_the_other_kind_are_refused_and_named(
    place: Path, tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(tiny_recipe), "--run", str(tmp_path / "run"), "--train.epochs", "1"]) == 0
    run = tmp_path / "run"
    said = f"{run} is a classification run: use resnext"
    assert said in refused(capsys, "evaluate", run, "--data", place / "data")
    assert said in refused(capsys, "predict", run, place / "data" / "val")
    assert str(run) in refused(capsys, "train", "--resume", run)
