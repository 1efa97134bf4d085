"""The command line of ``resnext models``."""

from functools import partial

import pytest

from resnext.commands import models
from resnext.errors import RequestError
from tests.commands.conftest import run_command

run = partial(run_command, models)


def test_a_pattern_lists_networks_with_their_costs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("resnext29_8*") == 0
    (row,) = (line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(" resnext29"))
    assert row == ["resnext29_8x64d", "32x32", "10", "34.43M", "34.37M", "5.39", "8.585M"]


def test_multiply_adds_are_called_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    run("resnext50_32x4d")
    assert "GMACs: 1 MAC = 2 FLOPs; the paper's FLOPs are MACs" in capsys.readouterr().out


def test_a_pattern_without_match_names_the_nearest() -> None:
    with pytest.raises(RequestError, match=r"no named network matches 'resnext50_32x4'.*resnext50_32x4d"):
        run("resnext50_32x4")
