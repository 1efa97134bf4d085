"""Every kind of bad input ends in one clear sentence, exit status 2, and nothing written or lost."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from resnext.cli import main
from tests.conftest import TINY

pytestmark = pytest.mark.usefixtures("blank_figures")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run of one epoch; tests that damage it use a copy."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(TINY)
    assert main(["train", str(folder / "tiny.yaml"), "--run", str(folder / "run"), "--train.epochs", "1"]) == 0
    return folder / "run"


def photos(root: Path, **classes: int) -> Path:
    """Make class folders with the given numbers of images."""
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (40, 40), (number * 9 % 256, 80, 120)).save(root / name / f"{number}.png")
    return root


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run a command that must end with status 2; return its one error sentence."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("resnext: ")
    assert errors.count("\n") == 1, errors
    assert "Traceback" not in errors
    return errors


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["info", "resnext50_32x4d", "--set", "cardinality=32", "--set", "stage_widths=100,200,400,800"], "96 or 128"),
        (["info", "resnext30_4x8d"], "9n+2"),
        (["info", "resnext50_32x4d", "--image-size", "16"], "too small"),
        (["design", "--cardinality", "32", "--macs", "lots"], "lots"),
    ],
)
def test_a_network_that_cannot_be(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert says in refused(capsys, *words)


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("data.source", "digit", "did you mean 'digits'"),
        ("train.epochs", "three", "train.epochs must be a whole number, not 'three'"),
        ("train.batch_size", "512", "batch_size 512 is larger than the training set of 100 images"),
        ("data.image_size", "2", "too small"),
        ("data.path", "/nowhere", "data.path"),
        ("model.name", "resnext12_2x4d", "9n+2"),
        ("model.stage_widths", "9,18,36", "cardinality 2 does not divide the stage width 9"),
    ],
)
def test_a_setting_that_cannot_work(
    tiny_recipe: Path, tmp_path: Path, setting: str, value: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = refused(capsys, "train", tiny_recipe, "--run", tmp_path / "run", f"--{setting}", value)
    assert says in errors
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())


def test_data_that_is_missing_empty_or_of_one_class(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    photos(tmp_path / "single", cat=3)
    photos(tmp_path / "hollow", cat=3)
    (tmp_path / "hollow" / "dog").mkdir()
    tiny_recipe.write_text("model: {name: resnext11_2x4d, base_channels: 4}\ntrain: {batch_size: 4, epochs: 1}\n")
    for folder, says in (
        ("nothing", "does not exist"), ("empty", "no class folders"), ("single", "one class"), ("hollow", "'dog'"),
    ):  # fmt: skip
        options = ["--data.source", "folder", "--data.path", tmp_path / folder, "--data.val_fraction", "0.3"]
        assert says in refused(capsys, "train", tiny_recipe, "--run", tmp_path / "run", *options)


def test_classes_of_weights_and_data_that_differ_show_where(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = photos(tmp_path / "photos", **{str(digit): 2 for digit in range(9)}, ten=2)
    errors = refused(capsys, "evaluate", finished, "--source", "folder", "--data", root)
    assert "'9'" in errors
    assert "'ten'" in errors


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda run: next((run / "checkpoints/last").glob("training-*")).write_bytes(b"x"), "is damaged"),
        (
            lambda run: (run / "checkpoints/last/state.json").write_text("{}"),
            "is not the state of a resnext checkpoint",
        ),
        (lambda run: shutil.rmtree(run / "checkpoints"), "there is no checkpoint"),
        (lambda run: (run / "recipe.yaml").unlink(), "is not a run directory"),
        (lambda run: (run / "recipe.yaml").write_text("train: {epoch: 1}"), "did you mean 'epochs'"),
    ],
)
def test_a_run_that_is_damaged_cannot_be_resumed(
    finished: Path, tmp_path: Path, damage: object, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    damage(run)  # type: ignore[operator]
    assert says in refused(capsys, "train", "--resume", run)


def test_weights_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"not weights at all")
    photo = photos(tmp_path / "p", cat=1) / "cat" / "0.png"
    assert "is text, not weights" in refused(capsys, "predict", tmp_path / "w.safetensors", photo)
    assert "there is no weights file" in refused(capsys, "predict", tmp_path / "none", photo)


def test_no_image_to_predict(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nothing.jpg", "*.jpg"):
        assert "no image found" in refused(capsys, "predict", finished, tmp_path / name)


def test_a_run_directory_is_never_written_over(
    finished: Path, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    errors = refused(capsys, "train", tiny_recipe, "--run", finished)
    assert f"--resume {finished} continues it" in errors
    errors = refused(capsys, "train", tiny_recipe, "--resume", finished, "--train.epochs", "2")
    assert "train.epochs: 1 -> 2" in errors
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before
