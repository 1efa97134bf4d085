"""``resnext bench``: its table of actions, and that their modules are imported only when used."""

import argparse
import sys
from types import ModuleType

import pytest

from resnext.cli import main
from resnext.commands.bench import ACTIONS


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, argparse.Namespace]:
    """Replace the action ``train`` by one that records its arguments."""
    got: dict[str, argparse.Namespace] = {}
    module = ModuleType("resnext.bench.train")
    module.add_arguments = lambda parser: parser.add_argument("--rounds", type=int)  # type: ignore[attr-defined]
    module.run = lambda args: got.update(args=args) or 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "resnext.bench.train", module)
    return got


def test_help_lists_every_action_and_imports_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ACTIONS:
        monkeypatch.setitem(sys.modules, f"resnext.bench.{name}", None)  # an import would fail
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in ACTIONS)


@pytest.mark.parametrize("words", [["--rounds", "3"], ["--rounds", "3", "--out", "x"], ["--out=x", "--rounds", "3"]])
def test_the_action_runs_with_its_arguments_and_the_command_that_repeats_it(
    words: list[str], told: dict[str, argparse.Namespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["resnext.bench.train"]
    both = lambda p: (p.add_argument("--rounds", type=int), p.add_argument("--out"))  # noqa: E731
    monkeypatch.setattr(module, "add_arguments", both)
    assert main(["bench", "train", *words]) == 0
    assert told["args"].rounds == 3
    assert told["args"].command == "resnext bench train --rounds 3"


@pytest.mark.parametrize(
    ("words", "says"),
    [(["trian"], "did you mean 'train'"), (["train", "--round", "3"], "did you mean '--rounds'"), ([], "ACTION")],
)
def test_a_wrong_request_is_one_sentence_and_status_2(
    words: list[str], says: str, told: dict[str, argparse.Namespace], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *words]) == 2
    assert says in capsys.readouterr().err
    assert not told
