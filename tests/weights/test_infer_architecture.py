"""The architecture of a state dict: torchvision's and timm's networks are accepted exactly, or refused by name."""

import re
from typing import Any

import pytest
import timm
import torch
import torchvision.models
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from resnext.errors import RequestError
from resnext.model.architecture import Architecture
from resnext.model.network import Network
from resnext.weights.infer_architecture import infer_architecture
from tests.weights.adapters.adapter_helpers import get_error

TORCHVISION = torchvision.models.list_models(torchvision.models, include="*resne*t*")
TIMM = timm.list_models("*resne*t*")
# timm's networks whose difference (a pool without weights) is in no tensor; config.json's name refuses them
TRACELESS = ("resnetaa50", "resnetblur18", "resnetblur50")
PLAIN = re.compile(r"resnet\d+|resnext\d+_\d+x\d+d|wide_resnet\d+_2")


def on_meta(make: Any, *arguments: Any, **named: Any) -> dict[str, Tensor]:
    """The state dict of a network without memory."""
    with torch.device("meta"):
        model: nn.Module = make(*arguments, **named)
    return model.state_dict()


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize("name", TORCHVISION)
def test_every_network_of_torchvision_is_known_by_its_tensors(name: str) -> None:
    state = on_meta(torchvision.models.get_model, name)
    architecture = infer_architecture(state, "file")
    assert shapes(on_meta(Network, architecture)) == shapes(state)
    expected = {"wide_resnet50_2": "resnet50_1x128d", "wide_resnet101_2": "resnet101_1x128d"}.get(name, name)
    assert architecture == Architecture.parse(expected)


DEEP = re.compile(r"[a-z2_]*(1[05]\d|[234]\d\d)(?!x)")  # slow to build, and no other than their shallow kin


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * bool(DEEP.match(n))) for n in TIMM])
def test_every_network_of_timm_is_accepted_whole_or_refused_by_a_sentence(name: str) -> None:
    state = on_meta(timm.create_model, name)
    try:
        architecture = infer_architecture(state, "file")
    except RequestError as error:
        assert not PLAIN.fullmatch(name)
        assert str(error).startswith("file")
        assert len(str(error)) < 400
    else:
        assert PLAIN.fullmatch(name) or name in TRACELESS
        assert shapes(on_meta(Network, architecture)) == shapes(state)


OURS: list[tuple[str, dict[str, Any]]] = [
    ("resnext29_8x64d", {"num_classes": 10}),
    ("resnext29_2x4d", {"num_classes": 100, "pre_activation": True, "base_channels": 8}),
    ("resnext50_32x4d", {"in_channels": 1}),
    ("resnet18", {"num_classes": 7}),
    ("resnet50", {"num_classes": 0}),
    ("resnext11_2x4d", {"shortcut": "C", "blocks": (1, 2, 1)}),
    ("resnext11_2x4d", {"stage_widths": (8, 24, 40), "stage_channels": (20, 44, 88)}),
    ("resnext11_2-1-3x4d", {}),
    ("resnext11_2-1-3x4d", {"stage_widths": (8, 9, 15)}),
]


@pytest.mark.parametrize(("name", "changes"), OURS)
def test_our_own_networks_are_known_by_their_tensors(name: str, changes: dict[str, Any]) -> None:
    architecture = Architecture.parse(name, **changes)
    assert infer_architecture(on_meta(Network, architecture), "file") == architecture


def test_what_the_caller_knows_is_not_inferred() -> None:
    architecture = Architecture.parse("resnet29", shortcut="A", stride_in_1x1=True, bn_eps=1e-3)
    state = on_meta(Network, architecture)
    assert infer_architecture(state, "file", shortcut="A", stride_in_1x1=True, bn_eps=1e-3) == architecture
    with pytest.raises(RequestError, match=r"file has no projection layer2\.0\.downsample"):
        infer_architecture(state, "file")


def test_batch_counters_may_be_missing() -> None:
    state = on_meta(torchvision.models.resnet18)
    state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    assert infer_architecture(state, "file") == Architecture.parse("resnet18")


def tiny(**changes: Any) -> dict[str, Tensor]:
    return on_meta(Network, Architecture.parse("resnext11_2x4d", base_channels=4, num_classes=3, **changes))


def meta(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"conv1.weight": None}, "has no conv1.weight"),
        ({"conv1.weight": meta(4, 3, 5, 5)}, "a 5x5 convolution"),
        ({"conv1.weight": meta(4, 3, 3)}, "expected 4 sizes above 0"),
        ({"conv1.weight": meta(0, 3, 3, 3)}, "expected 4 sizes above 0"),
        ({"layer2.0.conv2.weight": meta(16, 7, 3, 3)}, "not a multiple of their 7 input channels"),
        ({"layer2.0.downsample.0.weight": None, "layer2.0.downsample.1.weight": None}, "layer2.0.downsample.0.weight"),
        ({"layer1.0.bn3.bias": None}, "1 missing (layer1.0.bn3.bias)"),
        ({"layer1.0.bn3.bias": meta(5)}, "layer1.0.bn3.bias has shape (5,)"),
        ({"layer1.0.bn4.bias": meta(5)}, "1 unknown (layer1.0.bn4.bias"),
        ({"layer5.0.conv1.weight": meta(5)}, "no parameters of layer4.0"),
        ({"layer1.2.conv1.weight": meta(5)}, "no parameters of layer1.1"),
        ({"layer0.0.conv1.weight": meta(5)}, "unknown (layer0.0.conv1.weight"),
        ({"bn1.running_mean": None}, "GroupNorm"),
        ({"layer1.0.se.fc1.weight": meta(1)}, "squeeze-and-excitation is not supported yet"),
        ({"layer1.0.se.conv.weight": meta(1)}, "efficient channel attention"),
        ({"conv1.0.weight": meta(1)}, "a deep stem"),
        ({"layer1.0.downsample.2.weight": meta(1)}, "average pooling in the shortcuts"),
        ({"maxpool.1.filt": meta(1)}, "against aliasing"),
        ({"layer1.0.conv2_offset.weight": meta(1)}, "deformable"),
        ({"stage2.0.branches.0.0.conv1.weight": meta(1)}, "HRNet"),
        ({"bridge.weight": meta(1)}, "1 unknown (bridge.weight"),
        ({"fc.weight": meta(3)}, "expected 2 sizes"),
    ],
)
def test_a_state_that_is_none_of_ours_says_why(changes: dict[str, Tensor | None], says: str) -> None:
    state = {name: tensor for name, tensor in (tiny() | changes).items() if tensor is not None}
    assert says in get_error(lambda: infer_architecture(state, "some/file.pth"))


@given(st.data())
def test_whatever_is_accepted_fits_our_network_exactly(data: st.DataObject) -> None:
    """Renamed, dropped and reshaped tensors: an error, or the state of the architecture that was inferred."""
    state = tiny()
    names = sorted(state)
    for name in data.draw(st.lists(st.sampled_from(names), max_size=3)):
        state.pop(name, None)
    shape = st.lists(st.integers(0, 40), max_size=4).map(tuple)
    state |= {name: meta(*size) for name, size in data.draw(st.dictionaries(st.sampled_from(names), shape)).items()}
    try:
        architecture = infer_architecture(state, "file")
    except RequestError as error:
        assert str(error).startswith("file")
    else:
        expected = shapes(on_meta(Network, architecture))
        assert shapes(state).items() <= expected.items()
        assert all(name.endswith("num_batches_tracked") for name in expected.keys() - state.keys())
