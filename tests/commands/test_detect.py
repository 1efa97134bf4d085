"""``resnext detect``: what is printed and written, and what a wrong request is told."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnext.cli import main
from resnext.detect.files import load_detector, save_detector
from resnext.detect.open import open_detection
from resnext.detect.predict import Predicted, draw, drawing_places
from resnext.detect.settings import DetectDataSettings
from resnext.errors import RequestError
from resnext.model.network import create_model
from resnext.weights.native import save
from tests.detect.shapes import folder, recipe
from tests.detect.tiny import CIFAR, detector

KEYS = ("image_id", "category_id", "bbox", "score", "file_name", "category")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``d.safetensors``, a detector of ``shapes``' two classes, and ``data``."""
    root = tmp_path_factory.mktemp("detect")
    folder(root / "data", train=3, val=3)
    save_detector(detector(CIFAR, ("disc", "bar"), detections=5), root / "d.safetensors")
    return root


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one sentence of a command that must end with status 2."""
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
        assert row["category"] == model.classes[row["category_id"] - 1]
        assert Path(row["file_name"]).name == f"{row['image_id'] - 1}.png"
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


def test_nothing_is_drawn_over(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "drawn"
    out.mkdir()
    (out / "1.png").write_bytes(b"mine")
    said = refused(capsys, "predict", place / "d.safetensors", place / "data/val", "--device", "cpu", "--out", out)
    assert "1.png is there already: give --out an empty folder" in said
    assert (out / "1.png").read_bytes() == b"mine"
    assert [path.name for path in out.iterdir()] == ["1.png"]


def test_drawn_pictures_of_the_same_name_stand_beside_each_other(tmp_path: Path) -> None:
    found = []
    for number, name in enumerate(("a/x.png", "b/x.png", "x-2.png", "c/x.jpg", "broken.png")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (20 + number, 20)).save(path)
        nothing = np.empty((0, 4), np.float32), np.empty(0, np.int64), np.empty(0, np.float32)
        found.append(Predicted(str(path), *nothing, error="broken" if "broken" in name else None))
    paths = [one.path for one in found]
    assert draw(found, drawing_places(tmp_path / "out", paths), ("a",)) == 4
    assert len(list((tmp_path / "out").iterdir())) == 4
    with pytest.raises(RequestError, match="is there already"):
        drawing_places(tmp_path / "out", paths)


def test_a_place_for_drawings_that_is_taken_is_refused_before_the_work(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "0.png").write_bytes(b"mine")
    monkeypatch.setattr("resnext.detect.predict.predict", lambda *_, **__: pytest.fail("it worked first"))
    images = place / "data" / "val"
    assert "is there already" in refused(
        capsys, "predict", place / "d.safetensors", images, "--device", "cpu", "--out", tmp_path / "out"
    )


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
    assert {row["image_id"] for row in json.loads(file.read_text())} == {2}
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


def test_perfect_detections_have_ap_1(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, val = open_detection(DetectDataSettings(path=str(place / "data")))
    rows = [
        {key: row[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for row in val.ground_truth()["annotations"]
    ]
    (tmp_path / "right.json").write_text(json.dumps(rows))
    assert (
        main(["detect", "evaluate", "--detections", str(tmp_path / "right.json"), "--data", str(place / "data")]) == 0
    )
    assert "AP 100.0 %  AP50 100.0 %  AP75 100.0 %" in capsys.readouterr().out


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
        (["train", "RECIPE", "--train.learn", "fast_rcnn"], "needs train.proposals"),
        (["train", "RECIPE", "--data.val", "missing.json"], "missing.json"),
        (["evaluate"], "needs RUN_OR_WEIGHTS, or --detections FILE"),
        (["evaluate", "WEIGHTS", "--detections", "x.json"], "one of them"),
        (["evaluate", "WEIGHTS"], "say which images: --data PATH"),
        (["evaluate", "nowhere.pt", "--data", "DATA"], "there is no detector nowhere.pt"),
        (["evaluate", "WEIGHTS", "--data", "DATA", "--annotations", "missing.json"], "missing.json"),
        (["evaluate", "WEIGHTS", "--data", "DATA", "--score", "2"], "--score 2 must be from 0 to 1"),
        (["evaluate", "WEIGHTS", "--data", "DATA", "--source", "cooc"], "cooc"),
        (["evaluate", "--detections", "missing.json", "--data", "DATA"], "missing.json"),
        (["evaluate", "THREE", "--data", "DATA"], "the detector knows 3 classes (a, b, c), instances_val.json has 2"),
        (["evaluate", "OTHER", "--data", "DATA"], "has the class 'bar' where the detector has 'brr'; did you mean"),
        (["predict", "WEIGHTS"], "IMAGE"),
        (["predict", "nowhere.pt", "DATA"], "there is no detector nowhere.pt"),
        (["predict", "CLASSIFIER", "DATA"], "holds no detector that this program knows"),
        (["predict", "WEIGHTS", "nowhere.jpg"], "nowhere.jpg"),
        (["predict", "WEIGHTS", "DATA", "--score", "nan"], "--score nan must be from 0 to 1"),
        (["predict", "WEIGHTS", "DATA", "--bn-eps", "-1"], "bn_eps must be"),
        (["predict", "WEIGHTS", "DATA", "--json", "nowhere/x.json"], "there is no folder nowhere"),
        (["predict", "WEIGHTS", "DATA", "--out", "RECIPE"], "cannot be made"),
        (["predict", "WEIGHTS", "DATA", "--device", "gpu"], "gpu"),
        (["predict", "WEIGHTS", "DATA", "--checkpoint", "last"], "--checkpoint last says which checkpoint of a run"),
        (["evaluate", "WEIGHTS", "--data", "DATA", "--checkpoint", "last"], "--checkpoint last says which checkpoint"),
        (["evaluate", "--detections", "x", "--data", "DATA", "--score", "0.5"], "--score says how a detector runs"),
        (["evaluate", "--detections", "x", "--data", "DATA", "--device", "gpu"], "--device says how a detector runs"),
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
    said = f"{run} is no run of resnext detect train"
    assert said in refused(capsys, "evaluate", run, "--data", place / "data")
    assert said in refused(capsys, "predict", run, place / "data" / "val")
    assert str(run) in refused(capsys, "train", "--resume", run)
