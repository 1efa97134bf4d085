"""Compare whole networks with torchvision's and timm's; test feature maps, image sizes and random state."""

from collections.abc import Iterable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn
from torchvision.models.resnet import Bottleneck

from resnext.errors import RequestError
from resnext.model.architecture import Architecture
from resnext.model.complexity import complexity
from resnext.model.network import Network, convert_form, create_model
from resnext.model.stage_table import build_stage_table

TORCHVISION = {
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50",
    "resnext50_32x4d": "resnext50_32x4d",
    "resnet101": "resnet101",
    "resnext101_32x8d": "resnext101_32x8d",
    "resnext101_64x4d": "resnext101_64x4d",
    "wide_resnet50_2": "resnet50_1x128d",
}


def randomise(model: nn.Module) -> nn.Module:
    """Set weights and running statistics far from their initial values, so that every layer affects the output."""
    generator = torch.Generator().manual_seed(5)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var") or ("bn" in name and name.endswith("weight")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith(("running_mean", "bias")):
            tensor.uniform_(-0.5, 0.5, generator=generator)
    return model


def assert_takes_over(theirs: nn.Module, ours: Network) -> None:
    randomise(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for training in (False, True):
        theirs.train(training)
        ours.train(training)
        with torch.no_grad():
            torch.testing.assert_close(ours(images), theirs(images), rtol=1e-5, atol=1e-5)
    for key, tensor in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], tensor)


def mark_large(names: Iterable[str], small: tuple[str, ...]) -> list[Any]:
    return [pytest.param(name, marks=() if name in small else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("theirs", mark_large(TORCHVISION, ("resnet18", "resnet50", "resnext50_32x4d")))
def test_torchvision_weights_load_strictly_and_give_equal_outputs(theirs: str) -> None:
    assert_takes_over(torchvision.models.get_model(theirs), create_model(TORCHVISION[theirs], seed=0))


@pytest.mark.parametrize("theirs", mark_large(("resnext50_32x4d", "resnext101_32x4d"), ("resnext50_32x4d",)))
def test_timm_weights_load_strictly_and_give_equal_outputs(theirs: str) -> None:
    assert_takes_over(timm.create_model(theirs), create_model(theirs, seed=0))


@pytest.mark.parametrize("theirs", TORCHVISION)
def test_parameters_have_torchvisions_names_shapes_and_order(theirs: str) -> None:
    with torch.device("meta"):
        expected = torchvision.models.get_model(theirs).state_dict()
        state = create_model(TORCHVISION[theirs]).state_dict()
    assert [(k, v.shape, v.dtype) for k, v in state.items()] == [(k, v.shape, v.dtype) for k, v in expected.items()]


@pytest.mark.parametrize("theirs", ["resnext50_32x4d", "resnext101_32x4d"])
def test_parameters_have_timms_names_and_shapes(theirs: str) -> None:
    with torch.device("meta"):
        expected = timm.create_model(theirs).state_dict()
        state = create_model(theirs).state_dict()
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in expected.items()}


TINY = {"blocks": (1, 1, 1), "cardinality": 2, "width": 2, "base_channels": 8, "num_classes": 5}


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (65, 40)])
def test_imagenet_features_have_torchvisions_values_at_any_size(size: tuple[int, int]) -> None:
    theirs = torchvision.models.resnet18(num_classes=5).eval()
    ours = create_model("resnet18", num_classes=5).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, *size)
    nodes = {"layer1": "C2", "layer2": "C3", "layer3": "C4", "layer4": "C5", "flatten": "pooled"}
    expected = torchvision.models.feature_extraction.create_feature_extractor(theirs, nodes)(images)
    features = ours.features(images)
    assert list(features) == ["C2", "C3", "C4", "C5", "pooled"]
    for name, tensor in expected.items():
        torch.testing.assert_close(features[name], tensor)
    torch.testing.assert_close(ours.fc(features["pooled"]), ours(images))


@pytest.mark.parametrize("pre_activation", [False, True])
@pytest.mark.parametrize("side", [4, 5, 7, 28, 31])
def test_a_cifar_network_takes_any_size_its_strides_allow(side: int, pre_activation: bool) -> None:
    model = create_model("resnet29", pre_activation=pre_activation, in_channels=1, **TINY)
    images = torch.randn(3, 1, side, side + 2)
    features = model.features(images, ["C4", "C2"])
    assert list(features) == ["C4", "C2"]
    assert features["C2"].shape == (3, 32, side, side + 2)
    assert features["C4"].shape == (3, 128, -(-side // 4), -(-(side + 2) // 4))
    assert model(images).shape == (3, 5)


def test_features_compute_nothing_beyond_the_deepest_asked_for() -> None:
    model = create_model("resnet29", **TINY)
    model.get_submodule("layer2").register_forward_pre_hook(lambda *_: pytest.fail("C3 was not asked for"))
    assert list(model.features(torch.randn(2, 3, 8, 8), "C2")) == ["C2"]


def test_pooled_features_of_pre_activation_are_what_the_classifier_sees() -> None:
    model = create_model("resnet29", pre_activation=True, **TINY).eval()
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(model.fc(model.features(images)["pooled"]), model(images))


def test_an_unknown_feature_is_named() -> None:
    with pytest.raises(RequestError, match=r"no features 'C6'.*C4"):
        create_model("resnet29", **TINY).features(torch.randn(1, 3, 8, 8), ["C6"])


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((2, 1, 8, 8), r"\[batch, 3, height, width\], not \[2, 1, 8, 8\]"),
        ((3, 8, 8), r"not \[3, 8, 8\]"),
        ((2, 3, 3, 8), "3x8 is too small.*at least 4"),
    ],
)
def test_an_input_that_does_not_fit_is_one_clear_sentence(shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        create_model("resnet29", **TINY)(torch.zeros(shape))


def test_a_seed_decides_the_weights_and_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, two, three = (create_model("resnet29", seed=s, **TINY).state_dict() for s in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["conv1.weight"], three["conv1.weight"])


def test_without_a_seed_weights_follow_the_global_random_state() -> None:
    torch.manual_seed(1)
    one, two = create_model("resnet29", **TINY), create_model("resnet29", **TINY)
    torch.manual_seed(1)
    again = create_model("resnet29", **TINY)
    assert torch.equal(one.fc.weight, again.fc.weight)
    assert not torch.equal(one.fc.weight, two.fc.weight)


def test_a_network_can_be_built_without_weights() -> None:
    with torch.device("meta"):
        model = create_model("resnext101_32x48d", form="branched", seed=1)
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_changes_reach_an_architecture_too_and_a_new_network_knows_no_data() -> None:
    model = create_model(Architecture(blocks=(1,), stem="cifar", base_channels=4), num_classes=7)
    assert model.fc.out_features == 7
    assert model.preprocessing is None
    assert model.classes is None


@pytest.mark.parametrize("shortcut", ["A", "B", "C", "none"])
@pytest.mark.parametrize("form", ["grouped", "concatenated", "branched"])
def test_every_parameter_gets_a_gradient(shortcut: str, form: str) -> None:
    for block in ("bottleneck", "basic"):
        for pre_activation in (False, True):
            model = create_model(
                "resnet29", shortcut=shortcut, form=form, block=block, pre_activation=pre_activation, seed=0, **TINY
            )
            model(torch.randn(4, 3, 8, 8)).square().sum().backward()
            assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("form", ["grouped", "concatenated", "branched"])
def test_a_stride_in_the_1x1_is_caffes_network(form: str) -> None:
    """Compare with torchvision's network after its strides are moved to the first 1x1, as in Caffe's ResNets."""
    reference = torchvision.models.ResNet(Bottleneck, [1, 2, 1, 1], 5, groups=2, width_per_group=8).eval()
    for module in reference.modules():
        if isinstance(module, Bottleneck) and module.stride == 2:
            module.conv1.stride, module.conv2.stride = (2, 2), (1, 1)
    changes = {"blocks": (1, 2, 1, 1), "cardinality": 2, "width": 8, "num_classes": 5, "stride_in_1x1": True}
    ours = create_model("resnet50", **changes).eval()
    ours.load_state_dict(reference.state_dict())
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(convert_form(ours, form)(x), reference(x), rtol=1e-4, atol=1e-5)


def test_bn_eps_reaches_every_bn_and_the_shortcuts() -> None:
    model = create_model("resnet11_1x8d", bn_eps=1e-3, base_channels=4, blocks=(1, 1))
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 9
    assert {norm.eps for norm in norms} == {1e-3}


def test_without_classes_a_network_ends_in_its_pooled_features() -> None:
    model = create_model("resnext11_2x4d", base_channels=4, num_classes=0, seed=0).eval()
    x = torch.randn(2, 3, 16, 16)
    assert model(x).shape == (2, 64)
    assert torch.equal(model(x), model.features(x, "pooled")["pooled"])
    assert not any(name.startswith("fc") for name in model.state_dict())
    assert complexity(model).macs == complexity(model.architecture).macs > 0
    assert build_stage_table(model.architecture)[-1].stage == "conv4"


@pytest.mark.parametrize("changes", [{}, {"pre_activation": True}])
def test_timms_names_give_features_head_and_another_classifier(changes: dict[str, Any]) -> None:
    network = create_model("resnext11_2x4d", base_channels=4, num_classes=3, seed=0, **changes).eval()
    network.classes = ("a", "b", "c")
    images = torch.randn(2, 3, 32, 32)
    maps = network.forward_features(images)
    assert maps.shape == (2, network.num_features, 8, 8)
    assert torch.equal(network.forward_head(maps), network(images))
    pooled = network.forward_head(maps, pre_logits=True)
    assert torch.equal(pooled, network.features(images, "pooled")["pooled"])
    network.reset_classifier(5, seed=1)
    assert network(images).shape == (2, 5)
    assert (network.architecture.num_classes, network.classes) == (5, None)
    fresh = create_model(network.architecture, seed=2).fc
    assert network.fc.weight.std().item() == pytest.approx(fresh.weight.std().item(), rel=0.2)
    assert not network.fc.bias.any()
    network.reset_classifier(0)
    assert torch.equal(network(images), pooled)
