"""``resnext bench tune``: what is measured is shown, kept, forgotten, and given to a run as a plan."""

import json
from pathlib import Path

import pytest

from resnext.cli import main
from resnext.model.network import create_model
from resnext.model.plan import Plan
from resnext.speed import kernels

SMALL = ("resnext11_2x4d", "--batch", "2", "--size", "32", "--precision", "fp32")


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RESNEXT_FAST", "1")
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kernels, "load", lambda: False)  # the cache is empty: nothing is compiled for this


def test_tuning_is_kept_shown_and_forgotten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "plan.json"
    assert main(["bench", "tune", *SMALL, "--save", str(plan)]) == 0
    assert "of 13 norms" in capsys.readouterr().out
    Plan.read(plan).apply(create_model("resnext11_2x4d"))
    assert main(["bench", "tune", "--show"]) == 0
    shown = capsys.readouterr().out
    assert "weight_gradient" in shown.replace("\n", "")
    kept = json.loads((tmp_path / "cache" / "choices.json").read_text())
    assert len(kept) == 1
    assert main(["bench", "tune", "--forget"]) == 0
    assert json.loads((tmp_path / "cache" / "choices.json").read_text()) == {}
    capsys.readouterr()
    assert main(["bench", "tune", "--show"]) == 0
    assert "nothing was measured yet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["resnext11_2x4"], "resnext11_2x4"),
        (["resnext11_2x4d", "--batch", "1"], "--batch 1"),
        (["resnext11_2x4d", "--size", "0"], "0"),
        (["resnext11_2x4d", "--precision", "fp8"], "fp8"),
    ],
)
def test_a_request_that_cannot_be_is_named(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "tune", *words]) == 2
    assert named in capsys.readouterr().err


def test_a_plan_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plan.json").write_text("mine")
    assert main(["bench", "tune", *SMALL, "--save", str(tmp_path / "plan.json")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "plan.json").read_text() == "mine"


@pytest.mark.parametrize("content", ["", "[]", '{"convolutions": {}}', "\xff"])
def test_a_run_refuses_a_file_that_is_no_plan(
    content: str, tmp_path: Path, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(content)
    words = ["train", str(tiny_recipe), "--train.plan", str(plan), "--run", str(tmp_path / "run")]
    assert main(words) == 2
    assert str(plan) in capsys.readouterr().err
    assert main([*words, "--train.fast", "no"]) == 2
    assert "train.fast is no" in capsys.readouterr().err
