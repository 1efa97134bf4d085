"""Torch7 module trees as our networks: outputs against Torch7's own and against a plain interpreter of the tree."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resnext.data.imagenet_classes import imagenet_classes
from resnext.errors import RequestError
from resnext.model.architecture import Architecture
from resnext.model.network import Network, convert_form
from resnext.weights import presets
from resnext.weights.adapters.torch7.network import adapt
from resnext.weights.build import build_network
from resnext.weights.network_spec import NetworkSpec, RawCheckpoint
from resnext.weights.readers.torch7 import read_t7
from tests.sample_files import find_torch7
from tests.weights.adapters.adapter_helpers import get_error
from tests.weights.adapters.torch7.module_trees import (
    TreeBuilder,
    find_modules,
    list_modules,
    make_sequential,
    run_tree,
)
from tests.weights.readers.torch7_writer import Function, Object, Storage, Tensor, dump, make_tensor


def contents(path: Path) -> NetworkSpec:
    return adapt(RawCheckpoint(path=path, file_format="torch7", value=read_t7(path)))


def written(tmp_path: Path, tree: Any, **encoding: Any) -> NetworkSpec:
    path = tmp_path / "model_1.t7"
    path.write_bytes(dump(tree, **encoding))
    return contents(path)


def check_same_function(found: NetworkSpec, tree: Object, size: int = 32) -> Network:
    """The network computes what the tree does; returns it."""
    network = build_network(found, "x.t7")
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1)) - 0.5
    with torch.no_grad():
        outputs, expected = network(images).double(), run_tree(tree, images.double())
    torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    return network


def refusal(tmp_path: Path, tree: Any) -> str:
    """The one sentence with which the tree is refused, without its path."""
    path = str(tmp_path / "model_1.t7")
    message = get_error(lambda: written(tmp_path, tree), path)
    assert len(message) < 500
    return message.removeprefix(path)


def find_with_reference(file: str, name: str) -> tuple[Path, np.ndarray, np.ndarray, dict[str, Any]]:
    """Find a network of Torch7; read its input, its output and what Torch7 says of it."""
    paths = [find_torch7(path) for path in (file, f"{name}_input.bin", f"{name}_output.bin", f"{name}_reference.json")]
    path, inputs, outputs, described = (path for path in paths if path is not None)
    reference = json.loads(described.read_text())
    images = np.fromfile(inputs, "<f4").reshape(reference["input"]["shape"])
    return path, images, np.fromfile(outputs, "<f4").reshape(reference["output"]["shape"]), reference


REAL = [
    ("B_cifar11_nn_float.t7", "B_cifar11_nn", "concatenated", 3),
    ("B_cifar29_float.t7", "B_cifar29", "concatenated", 2),
    ("B_cifar29_cuda.t7", "B_cifar29", "concatenated", 2),
    ("C_cifar11_dpt_basic_float.t7", "C_cifar11_dpt_basic", "grouped", 2),
    ("C_cifar11_dpt_basic_cuda.t7", "C_cifar11_dpt_basic", "grouped", 2),
    ("C_cifar29_cuda.t7", "C_cifar29", "grouped", 4),
    ("checkpoint_C_cifar29/model_1.t7", "C_cifar29", "grouped", 4),
    ("checkpoint_C_cifar29/latest.t7", "C_cifar29", "grouped", 4),
]


HERE = [entry for entry in REAL if find_torch7(f"{entry[1]}_input.bin") and find_torch7(entry[0])]


@pytest.mark.parametrize(("file", "name", "form", "cardinality"), HERE, ids=[entry[0] for entry in HERE])
def test_outputs_are_those_of_torch7_in_every_form(file: str, name: str, form: str, cardinality: int) -> None:
    path, images, expected, reference = find_with_reference(file, name)
    found = contents(path)
    assert (found.architecture.form, found.architecture.cardinality) == (form, cardinality)
    network = build_network(found, file)
    assert sum(parameter.numel() for parameter in network.parameters()) == reference["parameters"]
    for other in ("grouped", "concatenated", "branched"):
        with torch.no_grad():
            outputs = convert_form(network, other)(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6 * reference["output_absmax"])


def test_maps_are_those_of_torch7_stage_by_stage(shared_data: Path) -> None:
    folder = shared_data / "t7"
    reference = json.loads((folder / "C_cifar29_reference.json").read_text())
    images = np.fromfile(folder / "C_cifar29_input.bin", "<f4").reshape(reference["input"]["shape"])
    with torch.no_grad():
        maps = build_network(contents(folder / "C_cifar29_cuda.t7"), "x").features(torch.from_numpy(images))
    stages = [layer for layer in reference["top_level_outputs"] if layer["class"] == "nn.Sequential"]
    assert len(stages) == 3
    for stage, name in zip(stages, ("C2", "C3", "C4"), strict=True):
        assert list(maps[name].shape) == stage["shape"]
        np.testing.assert_allclose(maps[name].flatten()[:8], stage["first"], rtol=1e-4, atol=1e-5)
        assert float(maps[name].mean()) == pytest.approx(stage["mean"], rel=1e-5)


def test_what_latest_says_travels_along(shared_data: Path) -> None:
    found = contents(shared_data / "t7" / "checkpoint_C_cifar29" / "latest.t7")
    assert found.provenance == {"model_file": "model_1.t7", "epoch": 1}


def test_an_optimizers_state_is_called_by_its_name(shared_data: Path) -> None:
    with pytest.raises(RequestError, match="is the state of an optimizer"):
        contents(shared_data / "t7" / "checkpoint_C_cifar29" / "optimState_1.t7")


KINDS: dict[str, dict[str, Any]] = {
    "B": {"form": "concatenated", "block": "bottleneck"},
    "C": {"form": "grouped", "block": "bottleneck"},
    "1x1": {"stride_in_1x1": True, "block": "bottleneck"},
    "basic": {"form": "grouped", "block": "basic", "cardinality": 1},
    "basic B": {"form": "concatenated", "block": "basic", "cardinality": 2},
}


@pytest.mark.parametrize("shortcut", ["A", "B", "C"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_block_and_shortcut_of_the_release(tmp_path: Path, kind: str, shortcut: str) -> None:
    tree = TreeBuilder(names="nn" if shortcut == "C" else "cudnn").network(kind, shortcut=shortcut, blocks=(1, 2, 1))
    found = written(tmp_path, tree)
    architecture = found.architecture
    assert (architecture.shortcut, architecture.blocks, architecture.stem) == (shortcut, (1, 2, 1), "cifar")
    for name, value in KINDS[kind].items():
        assert getattr(architecture, name) == value
    network = check_same_function(found, tree)
    assert network.preprocessing == presets.PREPROCESSINGS["cifar10"]
    assert network.classes == tuple(presets.CIFAR10_CLASSES)


@pytest.mark.parametrize("kind", KINDS)
def test_the_imagenet_stem(tmp_path: Path, kind: str) -> None:
    tree = TreeBuilder(3).network(kind, stem="imagenet", blocks=(1, 1, 1, 1), classes=1000)
    found = written(tmp_path, tree)
    assert found.architecture.stem == "imagenet"
    network = check_same_function(found, tree, 224)
    assert network.preprocessing == presets.PREPROCESSINGS["paper"]
    assert network.classes == imagenet_classes()
    assert network.preprocessing.resize == 256


def test_the_names_of_the_release(tmp_path: Path) -> None:
    """A full-sized stage table is called by its name, with nothing said in brackets."""
    found = written(tmp_path, TreeBuilder().network("C", "imagenet", (3, 4, 6, 3), classes=7))
    assert found.architecture == Architecture(
        depth=50, cardinality=2, width=2, base_channels=4, num_classes=7, stem="imagenet"
    )
    assert (found.preprocessing, found.classes) == (None, None)
    assert "7 classes; its average pool needs images of 224x224" in found.notes[0]


@pytest.mark.parametrize("kind", KINDS)
def test_biases_of_convolutions_are_folded(tmp_path: Path, kind: str) -> None:
    tree = TreeBuilder(4).network(kind, bias=True)
    assert find_modules(tree, "SpatialConvolution")[0].fields["bias"]
    found = written(tmp_path, tree)
    check_same_function(found, tree)
    assert any("folded into the running means" in note for note in found.notes)


def test_running_std_of_old_batch_norms(tmp_path: Path) -> None:
    tree = TreeBuilder(5).network("C")
    for bn in find_modules(tree, "BatchNormalization"):
        bn.version = None if bn is find_modules(tree, "BatchNormalization")[0] else 1
        variance = np.asarray(bn.fields.pop("running_var").storage.values, "f8")
        bn.fields["running_std"] = make_tensor((variance + bn.fields["eps"]) ** -0.5)
    found = written(tmp_path, tree)
    check_same_function(found, tree)
    assert "running_std of old batch norms was converted to running_var" in found.notes


def test_a_channel_that_never_varied_keeps_a_variance_of_zero(tmp_path: Path) -> None:
    tree = TreeBuilder(5).network("C")
    bn = find_modules(tree, "BatchNormalization")[0]
    bn.version = 1
    del bn.fields["running_var"]
    bn.fields["running_std"] = make_tensor(np.full(4, 1e-5, "f4") ** np.float32(-0.5))
    found = written(tmp_path, tree)
    assert torch.all(found.state["bn1.running_var"].abs() < 1e-11)
    check_same_function(found, tree)


def test_batch_norms_without_weights(tmp_path: Path) -> None:
    tree = TreeBuilder(6).network("B")
    for bn in find_modules(tree, "BatchNormalization")[1:3]:
        bn.fields |= {"affine": False}
        del bn.fields["weight"], bn.fields["bias"]
    check_same_function(written(tmp_path, tree), tree)


def test_eps_is_read_from_the_file(tmp_path: Path) -> None:
    tree = TreeBuilder(7).network("C")
    for bn in find_modules(tree, "BatchNormalization"):
        bn.fields["eps"] = 0.1
    found = written(tmp_path, tree)
    assert found.architecture.bn_eps == 0.1
    check_same_function(found, tree)
    find_modules(tree, "BatchNormalization")[3].fields["eps"] = 0.2
    assert "has eps 0.2, but the first batch norm has 0.1" in refusal(tmp_path, tree)


def test_one_batch_norm_in_two_places(tmp_path: Path) -> None:
    tree = TreeBuilder(8).network("C", blocks=(2,), bias=True)
    norms = {}
    for module in list_modules(tree):
        for number, child in module.fields.get("modules", {}).items():
            if child.class_name.endswith("BatchNormalization"):
                shared = norms.setdefault(child.fields["weight"].sizes, child)
                module.fields["modules"][number] = shared
    assert len(set(map(id, find_modules(tree, "BatchNormalization")))) < 4
    check_same_function(written(tmp_path, tree), tree)


def test_the_variants_of_layers(tmp_path: Path) -> None:
    """Weights as matrices, one padding for both sides, Threshold, Reshape, softmax, identities, a bare linear layer."""
    tree = TreeBuilder(9, names="nn", bn="cudnn").network("basic")
    for conv in find_modules(tree, "SpatialConvolution"):
        weight = conv.fields["weight"]
        conv.class_name = "nn.SpatialConvolutionMM"
        conv.fields["weight"] = make_tensor(np.reshape(weight.storage.values, (weight.sizes[0], -1)))
        conv.fields["padding"] = conv.fields.pop("padW")
        del conv.fields["padH"]
    for relu in find_modules(tree, "ReLU"):
        relu.class_name = "nn.Threshold"
    layers = tree.fields["modules"]
    layers[len(layers) - 1] = Object("nn.Reshape", {"size": Storage("Long", [8]), "nelement": 8})
    del layers[len(layers)].fields["bias"]
    tree = make_sequential(Object("nn.Identity"), tree, Object("nn.LogSoftMax"))
    found = written(tmp_path, tree)
    network = build_network(found, "x")
    images = torch.rand(2, 3, 32, 32) - 0.5
    with torch.no_grad():
        outputs = network(images).log_softmax(1).double()
    torch.testing.assert_close(outputs, run_tree(tree, images.double()), rtol=1e-4, atol=1e-4)
    assert any("outputs are logits" in note for note in found.notes)
    assert any("no bias" in note for note in found.notes)


def test_an_adaptive_pool_and_a_view_of_two_numbers(tmp_path: Path) -> None:
    tree = TreeBuilder(9).network("C")
    layers = tree.fields["modules"]
    layers[len(layers) - 2] = Object("nn.SpatialAdaptiveAveragePooling", {"W": 1, "H": 1})
    layers[len(layers) - 1] = Object("nn.View", {"size": Storage("Long", [-1, 32])})
    found = written(tmp_path, tree)
    assert found.classes == tuple(presets.CIFAR10_CLASSES)


@pytest.mark.parametrize("impl", ["Basic", "Threads"])
def test_data_parallel_tables_are_unwrapped(tmp_path: Path, impl: str) -> None:
    tree = TreeBuilder(10).network("C")
    wrapper = Object("nn.DataParallelTable", {"modules": {1: tree}, "dimension": 1}, 3, {1: 1, 2: 2})
    inside = {"dpt": wrapper} | ({"initFunc": Function()} if impl == "Threads" else {})
    wrapper.fields["impl"] = Object(f"nn.DataParallelTable.{impl}", inside)
    check_same_function(written(tmp_path, wrapper), tree)
    check_same_function(written(tmp_path, make_sequential(wrapper)), tree)


@pytest.mark.parametrize(
    "encoding", [{"order": ">"}, {"ascii": True}, {"long_size": 4}, {"referenced": False}], ids=str
)
def test_any_encoding_of_a_model(tmp_path: Path, encoding: dict[str, Any]) -> None:
    tree = TreeBuilder(11).network("C", blocks=(1,))
    check_same_function(written(tmp_path, tree, **encoding), tree)


@pytest.mark.parametrize(("kind", "dtype"), [("CudaHalf", torch.float16), ("Double", torch.float64)])
def test_other_floats_keep_their_kind_until_they_are_built(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    tree = TreeBuilder(12).network("C", blocks=(1,))
    for module in list_modules(tree):
        for value in module.fields.values():
            if isinstance(value, Tensor):
                value.kind = value.storage.kind = kind
                value.storage.values = np.asarray(value.storage.values, "f2")
    found = written(tmp_path, tree)
    assert found.state["layer1.0.conv2.weight"].dtype == dtype
    check_same_function(found, tree)


def test_a_table_with_a_model(tmp_path: Path) -> None:
    tree = TreeBuilder(13).network("C", blocks=(1,))
    check_same_function(written(tmp_path, {"model": tree, "opt": {"LR": 0.1}}), tree)


@pytest.mark.parametrize("name", ["model_9.t7", "../model_9.t7", "/etc/checkpoints/model_9.t7", "C:\\run\\model_9.t7"])
def test_latest_is_followed_by_the_bare_name_only(tmp_path: Path, name: str) -> None:
    tree = TreeBuilder(14).network("C", blocks=(1,))
    folder = tmp_path / "run"
    folder.mkdir()
    for place, content in ((tmp_path, "elsewhere"), (folder, tree)):
        (place / "model_9.t7").write_bytes(dump(content))
    (folder / "latest.t7").write_bytes(dump({"epoch": 9, "modelFile": name, "optimFile": "optimState_9.t7"}))
    check_same_function(contents(folder / "latest.t7"), tree)


@pytest.mark.parametrize("name", ["missing.t7", "", "..", "a/", "\0", "x" * 300, "latest.t7"])
def test_latest_that_names_no_network_beside_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "latest.t7").write_bytes(dump({"epoch": 9, "modelFile": name}))
    itself = "has no network, but a table with the keys 'epoch', 'modelFile'"
    with pytest.raises(RequestError, match=itself if name == "latest.t7" else "refers to the network"):
        contents(tmp_path / "latest.t7")


def test_tensors_are_copies(tmp_path: Path) -> None:
    found = written(tmp_path, TreeBuilder().network("C", blocks=(1,)))
    found.state["conv1.weight"].zero_()
    assert contents(tmp_path / "model_1.t7").state["conv1.weight"].abs().sum() > 0
