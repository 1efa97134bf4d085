"""``resnext bench tune``: measurements are shown, cached, deleted, and saved as a plan for a run."""

import json
from pathlib import Path

import pytest
import torch

from resnext.cli import main
from resnext.deploy.predictor import Predictor
from resnext.model.network import create_model
from resnext.model.plan import Plan
from resnext.speed import kernels
from resnext.speed.cache_folder import warn_once
from resnext.speed.tuning_cache import get_machine_fingerprint

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
    assert "nothing has been measured yet" in capsys.readouterr().out


def keep(folder: Path, works: dict[str, dict[str, float]]) -> None:
    """Write ``works`` into the tuning cache of this machine."""
    (folder / "cache").mkdir()
    content = json.dumps({get_machine_fingerprint(torch.device("cpu")): works})
    (folder / "cache" / "choices.json").write_text(content)


def test_measured_engines_are_shown_too(capsys: pytest.CaptureFixture[str]) -> None:
    network = create_model("resnext11_2x4d", seed=0, base_channels=8, num_classes=10)
    Predictor(network, engine="pytorch", image_size=32)
    assert main(["bench", "tune", "--show"]) == 0
    shown = "".join(capsys.readouterr().out.split())
    assert "runresnext11_2x4d" in shown
    assert "pytorchfoldedpack=0" in shown


def test_every_kind_of_entry_is_shown_as_it_stands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(tmp_path, {"conv": {"plain": 0.002, "pack2": 0.001}, "[red]a\x1b[2J": {"[/]": 3.0}, "old": {"cudnn": 1e-4}})
    assert main(["bench", "tune", "--show"]) == 0
    shown = capsys.readouterr().out
    for part in ("pack2 1  plain 2", "[red]a\\x1b[2J", "[/] 3e+03", "cudnn 0.1"):
        assert part in shown


def test_a_damaged_cache_shows_nothing_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    warn_once.cache_clear()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "choices.json").write_bytes(b"\xff\x00")
    assert main(["bench", "tune", "--show"]) == 0
    said = capsys.readouterr()
    assert "nothing has been measured yet" in said.out
    assert "cannot be read" in said.err


@pytest.mark.parametrize("words", ["--show --forget", "--show --save FILE", "--forget --save FILE"])
def test_showing_forgetting_and_saving_are_three_requests(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "tune", *words.split()]) == 2
    assert "not allowed with" in capsys.readouterr().err


def test_a_plan_is_not_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plan.json").write_text("mine")
    assert main(["bench", "tune", *SMALL, "--save", str(tmp_path / "plan.json")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "plan.json").read_text() == "mine"


@pytest.mark.parametrize("content", ["", "[]", '{"convolutions": {}}', "\xff"])
def test_a_run_refuses_a_file_that_is_no_plan(
    content: str, tmp_path: Path, tiny_recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(content)
    words = ["train", str(tiny_recipe), "--train.tuning_plan", str(plan), "--run", str(tmp_path / "run")]
    assert main(words) == 2
    assert str(plan) in capsys.readouterr().err
    assert main([*words, "--train.fast", "no"]) == 2
    assert "train.fast is no" in capsys.readouterr().err
