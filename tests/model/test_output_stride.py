"""Tests of dilated networks (output_stride), against torchvision and timm."""

import copy
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

import resnext
from resnext.deploy.fold import fold
from resnext.errors import RequestError
from resnext.model.architecture import Architecture
from resnext.model.network import convert_form, create_model
from tests.serving.fakes import make_preprocessing


def randomise(network: nn.Module) -> None:
    """Give BN other values than those of a new network."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.weight, 0.5, 1.0)


@pytest.mark.parametrize(("output_stride", "replaced"), [(16, (False, False, True)), (8, (False, True, True))])
def test_the_maps_are_those_of_torchvisions_dilated_network(output_stride: int, replaced: tuple[bool, ...]) -> None:
    ours = create_model("resnext50_32x4d", num_classes=5, seed=0, output_stride=output_stride).eval()
    randomise(ours)
    theirs = torchvision.models.resnext50_32x4d(num_classes=5, replace_stride_with_dilation=list(replaced)).eval()
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        maps = ours.forward_features(images)
        assert maps.shape == (1, 2048, 96 // output_stride, 64 // output_stride)
        assert torch.allclose(ours(images), theirs(images), rtol=1e-4, atol=1e-5)
    assert ours.architecture.stride == output_stride


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_maps_are_those_of_timms_dilated_network(name: str) -> None:
    theirs = timm.create_model(name, pretrained=False, num_classes=5, output_stride=8).eval()
    randomise(theirs)
    ours = create_model(name, num_classes=5, output_stride=8).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(ours.forward_features(images), theirs.forward_features(images), rtol=1e-4, atol=1e-5)


def test_a_dilated_network_is_one_function_in_all_forms_and_when_folded() -> None:
    network = create_model("resnext11_2x4d", base_channels=8, num_classes=3, seed=0, output_stride=2).double().eval()
    randomise(network)
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    expected = network(images)
    for form in ("concatenated", "branched"):
        assert torch.allclose(convert_form(network, form)(images), expected)
    assert torch.allclose(fold(copy.deepcopy(network))(images), expected)


def test_weights_keep_their_strides_and_get_others_when_loaded(tmp_path: Path) -> None:
    network = create_model("resnext11_2x4d", base_channels=8, num_classes=3, seed=0).eval()
    network.preprocessing = make_preprocessing(image_size=32, resize=32)
    plain, dilated = tmp_path / "plain.safetensors", tmp_path / "dilated.safetensors"
    resnext.save(network, plain)
    wide = resnext.load(plain, output_stride=1)
    assert (wide.architecture.stride, wide.architecture.name) == (
        1,
        "resnext11_2x4d (base_channels=8, output_stride=1)",
    )
    resnext.save(wide, dilated)
    again = resnext.load(dilated)
    assert again.architecture == wide.architecture
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(again(images), wide(images))
    assert resnext.load(dilated, output_stride=4).architecture == network.architecture


def test_an_impossible_output_stride_names_the_possible_ones() -> None:
    for value in (3, 64, 2, True, "8"):
        with pytest.raises(RequestError, match="must be one of 4, 8, 16, 32, not"):
            Architecture.parse("resnet50", output_stride=value)
    assert Architecture.parse("resnet50", output_stride=32) == Architecture.parse("resnet50")
