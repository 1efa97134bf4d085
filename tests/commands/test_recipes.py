"""``resnext recipes`` lists and prints what comes with the package."""

from pathlib import Path

import pytest

from resnext.cli import main
from resnext.commands.recipes import format_recipe
from resnext.detection.settings import DetectRecipe
from resnext.recipe import list_recipes, parse_recipe, read_recipe, read_recipe_kind
from resnext.settings import Recipe


def test_the_list_has_every_recipe_with_its_result_and_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in list_recipes():
        assert any(line.split()[:1] == [name] for line in lines)
    line = next(line for line in lines if line.split()[:1] == ["paper/imagenet-resnet50"])
    assert line.rstrip().rpartition("  ")[2].strip() == "4.09 GMACs an image at 224 pixels"
    assert "ResNet-50 1x64d on ImageNet-1K  " in line
    assert "top-1 error 23.9 %  " in line
    assert main(["recipes", "small/*"]) == 0
    assert "imagenet" not in capsys.readouterr().out


@pytest.mark.parametrize("name", list_recipes())
def test_what_is_printed_is_the_same_recipe_and_extends_nothing(name: str) -> None:
    kind = DetectRecipe if read_recipe_kind(name) == "detection" else Recipe
    for complete in (False, True):
        text = format_recipe(name, complete=complete)
        assert parse_recipe(text, kind=kind) == read_recipe(name, kind=kind)
        assert "\nextends" not in text
        assert "# Source:" in text


def test_a_recipe_of_ones_own_is_printed_with_what_it_extends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text("extends: small/digits\ntrain: {epochs: 3}\n")
    assert main(["recipes", str(tmp_path / "mine.yaml")]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("model:\n  name: resnext20_4x8d\n")
    assert "  epochs: 3\n" in printed


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("smal/digits", "did you mean 'small/digits'"),
        ("large/*", "no recipe matches 'large/*'"),
        ("", "cannot be read"),
    ],
)
def test_an_unknown_recipe_is_one_sentence(name: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", name]) == 2
    assert says in capsys.readouterr().err
