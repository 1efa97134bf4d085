"""Compare the stage table with the paper's Table 1."""

import pytest

from resnext.model.architecture import Architecture
from resnext.model.complexity import complexity
from resnext.model.stage_table import build_stage_table, format_count, parse_paper_architecture


def test_table_1_of_the_paper() -> None:
    rows = build_stage_table(Architecture.parse("resnext50_32x4d"))
    assert [(row.stage, row.output, row.layers) for row in rows] == [
        ("conv1", "112x112", "7x7,64, stride 2"),
        ("conv2", "56x56", "3x3 max pool, stride 2\n[1x1,128; 3x3,128,C=32; 1x1,256] x3"),
        ("conv3", "28x28", "[1x1,256; 3x3,256,C=32; 1x1,512] x4"),
        ("conv4", "14x14", "[1x1,512; 3x3,512,C=32; 1x1,1024] x6"),
        ("conv5", "7x7", "[1x1,1024; 3x3,1024,C=32; 1x1,2048] x3"),
        ("", "1x1", "global average pool; 1000-d fc"),
    ]
    assert build_stage_table(Architecture.parse("resnet50"))[2].layers == "[1x1,128; 3x3,128; 1x1,512] x4"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pre_activation": True},
        {"block": "basic", "form": "branched"},
        {"form": "concatenated"},
        {"stem": "imagenet"},
    ],
)
def test_the_rows_add_up_to_the_network(changes: dict[str, object]) -> None:
    a = Architecture.parse("resnext29_4x8d", blocks=(1, 2), **changes)
    rows, cost = build_stage_table(a), complexity(a)
    assert sum(row.parameters for row in rows) == cost.parameters
    assert sum(row.macs for row in rows) == cost.macs


@pytest.mark.parametrize(
    ("form", "block", "layers"),
    [
        ("branched", "bottleneck", "[4 paths of 1x1,8; 3x3,8; 1x1,256\nsummed] x1"),
        ("concatenated", "bottleneck", "[4 paths of 1x1,8; 3x3,8\nconcatenated; 1x1,256] x1"),
        ("branched", "basic", "[4 paths of 3x3,8; 3x3,64\nsummed] x1"),
        ("grouped", "basic", "[3x3,32; 3x3,64] x1"),
    ],
)
def test_each_form_is_told_as_it_is_computed(form: str, block: str, layers: str) -> None:
    a = Architecture.parse("resnext29_4x8d", blocks=(1,), form=form, block=block)
    assert build_stage_table(a)[1].layers == layers


@pytest.mark.parametrize(
    ("count", "text"),
    [(25_028_904, "25.03M"), (4_230_479_872, "4.230G"), (153_310_199_808, "153.3G"), (999, "999"), (1000, "1.000k")],
)
def test_counts_have_four_digits(count: int, text: str) -> None:
    assert format_count(count) == text


def test_cifar_networks_are_shown_with_ten_classes() -> None:
    assert parse_paper_architecture("resnext29_8x64d").num_classes == 10
    assert parse_paper_architecture("resnext29_8x64d", num_classes=100).num_classes == 100
    assert parse_paper_architecture("resnext50_32x4d").num_classes == 1000
