"""``resnext bench``: its table of actions, and that their modules are imported only when used."""

import sys
from types import ModuleType

import pytest

from resnext.bench import train
from resnext.cli import main
from resnext.commands.bench import ACTIONS


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, train.Options]:
    """Replace the action ``train`` by one that records its options."""
    got: dict[str, train.Options] = {}
    module = ModuleType("resnext.bench.train")
    module.Options = train.Options  # type: ignore[attr-defined]
    module.ISA_CAPS, module.RECOMPUTE_LEVELS = {}, ()  # type: ignore[attr-defined]
    module.run = lambda options: got.update(options=options) or 0  # type: ignore[attr-defined]
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
    words: list[str], told: dict[str, train.Options]
) -> None:
    assert main(["bench", "train", *words]) == 0
    assert told["options"].rounds == 3
    assert told["options"].command == "resnext bench train --rounds 3"


@pytest.mark.parametrize(
    ("words", "says"),
    [(["trian"], "did you mean 'train'"), (["train", "--round", "3"], "did you mean '--rounds'"), ([], "ACTION")],
)
def test_a_wrong_request_is_one_sentence_and_status_2(
    words: list[str], says: str, told: dict[str, train.Options], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *words]) == 2
    assert says in capsys.readouterr().err
    assert not told
