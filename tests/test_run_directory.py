"""Run directories are recognised and never overwritten."""

from pathlib import Path

import pytest

from resnext.cli import main
from resnext.detection.settings import DetectRecipe
from resnext.errors import RequestError
from resnext.recipe import dump_recipe
from resnext.run_directory import check_new_run, is_run, open_run_directory, read_run_kind
from resnext.settings import Recipe


def test_an_empty_folder_may_become_a_run_and_a_full_one_may_not(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    run = check_new_run(tmp_path / "run")
    run.recipe.write_text("")
    assert is_run(run.path)
    with pytest.raises(RequestError, match="--resume"):
        check_new_run(run.path)
    assert open_run_directory(run.path).path == run.path


@pytest.mark.parametrize("name", ["nothing", "file", "folder"])
def test_what_is_no_run_is_not_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(RequestError):
        open_run_directory(tmp_path / name)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Make a folder with a run of each task; the runs have only a recipe."""
    for name, recipe in (("names", Recipe()), ("boxes", DetectRecipe())):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text(dump_recipe(recipe))
    return tmp_path


def test_a_run_knows_its_task(runs: Path) -> None:
    assert [read_run_kind(runs / name) for name in ("names", "boxes", "none", ".")] == [
        "classification", "detection", None, None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "instead"),
    [
        ("predict BOXES x.png", "resnext detect predict BOXES"),
        ("evaluate BOXES", "resnext detect evaluate BOXES"),
        ("evaluate NAMES BOXES", "resnext detect evaluate BOXES"),
        ("train --resume BOXES", "resnext detect train --resume BOXES"),
        ("train BOXES/recipe.yaml --continue BOXES", "resnext detect train --continue BOXES"),
        ("bench infer BOXES", "resnext bench detect"),
        ("detect predict NAMES x.png", "resnext predict NAMES"),
        ("detect evaluate NAMES", "resnext evaluate NAMES"),
        ("detect train --resume NAMES", "resnext train --resume NAMES"),
        ("train BOXES/recipe.yaml", "resnext detect train"),
        ("detect train NAMES/recipe.yaml", "resnext train"),
        ("paper cost --recipe BOXES/recipe.yaml", "hours of detection are not estimated"),
        ("paper feed --recipe BOXES/recipe.yaml", "hours of detection are not estimated"),
        ("paper cost table8", "hours of detection are not estimated"),
    ],
)
def test_a_run_or_recipe_of_the_other_task_is_told_the_verb_that_takes_it(
    command: str, instead: str, runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs)
    places = {"BOXES": str(runs / "boxes"), "NAMES": str(runs / "names")}
    for word, place in places.items():
        command, instead = command.replace(word, place), instead.replace(word, place)
    before = sorted(runs.rglob("*"))
    assert main(command.split()) == 2
    said = capsys.readouterr().err
    assert instead in said
    assert said.count("\n") == 1
    assert sorted(runs.rglob("*")) == before
