"""Tests of torch.fx: a traced network computes the same, and torchvision's feature extractor takes it."""

import copy
from typing import Any

import pytest
import torch
import torch.fx
from torchvision.models.feature_extraction import create_feature_extractor

from resnext.model.network import create_model
from resnext.model.plan import Plan, fuse_all
from resnext.speed.convolution import ConvAlgorithms


@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pre_activation": True},
        {"shortcut": "A"},
        {"form": "branched"},
        {"form": "concatenated"},
        {"block": "basic"},
    ],
    ids=str,
)
def test_a_network_traced_by_torch_fx_computes_the_same(changes: dict[str, Any], is_training: bool) -> None:
    network = create_model("resnext11_2x4d", base_channels=4, num_classes=3, seed=0, blocks=[1, 2, 1], **changes)
    traced = torch.fx.symbolic_trace(copy.deepcopy(network.train(is_training)))
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(traced(images), network(images))
    for name, buffer in network.named_buffers():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(buffer, traced.get_buffer(name)), name


def test_a_network_with_a_plan_is_traced_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNEXT_FAST", "1")
    network = create_model("resnext11_2x4d", base_channels=4, num_classes=3, stem="cifar", seed=0)
    plan = fuse_all(network, Plan({"layer1.0.conv2": ConvAlgorithms("pack2", "pack2", "pack2")}))
    plan.apply(network)
    images = torch.randn(2, 3, 32, 32)
    for is_training in (True, False):
        traced = torch.fx.symbolic_trace(copy.deepcopy(network.train(is_training)))
        torch.testing.assert_close(traced(images), network(images))
    found = create_feature_extractor(network.eval(), {"layer1": "C2"})(images)["C2"]
    torch.testing.assert_close(found, network.features(images, ["C2"])["C2"])


def test_torchvisions_feature_extractor_gives_our_feature_maps() -> None:
    network = create_model("resnext11_2x4d", base_channels=4, num_classes=3, seed=0).eval()
    images = torch.randn(2, 3, 32, 32)
    found = create_feature_extractor(network, {"layer1": "C2", "layer3": "C4"})(images)
    expected = network.features(images, ["C2", "C4"])
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
