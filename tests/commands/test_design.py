"""The command line of ``resnext design``."""

import argparse
import re
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnext.cli import main
from resnext.commands import design
from resnext.errors import RequestError
from tests.commands.conftest import run_command

run = partial(run_command, design)


def rows(out: str) -> list[list[str]]:
    return [line.split() for line in out.splitlines() if re.match(r" [ >] +resne", line)]


def test_without_a_request_it_prints_table_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    table = rows(capsys.readouterr().out)
    assert [row[1:5] for row in table] == [
        ["1", "64", "64", "69.63k"],
        ["2", "40", "80", "69.76k"],
        ["4", "24", "96", "69.89k"],
        ["8", "14", "112", "71.46k"],
        ["32", "4", "128", "70.14k"],
    ]
    assert table[-1] == ["resnext50_32x4d", "32", "4", "128", "70.14k", "25.03M", "4.230G"]


def test_a_budget_is_solved_and_shown_with_its_neighbours(capsys: pytest.CaptureFixture[str]) -> None:
    run("--depth", "101", "--cardinality", "64", "--macs", "15.46G")
    table = rows(capsys.readouterr().out)
    assert [row[-7] for row in table] == ["resnext101_64x3d", "resnext101_64x4d", "resnext101_64x5d"]
    assert [row[0] for row in table].count(">") == 1
    assert table[1][0] == ">"


def test_the_cardinality_can_be_solved(capsys: pytest.CaptureFixture[str]) -> None:
    run("--depth", "29", "--width", "64", "--parameters", "34.4M")
    assert capsys.readouterr().out.startswith("resnext29_8x64d\n")


def test_a_table_takes_one_more_cardinality(capsys: pytest.CaptureFixture[str]) -> None:
    run("--table", "--cardinality", "16", "--set", "num_classes=10")
    assert [row[1] for row in rows(capsys.readouterr().out)] == ["1", "2", "4", "8", "16", "32"]


@pytest.mark.parametrize(
    ("text", "amount"),
    [("4.1G", 4.1e9), ("25M", 25e6), ("70k", 70e3), ("25,028,904", 25_028_904), ("4e9", 4e9), (" 3 g ", 3e9)],
)
def test_amounts_are_read_as_people_write_them(text: str, amount: float) -> None:
    assert design.parse_amount(text) == pytest.approx(amount, rel=1e-12)


@given(st.text(max_size=12))
def test_any_text_is_an_amount_above_zero_or_one_clear_sentence(text: str) -> None:
    try:
        assert design.parse_amount(text) > 0
    except RequestError as error:
        assert "such as 4.1G" in str(error)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--macs", "4.1X"], "'4.1X' is not an amount"),
        (["--cardinality", "32", "--macs", "1M"], "the smallest, resnext50_32x1d, has 1,374,060,544"),
        (["--cardinality", "32", "--width", "4"], "either cardinality .* or width"),
        (["--macs", "4G", "--parameters", "25M"], "not both"),
        (["--width", "4", "--table"], "takes no --width"),
        (["--set", "depth=101"], "use --depth instead of --set depth"),
        (["--depth", "51"], "not 9n"),
    ],
)
def test_a_wrong_request_is_one_clear_sentence(words: list[str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        run(*words)


CIFAR = ("--set", "stem=cifar", "--set", "base_channels=4", "--depth", "11")


def test_latency_is_designed_for_by_measurement(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--latency", "1000", "--engine", "pytorch", "--cardinality", "2", "--measurements", "2")
    assert main(["design", *CIFAR, *words]) == 0
    said = capsys.readouterr()
    first = said.out.splitlines()[1]
    assert first.lstrip().startswith(">")
    assert "resnext11_2x" in first
    assert "fp32 on pytorch" in first
    assert "1 of at most 2: resnext11_2x" in said.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--latency", "1", "--width", "4"], "leave out --width"),
        (["--latency", "1", "--macs", "4G"], "leave out --macs"),
        (["--latency", "1", "--table"], "leave out --table"),
        (["--latency", "0"], "a latency must be a number of milliseconds above 0, not 0"),
        (["--latency", "1", "--measurements", "0"], "must be at least 1, not 0 and 1"),
        (["--latency", "1", "--engine", "openvin"], "did you mean 'openvino'"),
        (["--engine", "openvino"], "--engine belongs to --latency"),
        ([*CIFAR, "--cardinality", "1", "--latency", "1e-6", "--measurements", "1", "--engine", "pytorch"],
         "no network holds 1e-06 ms here: the fastest of 1 measured"),
    ],
)  # fmt: skip
def test_a_latency_that_cannot_be_designed_for_is_one_sentence(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["design", *words]) == 2
    assert says in capsys.readouterr().err


def test_a_cifar_network_has_the_papers_depth_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--set", "stem=cifar", "--cardinality", "8", "--macs", "0.75G") == 0
    assert capsys.readouterr().out.startswith("resnext29_8x")


def test_a_latency_needs_no_depth_for_a_cifar_network(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def table(args: argparse.Namespace, changes: dict[str, object]) -> str:
        asked.update(changes, depth=args.depth)
        return ""

    monkeypatch.setattr(design, "build_latency_table", table)
    assert run("--latency", "5", "--set", "stem=cifar") == 0
    assert asked == {"stem": "cifar", "num_classes": 10, "depth": None}


def test_blocks_give_the_depth(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--set", "blocks=[2, 2, 2, 2]", "--cardinality", "8") == 0
    assert capsys.readouterr().out.startswith("resnext26_8x")
    assert run("--set", "stem=cifar", "--set", "blocks=[1, 1, 1]", "--cardinality", "8") == 0
    assert capsys.readouterr().out.startswith("resnext11_8x")
