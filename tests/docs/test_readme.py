"""README shows what the commands print: the same where it is determined, of the same shape where it varies."""

from pathlib import Path
from typing import Any

import pytest

from resnext.cli import main
from tests.tools.load import load_tool

tool = load_tool("update_readme")
SHOWN = tool.list_shown(tool.README.read_text(encoding="utf-8").splitlines())


def test_readme_shows_outputs() -> None:
    commands = [shown.command for shown in SHOWN]
    for start in ("info", "design", "train small/digits", "evaluate", "predict", "convert"):
        assert any(command.startswith(f"resnext {start}") for command in commands), start


@pytest.mark.parametrize("shown", [shown for shown in SHOWN if shown.is_exact], ids=lambda shown: shown.command)
def test_an_output_that_is_determined_is_the_one_shown(
    shown: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if tool.TORCH7_FILE in shown.command:
        tool.extract_torch7_file(tmp_path)
    assert main(shown.command.split()[1:]) == 0
    assert tool.compare(shown, capsys.readouterr().out.rstrip("\n").splitlines()) == []


def test_another_output_is_found() -> None:
    shown = tool.Shown("resnext train x", ("epoch 1 loss 2.50", "...", "right: 3 of 9"), 0)
    assert tool.compare(shown, ["epoch 1 loss 0.11", "a", "b", "right: 12 of 13"]) == []
    assert "- right: 3 of 9" in tool.compare(shown, ["epoch 1 loss 0.11", "a", "wrong: 1 of 13"])
    exact = tool.Shown("resnext info x", ("25 M",), 0)
    assert tool.compare(exact, ["25 M"]) == []
    assert tool.compare(exact, ["26 M"]) == ["$ resnext info x", "- 25 M", "+ 26 M"]


@pytest.mark.slow
def test_the_outputs_of_one_run_have_the_shape_that_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNEXT_FAST", "1")  # as users run it: the timing is part of what is shown
    differences = [line for shown in SHOWN for line in tool.compare(shown, tool.run(shown, tmp_path))]
    assert differences == [], "\n".join(differences)
