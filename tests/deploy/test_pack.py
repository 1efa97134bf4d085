"""Test that convolutions with packed groups compute the same."""

import pytest
import torch

from resnext.deploy.fold import fold
from resnext.deploy.pack import choose_factor, pack_groups
from tests.deploy.networks import images, lived


@pytest.mark.parametrize(
    ("groups", "channels", "wanted", "factor"), [(32, 4, 16, 4), (32, 4, 17, 8), (6, 3, 8, 3), (4, 2, 64, 4)]
)
def test_the_smallest_factor_that_is_enough(groups: int, channels: int, wanted: int, factor: int) -> None:
    assert choose_factor(groups, channels, wanted) == factor


def test_a_packed_network_is_the_same_function_with_wider_groups() -> None:
    folded = fold(lived().double())
    packed = pack_groups(folded, 16)
    x = images().double()
    torch.testing.assert_close(packed(x), folded(x), rtol=1e-11, atol=1e-11)
    assert min(layer.conv.weight.shape[1] for layer in packed.iter_convolutions() if layer.conv.groups > 1) >= 16
    assert max(layer.conv.groups for layer in folded.iter_convolutions()) == 4  # the original is left as it was
