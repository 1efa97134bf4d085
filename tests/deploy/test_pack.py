"""Test that convolutions with packed groups compute the same."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from resnext import RequestError
from resnext.deploy.fold import fold
from resnext.deploy.pack import build_block_diagonal, choose_factor, pack_groups
from tests.deploy.networks import images, lived


def test_a_weight_made_by_hand() -> None:
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1, 1)  # four groups of one channel
    by_two = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [0.0, 4.0]])
    assert torch.equal(build_block_diagonal(weight, 4, 2)[..., 0, 0], by_two)
    assert torch.equal(build_block_diagonal(weight, 4, 4)[..., 0, 0], torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0])))


@settings(deadline=None, max_examples=60)
@given(
    groups=st.integers(1, 12),
    inputs=st.integers(1, 4),
    outputs=st.integers(1, 4),
    kernel=st.sampled_from([1, 3]),
    stride=st.integers(1, 3),
    side=st.integers(1, 7),
    data=st.data(),
)
def test_packed_convolution_equals_the_grouped_one(groups, inputs, outputs, kernel, stride, side, data) -> None:
    factor = data.draw(st.sampled_from([f for f in range(1, groups + 1) if groups % f == 0]))
    generator = torch.Generator().manual_seed(groups + 13 * side)
    weight = torch.randn(groups * outputs, inputs, kernel, kernel, generator=generator).double()
    x = torch.randn(2, groups * inputs, side, side, generator=generator).double()
    plain = F.conv2d(x, weight, stride=stride, padding=kernel // 2, groups=groups)
    packed = build_block_diagonal(weight, groups, factor)
    y = F.conv2d(x, packed, stride=stride, padding=kernel // 2, groups=groups // factor)
    torch.testing.assert_close(y, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("groups", "channels", "wanted", "factor"), [(32, 4, 16, 4), (32, 4, 17, 8), (6, 3, 8, 3)])
def test_the_smallest_factor_that_is_enough(groups: int, channels: int, wanted: int, factor: int) -> None:
    assert choose_factor(groups, channels, wanted) == factor


def test_groups_too_few_for_the_wish_are_all_packed() -> None:
    assert choose_factor(4, 2, 64) == 4


def test_a_factor_that_does_not_divide_is_refused() -> None:
    with pytest.raises(RequestError, match="4 groups of 8 output channels cannot be packed by 3"):
        build_block_diagonal(torch.zeros(8, 1, 1, 1), 4, 3)


def test_a_packed_network_is_the_same_function_with_wider_groups() -> None:
    folded = fold(lived().double())
    packed = pack_groups(folded, 16)
    x = images().double()
    torch.testing.assert_close(packed(x), folded(x), rtol=1e-11, atol=1e-11)
    assert min(layer.conv.weight.shape[1] for layer in packed.iter_convolutions() if layer.conv.groups > 1) >= 16
    assert max(layer.conv.groups for layer in folded.iter_convolutions()) == 4  # the original is left as it was
