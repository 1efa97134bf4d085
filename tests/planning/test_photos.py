"""A folder of photos becomes a plan, a recipe and a run; other folders are refused with what to change."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image

import resnext
from resnext.cli import main
from resnext.data import open_data
from resnext.data.suggest_groups import find_group_hint
from resnext.errors import RequestError
from resnext.model.network import create_model
from resnext.planning.photos import plan_photos
from resnext.recipe import read_recipe
from resnext.screen import make_screen
from resnext.training.request import is_photo_folder
from resnext.weights.native import save

QUICK = ("--train.epochs", "2", "--data.image_size", "32", "--data.workers", "0", "--train.channels_last", "no")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No hub can be reached, and nothing is cached; commands run in an empty folder."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def write_photos(folder: Path, counts: Mapping[str, int], mode: str = "RGB", side: int = 72) -> Path:
    """Write ``counts`` noisy pictures into each folder; those of a folder have a brightness of their own."""
    draws = np.random.default_rng(0)
    for number, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            low = 200 * number // max(len(counts) - 1, 1)
            pixels = draws.integers(low, low + 40, (side, side * 4 // 3, 3), np.uint8)
            Image.fromarray(pixels).convert(mode).save(folder / name / f"{index}.png")
    return folder


def test_one_command_gives_a_trained_model_and_says_what_is_next(capsys: pytest.CaptureFixture[str]) -> None:
    write_photos(Path("My Photos"), {"dark": 20, "light": 20})
    assert main(["My Photos", "--run", "runs/first one", *QUICK]) == 0
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert lines[0].startswith("resnext train 'My Photos' --run")
    assert "40 pictures, 2 classes (dark 20, light 20); colour, shorter side 72 pixels" in said
    assert any(line.startswith("without pretrained weights: ") for line in lines)
    assert any(line.split()[:2] == ["train.epochs", "2"] and line.endswith("as you said") for line in lines)
    assert said.index("cost: about") < said.index("epoch   1") < said.index("held-out images right")
    assert "next           resnext predict 'runs/first one' PICTURES" in said
    recipe = read_recipe("runs/first one/recipe.yaml")
    assert (recipe.data.path, recipe.train.epochs) == (str(Path("My Photos").absolute()), 2)
    assert main(["predict", "runs/first one", "My Photos/dark/1.png"]) == 0


def test_a_dry_run_writes_the_recipe_of_the_run_and_replaces_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    write_photos(Path("photos"), {"dark": 12, "light": 12})
    Path("photos.yaml").write_text("mine")
    assert main(["train", "photos", "--dry-run", "--train.seed", "7"]) == 0
    assert "train with it: resnext train photos-2.yaml" in capsys.readouterr().out
    assert Path("photos.yaml").read_text() == "mine"
    assert not Path("runs").exists()
    assert read_recipe("photos-2.yaml") == plan_photos("photos", {"train.seed": 7}, make_screen()).recipe
    assert "val_fraction: 0.2  # of each class" in Path("photos-2.yaml").read_text()


def test_names_that_suggest_groups_are_told_and_the_suggestion_serves(capsys: pytest.CaptureFixture[str]) -> None:
    write_photos(Path("photos"), {"dark": 12, "light": 12})
    for path in Path("photos").rglob("*.png"):
        path.rename(path.with_name(f"patient{int(path.stem) // 3}_{path.name}"))
    plan = plan_photos("photos", {}, make_screen())
    assert "--data.group '(patient[0-9]+)'" in plan.survey.group_hint
    assert plan.survey.group_hint in capsys.readouterr().err
    again = find_group_hint(plan.recipe.data, open_data(plan.recipe.data))
    assert again is not None
    assert again.describe() == plan.survey.group_hint  # so that training does not say it a second time
    grouped = plan_photos("photos", {"data.group": "(patient[0-9]+)"}, make_screen())
    assert (grouped.recipe.data.group, grouped.survey.group_hint) == ("(patient[0-9]+)", "")
    with pytest.raises(RequestError, match="is found in no path"):
        plan_photos("photos", {"data.group": "(slide[0-9]+)"}, make_screen())


def test_names_that_yaml_would_misread_survive_the_recipe() -> None:
    for name in ("#1: yes", "ü \u2028x", "null", 'a"b\\c'):
        write_photos(Path(name), {"dark": 3, "light": 3})
        assert main(["train", f"./{name}", "--dry-run"]) == 0
        assert read_recipe(f"{name}.yaml").data.path == str(Path(name).absolute())


def test_the_python_call_takes_a_folder_and_goes_on_with_what_it_chose(capsys: pytest.CaptureFixture[str]) -> None:
    write_photos(Path("photos"), {"dark": 10, "light": 10})
    settings = {"data.image_size": 32, "data.workers": 0, "train.channels_last": "no", "train.epochs": 1}
    run = resnext.train("photos", "runs/a", overrides=settings, quiet=True)
    assert capsys.readouterr().out == ""
    assert run.metrics["epoch"].tolist() == [1]
    write_photos(Path("photos"), {"new": 40})  # a plan made now would differ; the run must not
    with pytest.raises(RequestError, match="class"):
        resnext.train("photos", "runs/a", resume=None, quiet=True)


def test_the_same_command_continues_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    write_photos(Path("photos"), {"dark": 10, "light": 10})
    assert main(["train", "photos", "--continue", "runs/a", *QUICK]) == 0
    capsys.readouterr()
    assert main(["train", "photos", "--continue", "runs/a", *QUICK]) == 0
    assert "all steps are already done" in capsys.readouterr().out


def test_given_weights_are_started_from(tmp_path: Path) -> None:
    write_photos(Path("photos"), {"dark": 10, "light": 10})
    save(create_model("resnext11_2x4d", base_channels=4, num_classes=3, seed=0), tmp_path / "w.safetensors")
    given = {"init.weights": str(tmp_path / "w.safetensors"), "data.image_size": 32}
    recipe = plan_photos("photos", given, make_screen()).recipe
    assert recipe.model.name is None
    assert recipe.optimizer.lr < 0.01


def test_weights_in_the_cache_are_found_without_a_network(tmp_path: Path) -> None:
    write_photos(Path("photos"), {"dark": 10, "light": 10})
    repository = tmp_path / "hub" / "models--timm--resnext50_32x4d.tv_in1k"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    (snapshot / "config.json").write_text("{}")
    save(create_model("resnext11_2x4d", base_channels=4, num_classes=3, seed=0), snapshot / "model.safetensors")
    plan = plan_photos("photos", {}, make_screen())
    assert plan.recipe.init.weights == "hf://timm/resnext50_32x4d.tv_in1k"


def test_grey_pictures_train_a_network_of_one_channel() -> None:
    write_photos(Path("photos"), {"dark": 10, "light": 10}, mode="L")
    assert plan_photos("photos", {}, make_screen()).recipe.data.channels == 1


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        ({}, "has no pictures (files ending in"),
        ({".": 3}, "has 3 pictures directly inside, so nothing says what they show: make one folder for each class"),
        ({"cat": 4}, "has one class folder, 'cat'; a classifier tells at least two classes apart"),
        ({"cat": 4, "dog": 1}, "class 'dog' has one image, and a split needs two"),
        ({"cat": 4, "dog": 0}, "class folder 'dog' of"),
        ({"all/cat": 4, "all/dog": 4}, "lie deeper than one folder, as in"),
        ({"a/cat": 4, "b/dog": 4}, "lie deeper than one folder, as in"),
        ({"val/cat": 4, "val/dog": 4}, "has val/ but no train/"),
        ({"train/cat": 4, "train/dog": 4, "val/cow": 4}, "differ"),
        ({"Training/cat": 4, "Testing/cat": 4}, "these must be named train/ and val/"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_with_what_to_change(folders: dict[str, int], says: str) -> None:
    write_photos(Path("photos"), folders)
    Path("photos").mkdir(exist_ok=True)
    with pytest.raises(RequestError) as caught:
        plan_photos("photos", {}, make_screen())
    assert says in str(caught.value)


def test_an_unreadable_picture_is_named_before_the_run_unless_it_may_be_skipped() -> None:
    write_photos(Path("photos"), {"dark": 10, "light": 10})
    Path("photos/dark/3.png").write_bytes(b"no picture")
    with pytest.raises(RequestError, match=r"1 of 20 pictures .*dark/3\.png.*data check.*--data\.on_bad_image skip"):
        plan_photos("photos", {}, make_screen())
    plan_photos("photos", {"data.on_bad_image": "skip"}, make_screen())


def test_pictures_beside_the_class_folders_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    write_photos(Path("photos"), {"dark": 10, "light": 10, ".": 2})
    plan_photos("photos", {}, make_screen())
    assert "2 pictures beside the class folders are not used" in capsys.readouterr().out


def test_runs_and_recipes_are_no_photos(tiny_recipe: Path) -> None:
    assert not is_photo_folder(tiny_recipe)
    assert not is_photo_folder("small/digits")
    write_photos(Path("digits"), {"dark": 3, "light": 3})
    with pytest.raises(RequestError, match=r"write \./digits for the folder, small/digits for the recipe"):
        is_photo_folder("digits")
    assert is_photo_folder("./digits")
    (Path("runs/a/checkpoints")).mkdir(parents=True)
    with pytest.raises(RequestError, match=r"resnext train --resume runs/a continues it"):
        is_photo_folder("runs/a")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("train", "photos", "--resume", "runs/a"), "leave photos out"),
        (("train", "small/digits", "--dry-run"), "--dry-run plans a run on a folder"),
        (("train", "photos", "--data.source", "digits"), "--data.source does not go with"),
        (("train", "photos", "--train.epochs", "many"), "train.epochs must be a whole number"),
    ],
)
def test_what_does_not_go_with_photos_is_refused(
    words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_photos(Path("photos"), {"dark": 3, "light": 3})
    assert main(list(words)) == 2
    said = capsys.readouterr().err
    assert says in said
    assert not Path("runs").exists()
