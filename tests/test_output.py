"""Every command writes its files before it prints, and checks before the work that they can be written."""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from resnext.cli import main
from resnext.detection.weights import save_detector
from resnext.screen import Screen
from resnext.weights.native import save
from tests.commands.conftest import digits_network
from tests.conftest import run_resnext
from tests.detection.shape_images import folder as shapes_folder
from tests.detection.tiny_detector import CIFAR, detector
from tests.training.test_loop import FILES

CLASSIFIER, DETECTOR, SHAPES, IMAGE = "c.safetensors", "d.safetensors", "shapes", "shapes/val/0.png"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of digits, a detector, images with boxes, and an image."""
    root = tmp_path_factory.mktemp("made")
    save(digits_network(), root / CLASSIFIER)
    shapes_folder(root / SHAPES, train=3, val=3)
    save_detector(detector(CIFAR, ("disc", "bar"), detections=5), root / DETECTOR)
    return root


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty directory, with the files of ``made`` beside it."""
    for name in (CLASSIFIER, DETECTOR, SHAPES):
        (tmp_path / name).symlink_to(made / name)
    monkeypatch.setenv("RESNEXT_DATA", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


WRITING = {  # what is typed -> the files that are there afterwards
    "evaluate": (["evaluate", CLASSIFIER, "--source", "digits", "--out", "OUT"], ["metrics.json", "worst.png"]),
    "predict": (["predict", CLASSIFIER, IMAGE, "--picture", "OUT/p.png"], ["p.png"]),
    "detect evaluate": (
        ["detect", "evaluate", DETECTOR, "--data", SHAPES, "--device", "cpu", "--workers", "0", "--out", "OUT"],
        ["metrics.json", "images.png"],
    ),
    "detect predict": (
        ["detect", "predict", DETECTOR, IMAGE, "--device", "cpu", "--json", "OUT/d.json", "--out", "OUT"],
        ["d.json", "0.png"],
    ),
    "paper": (["paper", "table5", "--no-measure", "--out", "OUT"], ["table5.csv", "table5.png", "table5.svg"]),
    "paper feed": (
        ["paper", "feed", "--network", "resnet152", "--machine", "1xV100", "--out", "OUT"],
        ["1xV100-resnet152.csv", "1xV100-resnet152.png"],
    ),
    "convert": (["convert", CLASSIFIER, "OUT/x.safetensors"], ["x.safetensors"]),
    "data check": (["data", "check", SHAPES, "--csv", "OUT/found.csv"], ["found.csv"]),
}


class GoneError(Exception):
    """Raised by the console of a test."""


@contextlib.contextmanager
def no_console(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let every print on a console fail inside the context."""

    def fail(*_: object, **__: object) -> None:
        raise GoneError

    with monkeypatch.context() as patch:
        patch.setattr(Screen, "print", fail)
        patch.setattr(Console, "print", fail)
        yield


@contextlib.contextmanager
def no_reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use a closed pipe as standard output inside the context."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="ascii") as file, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", file)
        yield


@pytest.mark.parametrize("output", [no_reader, no_console])
@pytest.mark.parametrize("verb", WRITING)
def test_files_are_written_whatever_becomes_of_what_is_printed(
    verb: str, output: Callable[..., contextlib.AbstractContextManager[None]], here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    words, files = WRITING[verb]
    (here / "OUT").mkdir()
    with output(monkeypatch):
        status = main(words)
    assert status == 0 or output is no_console
    for name in files:
        assert (here / "OUT" / name).stat().st_size > 0, name


@pytest.mark.parametrize(
    "words",
    [
        *(words for words, _ in WRITING.values()),
        ["detect", "predict", DETECTOR, IMAGE, "--out", "OUT"],
        *(
            ["bench", action, "--out", "OUT"]
            for action in ("train", "infer", "detect", "cardinality", "growth", "startup")
        ),
        ["bench", "data", SHAPES, "--out", "OUT"],
        ["bench", "tune", "--save", "OUT/plan.json"],
        ["convert", CLASSIFIER, "OUT/hub/"],
        ["data", "shard", "data", "OUT/shards"],
        ["data", "minival", SHAPES, "--out", "OUT"],
        ["train", "recipe.yaml", "--run", "OUT"],
        ["detect", "train", "recipe.yaml", "--run", "OUT"],
    ],
    ids=" ".join,
)
def test_a_place_that_cannot_be_written_to_is_one_sentence_before_the_work(
    words: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "OUT").write_bytes(b"a file that is mine")
    (here / "recipe.yaml").write_text("model: {name: resnet18}\n", encoding="utf-8")
    before = sorted(path for path in here.rglob("*") if "cache" not in path.parts)
    assert main([word.replace("OUT", "OUT/below") if word == "OUT" else word for word in words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("resnext: ")
    assert said.count("\n") == 1, said
    assert "OUT" in said
    assert "Error" not in said
    assert sorted(path for path in here.rglob("*") if "cache" not in path.parts) == before
    assert (here / "OUT").read_bytes() == b"a file that is mine"


def test_a_table_can_be_printed_where_there_is_only_ascii(here: Path) -> None:
    words = ["detect", "evaluate", DETECTOR, "--data", SHAPES, "--device", "cpu", "--workers", "0", "--out", "OUT"]
    done = run_resnext(*words, env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    assert done.stderr == ""
    assert re.search(r"(small|medium|large) -", done.stdout)  # a size that no box has, with a dash
    assert json.loads((here / "OUT" / "metrics.json").read_bytes())["n"] == 3


def test_a_training_whose_reader_goes_away_ends_with_everything(tiny_recipe: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "resnext", "train", str(tiny_recipe), "--run", str(tmp_path / "exp[small]")]
    quiet = os.environ | {"RESNEXT_FAST": "0"}  # measuring speed says so on standard error
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=quiet) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        errors = process.stderr.read()
    assert (process.returncode, errors) == (0, b"")
    for name in FILES:
        assert (tmp_path / "exp[small]" / name).stat().st_size > 0, name
    state = json.loads((tmp_path / "exp[small]" / "checkpoints" / "last" / "state.json").read_bytes())
    assert state["position"]["epoch"] == 3


@pytest.mark.parametrize("name", ["exp[small]", "x[/a]:smile:"])
def test_a_run_directory_is_named_as_it_is(
    name: str, tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / name / "r"
    assert main(["train", str(tiny_recipe), "--run", str(run), "--train.epochs", "1"]) == 0
    assert f"run directory  {run}\nreport         {run}/report.html\n" in capsys.readouterr().out
