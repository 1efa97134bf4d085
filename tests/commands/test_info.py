"""The command line of ``resnext info``."""

from functools import partial

import pytest

from resnext.commands import info
from resnext.errors import RequestError
from tests.commands.conftest import run_command

run = partial(run_command, info)


def test_it_prints_table_1_and_the_totals(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("resnext50_32x4d") == 0
    out = capsys.readouterr().out
    assert "56x56    3x3 max pool, stride 2" in out
    assert "[1x1,128; 3x3,128,C=32; 1x1,256] x3" in out
    assert "parameters   25,028,904" in out
    assert "without BN   24,960,680" in out
    assert "MACs         4,230,479,872" in out
    assert "1 MAC = 2 FLOPs" in out
    assert all(len(line) <= 80 for line in out.splitlines())


def test_a_cifar_network_is_the_papers_34_million(capsys: pytest.CaptureFixture[str]) -> None:
    run("resnext29_8x64d", "--set", "form=branched")
    out = capsys.readouterr().out
    assert "(form=branched): 32x32 images of 3 channels, 10 classes" in out
    assert "without BN   34,369,226" in out


def test_fields_and_size_can_be_set_and_layers_listed(capsys: pytest.CaptureFixture[str]) -> None:
    run("resnext29_2x4d", "--set", "blocks=1,1", "--set", "num_classes=7", "--image-size", "20", "--layers")
    out = capsys.readouterr().out
    assert "resnext8_2x4d (blocks=1-1): 20x20 images of 3 channels, 7 classes" in out
    assert "layer2.0.conv2" in out
    assert "GroupedConv2d" in out


@pytest.mark.parametrize(
    ("pairs", "changes"),
    [
        (["num_classes=10"], {"num_classes": 10}),
        (["blocks=1,1,1", "pre_activation=true"], {"blocks": [1, 1, 1], "pre_activation": True}),
        (["stage_widths=[8, 16]"], {"stage_widths": [8, 16]}),
        (["shortcut=none"], {"shortcut": "none"}),
    ],
)
def test_changes_are_read_as_written(pairs: list[str], changes: dict[str, object]) -> None:
    assert info.parse_changes(pairs) == changes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resnext50"], "did you mean 'resnext50_32x4d'"),
        (["resnext50_32x4d", "--set", "fom=branched"], "did you mean 'form'"),
        (["resnext50_32x4d", "--set", "form"], "must look like field=value"),
        (["resnext50_32x4d", "--set", "blocks=[1,"], "cannot be read"),
        (["resnext50_32x4d", "--set", "blocks={a: 1}"], "blocks must be a whole number"),
        (["resnext50_32x4d", "--set", "num_classes=many"], "num_classes must be a whole number"),
        (["resnext50_32x4d", "--image-size", "31"], "at least 32"),
        (["resnext50_32x4d", "--image-size", "0"], "image_size must be"),
    ],
)
def test_a_wrong_request_is_one_clear_sentence(words: list[str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        run(*words)
