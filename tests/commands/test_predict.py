import base64
import csv
import html
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnext.cli import main
from resnext.data.decode.pillow import read_image
from resnext.evaluation.output.prediction_files import copy_by_class
from resnext.evaluation.predict import Prediction, predict
from resnext.weights import load


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / name)
    return folder


def test_the_table_shows_each_image_and_the_networks_input(
    weights: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(weights), str(pictures), "--top", "2"]) == 0
    out = capsys.readouterr()
    assert not out.err
    for name, prediction in zip("abc", predict(load(weights), sorted(pictures.iterdir())), strict=True):
        (best, p), (second, q) = prediction.top(2)
        row = next(line for line in out.out.splitlines() if f"{name}.png" in line)
        assert row.split()[1:] == [best, f"{100 * p:.1f}", "%", second, f"{100 * q:.1f}", "%"]
    assert "centre crop 8×8" in out.out


def test_json_is_one_array_with_predictions_and_errors(
    weights: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "bad.png").write_bytes(b"\x89PNG nonsense")
    (pictures / "none.png").write_bytes(b"")
    missing = str(pictures / "missing.png")
    assert main(["predict", str(weights), str(pictures), missing, "--json", "--top", "4"]) == 1
    out = capsys.readouterr()
    entries = {Path(entry["path"]).name: entry for entry in json.loads(out.out)}
    assert entries.keys() == {"a.png", "b.png", "c.png", "bad.png", "none.png", "missing.png"}
    for name in ("a.png", "b.png", "c.png"):
        probabilities = [p["probability"] for p in entries[name]["predictions"]]
        assert len(probabilities) == 4
        assert probabilities == sorted(probabilities, reverse=True)
        assert {p["class"] for p in entries[name]["predictions"]} <= set("0123456789")
    for name in ("bad.png", "none.png", "missing.png"):
        assert entries[name].keys() == {"path", "error"}
        assert sum(name in line for line in out.err.splitlines()) == 1


def test_bad_images_are_named_one_by_one_and_the_rest_is_shown(
    weights: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "b.png").write_bytes((pictures / "a.png").read_bytes()[:40])
    assert main(["predict", str(weights), f"{pictures}/*.png"]) == 1
    out = capsys.readouterr()
    assert "a.png" in out.out
    assert "c.png" in out.out
    assert "b.png" not in out.out
    assert len(out.err.strip().splitlines()) == 1
    assert "b.png" in out.err


def test_when_every_image_is_bad_the_work_has_failed(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.png").write_bytes(b"x")
    assert main(["predict", str(weights), str(tmp_path / "x.png"), "--picture", str(tmp_path / "out.png")]) == 1
    assert "x.png" in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()


def test_the_picture_shows_what_the_network_sees(weights: Path, pictures: Path, tmp_path: Path) -> None:
    assert main(["predict", str(weights), str(pictures), "--picture", str(tmp_path / "out.png")]) == 0
    assert min(read_image(tmp_path / "out.png").size) > 200


@pytest.mark.parametrize(
    ("arguments", "part"),
    [(["--top", "0"], "at least 1"), (["--picture", "nowhere/x.png"], "no folder nowhere"), (["--tip", "3"], "--top")],
)
def test_wrong_requests_are_one_sentence(
    weights: Path, pictures: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], part: str
) -> None:
    assert main(["predict", str(weights), str(pictures), *arguments]) == 2
    assert part in capsys.readouterr().err


def test_names_with_markup_and_bytes_that_are_no_text_are_printed_plainly(
    weights: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "a.png").rename(pictures / "[red]x.png")
    (pictures / "b.png").rename(os.fsdecode(os.fsencode(pictures) + b"/\xff.png"))
    assert main(["predict", str(weights), str(pictures)]) == 0
    assert "[red]x.png" in capsys.readouterr().out
    assert main(["predict", str(weights), str(pictures), "--json"]) == 0
    paths = [entry["path"] for entry in json.loads(capsys.readouterr().out)]
    assert os.fsdecode(os.fsencode(pictures) + b"/\xff.png") in paths


def test_the_csv_has_a_row_for_each_image_with_its_classes_or_its_error(
    weights: Path, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "bad.png").write_bytes(b"\x89PNG nonsense")
    assert main(["predict", str(weights), str(pictures), "--csv", str(tmp_path / "p.csv"), "--top", "2"]) == 1
    with open(tmp_path / "p.csv", encoding="utf-8", newline="") as file:
        rows = {Path(row["path"]).name: row for row in csv.DictReader(file)}
    assert rows.keys() == {"a.png", "b.png", "c.png", "bad.png"}
    assert rows["bad.png"]["error"]
    assert not rows["bad.png"]["class_1"]
    (best, p), (second, q) = predict(load(weights), str(pictures / "a.png"))[0].top(2)
    row = rows["a.png"]
    assert (row["class_1"], row["class_2"], row["error"]) == (best, second, "")
    assert (float(row["probability_1"]), float(row["probability_2"])) == pytest.approx((p, q), rel=1e-5)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--csv", "a.png", "b.png"], "--csv a.png exists and is not named as a .csv file"),
        (["--html", "a.png", "b.png"], "--html a.png exists and is not named as a .html file"),
        (["--embeddings", "a.png", "b.png"], "--embeddings a.png exists and is not named as a .npz file"),
        (["--picture", "a.png", "b.png"], "--picture a.png exists in the folder of the images"),
        (["a.png", "--csv", "same.x", "--html", "./same.x"], "--csv and --html both name same.x"),
    ],
)
def test_no_image_is_replaced_by_a_result(
    words: list[str],
    says: str,
    weights: Path,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(pictures)
    before = {path.name: path.read_bytes() for path in pictures.iterdir()}
    assert main(["predict", str(weights), *words]) == 2
    assert says in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in pictures.iterdir()} == before


def test_images_are_copied_into_folders_by_class_and_nothing_is_replaced(
    weights: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "more").mkdir()
    (pictures / "more" / "a.png").write_bytes((pictures / "a.png").read_bytes())
    out, before = tmp_path / "sorted", {path: path.read_bytes() for path in pictures.rglob("*.png")}
    for _ in range(2):
        assert main(["predict", str(weights), str(pictures), "--sort-into", str(out)]) == 0
    assert before == {path: path.read_bytes() for path in pictures.rglob("*.png")}
    model = load(weights)
    best = predict(model, str(pictures / "a.png"))[0].top(1)[0][0]
    for name in ("a", "a-2"):
        assert (out / best / f"{name}.png").read_bytes() == (pictures / "a.png").read_bytes()
    assert len(list(out.rglob("*.png"))) == 4, "the second call has found the copies of the first"
    (out / best / "a.png").write_text("mine")
    assert main(["predict", str(weights), str(pictures), "--sort-into", str(out)]) == 0
    assert (out / best / "a.png").read_text() == "mine"
    assert (out / best / "a-3.png").read_bytes() == (pictures / "a.png").read_bytes()
    capsys.readouterr()
    assert main(["predict", str(weights), str(pictures), "--sort-into", str(pictures / "more")]) == 2
    assert "one of the images; give another folder" in capsys.readouterr().err


def test_the_gallery_shows_every_image_and_loads_nothing_from_elsewhere(
    weights: Path, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "<b>x&.png").write_bytes((pictures / "a.png").read_bytes())
    page = tmp_path / "gallery.html"
    assert main(["predict", str(weights), str(pictures), "--html", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    sources = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)"', text)
    assert {html.unescape(name) for _, name in sources} == {"a.png", "b.png", "c.png", "<b>x&.png"}
    for data, _ in sources:
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (8, 8)
    assert not re.search(r"https?://|<b>x", text)


def test_json_keeps_letters_beyond_ascii(weights: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pictures / "grün.png").write_bytes((pictures / "a.png").read_bytes())
    assert main(["predict", str(weights), str(pictures / "grün.png"), "--json"]) == 0
    out = capsys.readouterr().out
    assert "grün.png" in out
    assert json.loads(out)[0]["path"].endswith("grün.png")


def test_a_class_name_cannot_lead_out_of_the_folder(tmp_path: Path, pictures: Path) -> None:
    names = ("../../evil", "..", "a/b", "CON: x?")
    for number, name in enumerate(names):
        shares = np.array([0.9, 0.1])
        assert copy_by_class(tmp_path / "out", [Prediction(str(pictures / "a.png"), (name, "b"), shares)]) == 1
        assert len(list((tmp_path / "out").rglob("*.png"))) == number + 1
    assert {path.parent.parent for path in (tmp_path / "out").rglob("*.png")} == {tmp_path / "out"}
