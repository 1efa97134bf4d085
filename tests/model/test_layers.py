"""Compare the layers with PyTorch's own and with the release's definitions."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resnext.model.layers import GroupedConv2d, NormAct, PadShortcut, build_shortcut, conv2d


@pytest.mark.parametrize("act", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
def test_norm_act_is_batch_norm_then_sum_then_relu(act: bool, with_residual: bool) -> None:
    ours, plain = NormAct(3, act=act).double(), nn.BatchNorm2d(3).double()
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    residual = torch.randn(4, 3, 5, 5, dtype=torch.float64, requires_grad=True) if with_residual else None
    inputs = [t for t in (x, residual) if t is not None]
    expected = plain(x) + (0 if residual is None else residual)
    expected = F.relu(expected) if act else expected
    y = ours(x, residual)
    torch.testing.assert_close(y, expected)
    weights = torch.randn_like(y)
    for got, want in zip(
        torch.autograd.grad((y * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(got, want)
    assert ours.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(ours.running_var, plain.running_var)


def test_norm_act_leaves_its_inputs_as_they_were() -> None:
    x, residual = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    kept = x.clone(), residual.clone()
    NormAct(3)(x, residual)
    assert torch.equal(x, kept[0])
    assert torch.equal(residual, kept[1])


def test_a_grouped_convolution_splits_transforms_and_concatenates() -> None:
    layer = conv2d(6, 6, 3, stride=2, groups=3)
    assert isinstance(layer, GroupedConv2d)
    x = torch.randn(2, 6, 7, 7)
    paths = [
        F.conv2d(part, weight, stride=2, padding=1)
        for part, weight in zip(x.split(2, 1), layer.weight.split(2, 0), strict=True)
    ]
    torch.testing.assert_close(layer(x), torch.cat(paths, 1))


@pytest.mark.parametrize("side", [6, 7])
def test_shortcut_a_is_the_releases_strided_average_pool_with_zero_channels(side: int) -> None:
    x = torch.randn(2, 3, side, side)
    pooled = F.avg_pool2d(x, 1, stride=2)
    way = build_shortcut("A", 3, 8, 2)
    assert isinstance(way, PadShortcut)
    assert torch.equal(way(x), torch.cat([pooled, torch.zeros(2, 5, *pooled.shape[2:])], 1))


@pytest.mark.parametrize(
    ("kind", "channels", "stride", "expected"),
    [
        ("A", 4, 1, nn.Identity),
        ("A", 4, 2, PadShortcut),
        ("B", 4, 1, nn.Identity),
        ("B", 4, 2, nn.Sequential),
        ("B", 8, 1, nn.Sequential),
        ("C", 4, 1, nn.Sequential),
        ("none", 8, 2, type(None)),
    ],
)
def test_which_shortcut_projects(kind: str, channels: int, stride: int, expected: type) -> None:
    assert type(build_shortcut(kind, 4, channels, stride)) is expected


def test_a_projection_has_a_norm_but_not_before_pre_activation() -> None:
    with_norm, without = build_shortcut("B", 4, 8, 2), build_shortcut("B", 4, 8, 2, norm=False)
    assert isinstance(with_norm, nn.Sequential)
    assert isinstance(without, nn.Sequential)
    assert isinstance(with_norm[1], NormAct)
    assert not with_norm[1].act
    assert len(without) == 1
