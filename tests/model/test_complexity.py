"""Compare counts of parameters and multiply-adds with the paper, the release, and independent counts."""

from dataclasses import replace

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from resnext.errors import RequestError
from resnext.model.architecture import Architecture
from resnext.model.complexity import Complexity, complexity, compute_layer_costs
from resnext.model.network import create_model

# name: parameters including BN, and MACs in G with the digits that the paper and the release give.
IMAGENET = {
    "resnet50": (25_557_032, "4.089"),
    "resnext50_2x40d": (25_425_000, "4.125"),
    "resnext50_4x24d": (25_292_968, "4.160"),
    "resnext50_8x14d": (25_603_016, "4.267"),
    "resnext50_32x4d": (25_028_904, "4.230"),
    "resnet101": (44_549_160, "7.801"),
    "resnext101_2x40d": (44_456_296, "7.844"),
    "resnext101_4x24d": (44_363_432, "7.886"),
    "resnext101_8x14d": (45_104_328, "8.077"),
    "resnext101_32x4d": (44_177_704, "7.970"),
    "resnet101_1x100d": (85_611_336, "15.27"),
    "resnext101_2x64d": (84_198_184, "15.12"),
    "resnext101_64x4d": (83_455_272, "15.46"),
    "resnext101_32x8d": (88_791_336, "16.41"),
    "resnext101_32x16d": (194_026_792, "36.16"),
    "resnext101_32x32d": (468_530_472, "87.11"),
    "resnext101_32x48d": (828_411_176, "153.3"),
    "resnext152_32x4d": (59_951_400, "11.71"),
}
WITHOUT_BN = {
    "resnet50": 25_503_912,
    "resnext50_32x4d": 24_960_680,
    "resnet101": 44_443_816,
    "resnext101_32x4d": 44_039_848,
    "resnext101_64x4d": 83_252_392,
}
# CIFAR-10: parameters including BN, and MACs in G where known.
CIFAR = {
    "resnet29": (4_914_250, "0.75"),
    "resnext29_2x64d": (9_130_314, "1.41"),
    "resnext29_4x64d": (17_562_442, "2.74"),
    "resnext29_8x64d": (34_426_698, "5.39"),
    "resnext29_16x64d": (68_155_210, "10.69"),
    "resnext29_32x4d": (4_775_754, "0.77"),
}


def giga(macs: int, like: str) -> str:
    return f"{macs / 1e9:.{len(like.partition('.')[2])}f}"


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_networks_cost_what_the_release_costs(name: str) -> None:
    cost = complexity(name)
    parameters, macs = IMAGENET[name]
    assert cost.parameters == parameters
    assert giga(cost.macs, macs) == macs
    assert cost.parameters_without_bn == WITHOUT_BN.get(name, cost.parameters_without_bn)


def test_table_1_of_the_paper() -> None:
    resnet, resnext = complexity("resnet50"), complexity("resnext50_32x4d")
    assert [f"{c.parameters_without_bn / 1e6:.1f}" for c in (resnet, resnext)] == ["25.5", "25.0"]
    assert [f"{c.macs / 1e9:.1f}" for c in (resnet, resnext)] == ["4.1", "4.2"]


@pytest.mark.parametrize("name", CIFAR)
def test_cifar_networks_cost_what_the_release_costs(name: str) -> None:
    cost = complexity(Architecture.parse(name, num_classes=10))
    parameters, macs = CIFAR[name]
    assert cost.parameters == parameters
    assert giga(cost.macs, macs) == macs
    assert complexity(Architecture.parse(name, num_classes=100)).parameters == parameters + 92_250


def test_table_7_of_the_paper() -> None:
    ours = [complexity(Architecture.parse(f"resnext29_{c}x64d", num_classes=10)) for c in (8, 16)]
    assert [f"{c.parameters_without_bn / 1e6:.1f}" for c in ours] == ["34.4", "68.1"]


@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"])
def test_torchvisions_published_counts(name: str) -> None:
    published = torchvision.models.get_model_weights(name).DEFAULT.meta
    cost = complexity(name)
    assert cost.parameters == published["num_params"]
    assert cost.macs / 1e9 == pytest.approx(published["_ops"], abs=1e-3)


def test_timms_published_activations() -> None:
    assert f"{complexity('resnet50').activations / 1e6:.1f}" == "11.1"
    assert f"{complexity('resnext50_32x4d').activations / 1e6:.1f}" == "14.4"


@pytest.mark.parametrize("form", ["concatenated", "branched"])
def test_all_forms_have_the_same_parameters_and_macs(form: str) -> None:
    a = Architecture.parse("resnext29_4x8d")
    one, other = complexity(a), complexity(a.change(form=form))
    assert replace(one, activations=other.activations) == other
    assert (one.activations < other.activations) == (form == "branched")


@settings(max_examples=30)
@given(
    blocks=st.lists(st.integers(1, 2), min_size=1, max_size=3),
    c=st.integers(1, 5),
    d=st.integers(1, 9),
    channels=st.integers(1, 9),
    size=st.tuples(st.integers(16, 40), st.integers(16, 40)),
    stem=st.sampled_from(["imagenet", "cifar"]),
)
def test_counts_are_those_of_the_formula(
    blocks: list[int], c: int, d: int, channels: int, size: tuple[int, int], stem: str
) -> None:
    """Count a bottleneck network with shortcut B by formula, independently of the modules."""
    a = Architecture(
        blocks=tuple(blocks), cardinality=c, width=d, base_channels=channels, stem=stem, num_classes=7, in_channels=2
    )
    (h, w), weights, norms, macs = size, 0, 0, 0

    def convolution(inputs: int, outputs: int, kernel: int, groups: int = 1) -> None:
        nonlocal weights, norms, macs
        here = inputs // groups * outputs * kernel * kernel
        weights, norms, macs = weights + here, norms + 2 * outputs, macs + here * h * w

    if stem == "imagenet":
        h, w = -(-h // 2), -(-w // 2)
    convolution(2, channels, 7 if stem == "imagenet" else 3)
    if stem == "imagenet":
        h, w = -(-h // 2), -(-w // 2)
    before, out, total = channels, 4 * channels, c * d
    for stage, count in enumerate(blocks):
        for block in range(count):
            first, halve = block == 0, block == 0 and stage > 0
            convolution(before if first else out, total, 1)
            if halve:
                h, w = -(-h // 2), -(-w // 2)
            convolution(total, total, 3, groups=c)
            convolution(total, out, 1)
            if first:
                convolution(before, out, 1)
        before, out, total = out, 2 * out, 2 * total
    cost = complexity(a, size)
    head = before * 7
    assert cost == Complexity(weights + norms + head + 7, macs + head, cost.activations, weights + head + 7)


def test_a_given_model_is_counted_without_touching_it() -> None:
    model = create_model("resnext29_2x4d", num_classes=10, seed=0).train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    assert complexity(model) == complexity(Architecture.parse("resnext29_2x4d", num_classes=10))
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert model.training


@pytest.mark.parametrize("training", [False, True])
def test_a_foreign_model_is_counted_without_touching_it(training: bool) -> None:
    model = torchvision.models.resnext50_32x4d().train(training)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    assert complexity(model) == complexity("resnext50_32x4d")
    assert complexity(model, 32) == complexity("resnext50_32x4d", 32)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert model.training == training
    assert not any(module._forward_hooks for module in model.modules())


def test_timms_network_has_our_counts() -> None:
    with torch.device("meta"):
        assert complexity(timm.create_model("resnext101_32x4d")) == complexity("resnext101_32x4d")


def test_the_layers_add_up() -> None:
    rows, cost = compute_layer_costs("resnext50_32x4d", (224, 160)), complexity("resnext50_32x4d", (224, 160))
    assert sum(row.parameters for row in rows) == cost.parameters
    assert sum(row.macs for row in rows) == cost.macs
    assert sum(row.activations for row in rows) == cost.activations
    grouped = next(row for row in rows if row.name == "layer2.0.conv2")
    assert (grouped.kind, grouped.output, grouped.parameters) == ("GroupedConv2d", (256, 28, 20), 256 * 8 * 9)


def test_the_input_side_is_the_papers_unless_given() -> None:
    assert complexity("resnext50_32x4d") == complexity("resnext50_32x4d", 224)
    assert complexity("resnext29_8x64d") == complexity("resnext29_8x64d", (32, 32))


@pytest.mark.parametrize(
    ("model", "size", "words"),
    [
        ("resnext50_32x", None, "unknown architecture"),
        ("resnext50_32x4d", 31, "at least 32"),
        ("resnext50_32x4d", (224, 224, 3), "image_size must be"),
        ("resnext50_32x4d", 0, "image_size must be"),
        (nn.Linear(3, 3), None, "no 2-d convolution"),
        (17, None, "not a int"),
    ],
)
def test_what_cannot_be_counted_is_one_clear_sentence(model: object, size: object, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        complexity(model, size)  # type: ignore[arg-type]
