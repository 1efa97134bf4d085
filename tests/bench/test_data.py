"""``resnext bench data``: all candidates read the same files, and the results are written."""

import csv
from pathlib import Path

import pytest

from resnext.cli import main
from tests.data.jpeg_files import encode_jpeg, make_scene
from tests.data.layouts import tar_bytes, write_file

WORDS = ("--size", "32", "--batch", "4", "--rounds", "1")


def files() -> dict[str, bytes]:
    return {f"val/{'ab'[i % 2]}/{i}.jpg": encode_jpeg(make_scene(80 + i, 60, seed=i)) for i in range(8)}


@pytest.mark.usefixtures("decoder")
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar"])
def test_arms_and_stages_are_measured_and_written(
    tmp_path: Path, packed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    if packed:
        place = write_file(tmp_path / "images.tar", tar_bytes(files()))
    else:
        place = tmp_path / "images"
        for name, content in files().items():
            write_file(place / name, content)
    assert main(["bench", "data", str(place), *WORDS, "--out", str(tmp_path)]) == 0
    rows = list(csv.DictReader((tmp_path / "bench-data.csv").open()))
    arms = {row["arm"]: row for row in rows}
    assert {"resnext fast", "resnext exact", "ImageFolder + PIL"} <= set(arms)
    assert arms["resnext fast"]["images"] == "8"
    assert float(arms["ImageFolder + PIL"]["ours_over_arm"]) > 0
    assert sum(row["arm"].startswith("stage: ") for row in rows) == 5
    assert (tmp_path / "bench-data.png").stat().st_size > 1000
    assert "fast minus exact decoding" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_bytes(b"no tar"), "neither a folder nor a tar"),
        (lambda path: path.mkdir(), "no folders of images"),
    ],
    ids=["nothing", "no tar", "empty"],
)
def test_a_place_without_images_is_said(
    tmp_path: Path, make: object, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "place"
    make(place)  # type: ignore[operator]
    assert main(["bench", "data", str(place), *WORDS, "--out", str(tmp_path)]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
