"""``resnext paper``: from the command line to a run and back to the table."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from resnext.cli import main
from resnext.commands import paper
from resnext.paper.numbers import load_tables


def test_help_answers_without_torch() -> None:
    for words in (["paper", "--help"], ["paper", "table3", "--help"], ["paper", "run", "--help"]):
        code = f"import sys; from resnext.cli import main\ntry: main({words!r})\nexcept SystemExit: pass\n"
        code += "assert 'torch' not in sys.modules, 'torch'\nassert 'matplotlib' not in sys.modules"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "usage: resnext paper" in done.stdout


def test_every_table_is_an_action() -> None:
    parser = argparse.ArgumentParser()
    paper.add_arguments(parser)
    for name in load_tables():
        assert parser.parse_args([name, "--no-measure"]).measure == "none"
    assert parser.parse_args(["table3"]).measure == "missing"
    assert parser.parse_args(["table3", "--measure"]).measure == "again"


def test_a_row_starts_at_toy_size_goes_on_and_is_not_taken_for_the_real_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RESNEXT_DATA", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    command = ["paper", "run", "table3", "--row", "32x4d/50", "--toy"]
    for says in ("starting", "continuing"):
        assert main(command) == 0
        assert f"{says} runs/paper/imagenet-resnext50-32x4d-toy" in capsys.readouterr().out
    torch.set_num_threads(threads)
    assert Path("runs/paper/imagenet-resnext50-32x4d-toy/report.html").exists()
    assert main(["paper", "table3", "--no-measure"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "32x4d/50" in line)
    assert line.rstrip().endswith("missing")
    assert Path("paper-out/table3.svg").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "tabel3", "--row", "32x4d/50"], "the paper has no table or figure 'tabel3'; did you mean 'table"),
        (["run", "table3", "--row", "32x4d"], "matches several rows of table3"),
        (
            ["run", "table8", "--row", "1x64d/50"],
            "row 1x64d/50 of table8 needs two runs of resnext detect train: resnext detect train",
        ),
        (["run", "table5", "--row", "inception-v3"], "its network is of another family (Inception)"),
        (["run", "table3", "--row", "32x4d/50", "--schedule", "released"], "has one schedule"),
        (["run", "table3", "--row", "32x4d/50", "--seed", "1", "--train.seed", "2"], "are the same setting"),
        (["run", "table3", "--row", "32x4d/50", "--train.epochs", "many"], "train.epochs must be a whole number"),
        (
            ["run", "table3", "--row", "32x4d/50", "--train.epoch", "3"],
            "unknown option --train.epoch; did you mean '--train.epochs'",
        ),
        (["run", "table3"], "--row"),
        (["tabel3"], "ACTION: invalid choice 'tabel3'; did you mean 'table3'"),
        (["table3", "--mesure"], "did you mean '--measure'"),
    ],
)
def test_a_wrong_request_is_one_sentence(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["paper", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("resnext: ")
    assert says in said
    assert list(tmp_path.iterdir()) == []
