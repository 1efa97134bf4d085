"""Finding the weights in a file: wrappers, prefixes, NumPy arrays, and what is neither."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

import resnext
from resnext.errors import RequestError
from resnext.model.architecture import Architecture
from resnext.model.network import Network, create_model
from resnext.weights.adapters import transformers
from resnext.weights.adapters.detectron2 import to_detectron2
from resnext.weights.adapters.registry import adapt
from resnext.weights.adapters.timm import to_timm
from resnext.weights.build import build_network
from resnext.weights.network_spec import RawCheckpoint
from tests.weights.adapters.adapter_helpers import copy_state, get_error, make_raw, randomize

ARCHITECTURE = Architecture.parse("resnext11_2x4d", base_channels=4, num_classes=3)


def network(seed: int = 0) -> Network:
    return randomize(create_model(ARCHITECTURE, seed=seed), seed)  # type: ignore[return-value]


def same(value: Any, model: Network) -> tuple[str, ...]:
    """Loads ``value``, compares every tensor, returns the notes."""
    contents = adapt(make_raw(value))
    assert contents.architecture == ARCHITECTURE
    state = build_network(contents, "file").state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    return contents.notes


@pytest.mark.parametrize(
    "wrappers",
    [(), ("state_dict",), ("model",), ("model_state",), ("model_state_dict",), ("net",), ("model", "state_dict")],
)
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "backbone.", "_orig_mod.", "module.encoder.", "a.b.c.d."])
def test_the_weights_are_found_in_any_wrapper(wrappers: tuple[str, ...], prefix: str) -> None:
    model = network()
    value: Any = {prefix + name: tensor for name, tensor in copy_state(model).items()}
    for key in wrappers:
        value = {"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, key: value, "args": None}
    assert not any("ignored" in note for note in same(value, model))


def test_averaged_weights_are_preferred_and_said() -> None:
    model, averaged = network(0), network(1)
    ema = {f"module.{name}": tensor for name, tensor in copy_state(averaged).items()} | {"n_averaged": torch.tensor(7)}
    notes = same({"model": copy_state(model), "model_ema": ema, "epoch": 1}, averaged)
    assert any("model_ema" in note for note in notes)
    assert not any("ignored" in note for note in notes)
    same({"model": copy_state(model), "model_ema": None}, model)


def test_arrays_become_tensors_without_a_copy() -> None:
    model = network()
    arrays = {name: tensor.numpy() for name, tensor in copy_state(model).items()}
    contents = adapt(make_raw(arrays, "pickle"))
    assert contents.state["conv1.weight"].data_ptr() == arrays["conv1.weight"].ctypes.data
    foreign = {name: array.astype(array.dtype.newbyteorder(">")) for name, array in arrays.items()}
    for array in foreign.values():
        array.flags.writeable = False
    same(foreign, model)


@pytest.mark.parametrize(
    ("prefix", "classifier"),
    [
        ("", "fc.1"), ("module.", "fc.1"), ("backbone.", "fc"), ("backbone.", "head.fc"), ("encoder.", "classifier"),
        ("backbone.", "head"), ("model.backbone.", "model.fc"), ("", "classifier.1"), ("net.", "linear"),
    ],
)  # fmt: skip
def test_a_classifier_of_another_name_or_place_is_taken_and_said(prefix: str, classifier: str) -> None:
    model = network()
    body = {prefix + name: tensor for name, tensor in copy_state(model).items() if not name.startswith("fc.")}
    place = prefix + classifier if classifier == "fc.1" else classifier
    head = {f"{place}.weight": model.fc.weight.detach(), f"{place}.bias": model.fc.bias.detach()}
    assert any("was used as the classifier" in note for note in same({"state_dict": body | head}, model))


def test_a_linear_layer_that_is_no_classifier_of_the_network_is_left_alone() -> None:
    body = {f"backbone.{name}": tensor for name, tensor in copy_state(network()).items() if not name.startswith("fc.")}
    for shape in ((3, 5), (3,), (3, 64, 1, 1)):  # behind something else, no matrix, a convolution
        contents = adapt(make_raw(body | {"head.weight": torch.ones(shape), "head.bias": torch.ones(3)}))
        assert contents.architecture.num_classes == 0
        assert any("ignored" in note for note in contents.notes)
    scalar = body | {"backbone.layer4.0.downsample.0.weight": torch.tensor(1.0)}
    with pytest.raises(RequestError):
        adapt(make_raw(scalar | {"head.weight": torch.ones(3, 64), "head.bias": torch.ones(3)}))
    several = {"fc.0.weight": torch.ones(3, 64), "fc.0.bias": torch.ones(3), "fc.2.weight": torch.ones(3, 3)}
    with pytest.raises(RequestError, match=r"unknown .*fc\.0\."):
        adapt(make_raw({name.removeprefix("backbone."): tensor for name, tensor in body.items()} | several))


def test_torchvisions_layers_in_a_sequential_are_found() -> None:
    model = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3)
    randomize(model)
    expected = adapt(make_raw(copy_state(model)))
    for layers in (list(model.children()), list(model.children())[:-1]):
        found = adapt(make_raw({f"0.{name}": tensor for name, tensor in copy_state(nn.Sequential(*layers)).items()}))
        assert found.architecture.num_classes == (3 if len(layers) == 10 else 0)
        assert all(torch.equal(tensor, expected.state[name]) for name, tensor in found.state.items())
    head = {"1.2.weight": torch.ones(512), "1.8.weight": torch.ones(3, 512)}  # fastai's, of several layers
    body = {f"0.{name}": tensor for name, tensor in copy_state(nn.Sequential(*layers)).items()}
    assert any("ignored" in note for note in adapt(make_raw({"model": body | head, "opt": None})).notes)


def test_weights_around_the_network_are_named() -> None:
    model = network()
    body = {f"backbone.body.{name}": tensor for name, tensor in copy_state(model).items()}
    heads = {"backbone.fpn.inner.weight": torch.ones(2), "rpn.head.conv.weight": torch.ones(2), "fc6_w": torch.ones(1)}
    notes = same(body | heads, model)
    assert any(
        all(head in note for head in ("ignored", "backbone.fpn (1)", "rpn.head (1)", "fc6 (1)")) for note in notes
    )


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "has no dict of weights by name; it has a NoneType"),
        ([torch.ones(2)], "it has a list"),
        ({}, "it has no names"),
        ({"epoch": 3}, "it has 'epoch'"),
        (
            {"model": {"model": {"model": {"model": {"model": {"model": {"a": torch.ones(1)}}}}}}},
            "has no dict of weights",
        ),
        ({"some.weight": torch.ones(2)}, "unknown parameter names (such as some.weight)"),
        ({1: torch.ones(2)}, "has no dict of weights"),
        ({"a": np.array([None])}, "an array of object"),
        ({"a": np.array(["x"])}, "expected numbers"),
        (
            {"layer1.0.conv1.weight": torch.ones(2), "k.layer1.0.conv1.weight": torch.ones(2)},
            "2 networks, under '', 'k.'",
        ),
        ({"features.denseblock1.denselayer1.conv1.weight": torch.ones(2)}, "holds DenseNet, which is not supported"),
        ({"stages.0.blocks.0.norm1.weight": torch.ones(2)}, "ResNetV2"),
        ({"s1.b1.conv1.conv.weight": torch.ones(2)}, "RegNet"),
        ({"blocks.0.attn.qkv.weight": torch.ones(2)}, "a vision transformer"),
        ({"features.0.weight": torch.ones(2)}, "VGG"),
    ],
)
def test_what_holds_no_network_of_ours_says_so(value: Any, says: str) -> None:
    assert says in get_error(lambda: adapt(make_raw(value)))


FAMILIES = ("densenet121", "vgg11", "vit_tiny_patch16_224", "regnetx_002", "resnetv2_50", "convnext_atto", "tresnet_m")
FAMILIES += ("swin_tiny_patch4_window7_224", "efficientnet_b0", "mobilenetv3_small_050", "nf_resnet50", "resnet51q")


@pytest.mark.parametrize("name", FAMILIES)
def test_other_families_are_named(name: str) -> None:
    with torch.device("cpu" if name.startswith("regnet") else "meta"):  # a RegNet computes its widths by torch.unique
        state = timm.create_model(name).state_dict()
    with pytest.raises(RequestError, match="this package has ResNet and ResNeXt"):
        adapt(make_raw(state))


def test_a_table_that_holds_itself_ends() -> None:
    value: dict[str, Any] = {}
    value["model"] = value
    with pytest.raises(RequestError, match="no dict of weights"):
        adapt(make_raw(value))


NAMES = ("layer1.0.conv1.weight", "conv1.weight", "res2.0.conv1.weight", "res2_0_branch2a_w", "s1.b1.f.a.weight", "cfg")
NAMES += ("encoder.stages.0.layers.0.layer.0.convolution.weight", "fc.weight", "model", "model_ema", "__author__", "x")
LEAVES = st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(0, 3), max_size=4).map(torch.zeros)
TABLES = st.recursive(LEAVES, lambda inner: st.dictionaries(st.sampled_from(NAMES), inner, max_size=6), max_leaves=12)


@settings(max_examples=200)
@given(TABLES)
def test_any_table_is_a_network_or_one_error_that_names_the_file(value: Any) -> None:
    assert len(get_error(lambda: adapt(make_raw(value)))) < 600


def hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Form (c)'s names as transformers writes them (modeling_resnet.py)."""
    renamed = {}
    for name, tensor in state.items():
        parts = name.split(".")
        if parts[0] in ("conv1", "bn1"):
            kind = "convolution" if parts[0] == "conv1" else "normalization"
            renamed[f"resnet.embedder.embedder.{kind}.{parts[1]}"] = tensor
        elif parts[0] == "fc":
            renamed[f"classifier.1.{parts[1]}"] = tensor
        else:
            block = f"resnet.encoder.stages.{int(parts[0][5:]) - 1}.layers.{parts[1]}"
            if parts[2] == "downsample":
                kind = "convolution" if parts[3] == "0" else "normalization"
                renamed[f"{block}.shortcut.{kind}.{parts[4]}"] = tensor
            else:
                kind = "convolution" if parts[2].startswith("conv") else "normalization"
                renamed[f"{block}.layer.{int(parts[2][-1]) - 1}.{kind}.{parts[3]}"] = tensor
    return renamed


def test_the_names_of_transformers() -> None:
    model = network()
    config = {"id2label": {"0": "a", "1": "b", "2": "c"}, "hidden_act": "relu"}
    contents = adapt(make_raw(hugging_face(copy_state(model)), "safetensors", config))
    assert (contents.format, contents.classes) == ("transformers", ("a", "b", "c"))
    state = build_network(contents, "file").state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert transformers.rename("resnet.unknown.weight") == "resnet.unknown.weight"
    strided = adapt(make_raw(hugging_face(copy_state(model)), config={"downsample_in_bottleneck": True}))
    assert strided.architecture.stride_in_1x1
    with pytest.raises(RequestError, match="hidden_act 'gelu'"):
        adapt(make_raw(hugging_face(copy_state(model)), config={"hidden_act": "gelu"}))


def test_files_of_every_naming_are_loaded_whole(tmp_path: Path) -> None:
    """From bytes on disk to outputs: a .pth, a Detectron-style .pkl and a folder of timm."""
    fields = {"blocks": (1, 1, 1, 1), "depth": None, "num_classes": 3}
    model = randomize(create_model(Architecture.parse("resnext50_2x2d", **fields), seed=0))
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.save({"model": copy_state(model)}, tmp_path / "w.pth")
    torch.save({"model": copy_state(model)}, tmp_path / "legacy", _use_new_zipfile_serialization=False)
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(to_detectron2(model)))  # type: ignore[arg-type]
    state, config = to_timm(model)  # type: ignore[arg-type]
    (tmp_path / "timm").mkdir()
    save_file(state, tmp_path / "timm" / "model.safetensors")
    (tmp_path / "timm" / "config.json").write_text(json.dumps(config))
    formats = {"w.pth": "torchvision", "legacy": "torchvision", "w.pkl": "detectron2", "timm": "timm"}
    for name, expected in formats.items():
        loaded = resnext.load(tmp_path / name)
        assert loaded.provenance["format"] == expected
        with torch.no_grad():
            torch.testing.assert_close(loaded(x), model(x), rtol=1e-5, atol=1e-5)


def test_our_own_files_are_read_by_their_metadata() -> None:
    with pytest.raises(RequestError, match="metadata is not JSON"):
        adapt(RawCheckpoint(path=Path("some/file"), file_format="safetensors", value={}, metadata={"resnext": "{"}))
