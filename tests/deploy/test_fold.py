"""Test that folding BN keeps the function, in float64 for every kind of network, and against torchvision."""

import pytest
import torch
import torchvision
from torch import nn

from resnext import RequestError, create_model
from resnext.deploy.fold import fold
from tests.deploy.networks import images, lived

KINDS = {
    "grouped": {},
    "concatenated": {"form": "concatenated"},
    "branched": {"form": "branched"},
    "pre-activation": {"pre_activation": True},
    "shortcut A": {"shortcut": "A"},
    "shortcut C": {"shortcut": "C"},
    "no shortcut": {"shortcut": "none"},
    "pre-activation with shortcut A": {"pre_activation": True, "shortcut": "A"},
    "grey": {"in_channels": 1},
    "no head": {"num_classes": 0},
    "stride in 1x1": {"stride_in_1x1": True},
    "wider eps": {"bn_eps": 1e-3},
}


@pytest.mark.parametrize("kind", KINDS)
def test_folded_network_is_the_same_function_in_float64(kind: str) -> None:
    network = lived(**KINDS[kind]).double()
    x = images(channels=network.architecture.in_channels).double()
    folded = fold(network)
    with torch.no_grad():
        torch.testing.assert_close(folded(x), network(x), rtol=1e-11, atol=1e-11)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


@pytest.mark.parametrize("pre_activation", [False, True])
def test_basic_blocks_fold_too(pre_activation: bool) -> None:
    network = lived("resnet18", pre_activation=pre_activation).double()
    x = images(2, 64).double()
    with torch.no_grad():
        torch.testing.assert_close(fold(network)(x), network(x), rtol=1e-11, atol=1e-11)


def test_folded_resnext50_gives_torchvisions_logits() -> None:
    theirs = torchvision.models.resnext50_32x4d(num_classes=20).eval()
    ours = create_model("resnext50_32x4d", num_classes=20)
    ours.load_state_dict(theirs.state_dict())
    x = images(2, 64)
    with torch.no_grad():
        torch.testing.assert_close(fold(ours.eval())(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_folding_leaves_the_network_as_it_was_and_shares_no_memory_with_it() -> None:
    network = lived()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    folded = fold(network)
    for parameter in folded.parameters():
        parameter.data.fill_(7)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert not any(parameter.requires_grad for parameter in folded.parameters())


def test_a_foreign_model_is_refused() -> None:
    with pytest.raises(RequestError, match="only networks of this package can be folded, not a Linear"):
        fold(nn.Linear(2, 2))  # type: ignore[arg-type]
