"""Compare the layers of the three forms with Figure 3 of the paper."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnext.model.blocks import BLOCK_OF_FORM, BlockShape
from resnext.model.layers import NormAct

FIGURE_3 = BlockShape(in_channels=256, out_channels=256, cardinality=32, width=4)


def convolutions(module: nn.Module) -> list[tuple[int, str, int, int]]:
    return [
        (m.in_channels, "x".join(map(str, m.kernel_size)), m.out_channels, m.groups)
        for m in module.modules()
        if isinstance(m, nn.Conv2d)
    ]


def test_form_a_is_32_paths_of_three_convolutions() -> None:
    block = BLOCK_OF_FORM["branched"](FIGURE_3)
    assert len(block.paths) == 32
    for path in block.paths:
        assert convolutions(path) == [(256, "1x1", 4, 1), (4, "3x3", 4, 1), (4, "1x1", 256, 1)]
        assert [m.num_features for m in path.modules() if isinstance(m, NormAct)] == [4, 4]
    assert len(convolutions(block)) == 96
    assert block.bn3.num_features == 256


def test_form_b_is_32_paths_and_one_convolution() -> None:
    block = BLOCK_OF_FORM["concatenated"](FIGURE_3)
    assert len(block.paths) == 32
    for path in block.paths:
        assert convolutions(path) == [(256, "1x1", 4, 1), (4, "3x3", 4, 1)]
    assert convolutions(block)[-1] == (128, "1x1", 256, 1)
    assert len(convolutions(block)) == 65
    assert block.bn3.num_features == 256


def test_form_c_is_three_convolutions_of_which_one_is_grouped() -> None:
    block = BLOCK_OF_FORM["grouped"](FIGURE_3)
    assert convolutions(block) == [(256, "1x1", 128, 1), (128, "3x3", 128, 32), (128, "1x1", 256, 1)]


@pytest.mark.parametrize("form", BLOCK_OF_FORM)
def test_every_form_has_the_parameters_of_equation_4(form: str) -> None:
    block = BLOCK_OF_FORM[form](FIGURE_3)
    weights = sum(m.weight.numel() for m in block.modules() if isinstance(m, nn.Conv2d))
    assert weights == 32 * (256 * 4 + 3 * 3 * 4 * 4 + 4 * 256) == 70_144


@pytest.mark.parametrize("form", BLOCK_OF_FORM)
def test_a_basic_block_is_figure_4(form: str) -> None:
    s = BlockShape(in_channels=64, out_channels=64, cardinality=32, width=4, kind="basic")
    block = BLOCK_OF_FORM[form](s)
    expected = {
        "branched": [(64, "3x3", 4, 1), (4, "3x3", 64, 1)] * 32,
        "concatenated": [(64, "3x3", 4, 1)] * 32 + [(128, "3x3", 64, 1)],
        "grouped": [(64, "3x3", 128, 1), (128, "3x3", 64, 1)],
    }
    assert convolutions(block) == expected[form]


def bn(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
    return (x - mean) / (var + 1e-5).sqrt() * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)


def test_a_branched_block_is_its_formula() -> None:
    """y = ReLU(BN(sum_i T_i(x)) + P(x)): one BN on the sum, before the shortcut (Section 4)."""
    s = BlockShape(in_channels=6, out_channels=8, cardinality=3, width=2, stride=2)
    block = BLOCK_OF_FORM["branched"](s).double()
    for p in block.parameters():
        nn.init.normal_(p)
    x = torch.randn(4, 6, 5, 5, dtype=torch.float64)
    total = torch.zeros(4, 8, 3, 3, dtype=torch.float64)
    for path in block.paths:
        y = F.relu(bn(path.bn1, F.conv2d(x, path.conv1.weight)))
        y = F.relu(bn(path.bn2, F.conv2d(y, path.conv2.weight, stride=2, padding=1)))
        total += F.conv2d(y, path.conv3.weight)
    projection = bn(block.downsample[1], F.conv2d(x, block.downsample[0].weight, stride=2))
    torch.testing.assert_close(block(x), F.relu(bn(block.bn3, total) + projection))


@pytest.mark.parametrize("channels", [6, 8])
def test_a_pre_activation_block_is_its_formula(channels: int) -> None:
    """y = x + F(ReLU(BN(x))), or P(ReLU(BN(x))) where shapes change; nothing after the sum (He et al. 2016)."""
    s = BlockShape(in_channels=6, out_channels=channels, cardinality=2, width=3, pre_activation=True)
    block = BLOCK_OF_FORM["grouped"](s).double()
    for p in block.parameters():
        nn.init.normal_(p)
    x = torch.randn(4, 6, 5, 5, dtype=torch.float64)
    a = F.relu(bn(block.bn0, x))
    y = F.relu(bn(block.bn1, F.conv2d(a, block.conv1.weight)))
    y = F.relu(bn(block.bn2, F.conv2d(y, block.conv2.weight, padding=1, groups=2)))
    y = F.conv2d(y, block.conv3.weight)
    way = x if channels == 6 else F.conv2d(a, block.downsample[0].weight)
    torch.testing.assert_close(block(x), y + way)


def test_without_shortcut_a_block_is_not_residual() -> None:
    s = BlockShape(in_channels=4, out_channels=4, cardinality=1, width=2, shortcut="none")
    block = BLOCK_OF_FORM["grouped"](s)
    nn.init.zeros_(block.bn3.weight)
    assert not block(torch.randn(2, 4, 3, 3)).any()
