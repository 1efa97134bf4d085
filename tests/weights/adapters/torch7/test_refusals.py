"""Torch7 module trees that fit no network of ours: each is one sentence that names the module by its path."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.weights.adapters.torch7 import module_trees
from tests.weights.adapters.torch7.module_trees import TreeBuilder, find_modules, make_container, make_sequential
from tests.weights.adapters.torch7.test_network import refusal, written
from tests.weights.readers.torch7_writer import Object, Storage, make_tensor


def first(end: str, number: int = 0) -> Callable[[Object], dict[str, Any]]:
    return lambda tree: find_modules(tree, end)[number].fields


def change(end: str, number: int = 0, **fields: Any) -> Callable[[Object], None]:
    return lambda tree: find_modules(tree, end)[number].fields.update(fields)


def drop(end: str, name: str) -> Callable[[Object], None]:
    return lambda tree: find_modules(tree, end)[0].fields.pop(name)


def swap(end: str, *replacements: Object) -> Callable[[Object], None]:
    """Puts other layers where the first of a class is."""

    def act(tree: Object) -> None:
        for module in module_trees.list_modules(tree):
            inside = module.fields.get("modules", {})
            for number, child in inside.items():
                if child.class_name.endswith(end):
                    kept = list(inside.values())
                    kept[number - 1 : number] = replacements
                    module.fields["modules"] = dict(enumerate(kept, start=1))
                    return

    return act


def nested(levels: int, width: int) -> dict[int, Any]:
    """A table that holds the next one ``width`` times, and so on."""
    table: dict[int, Any] = {}
    for _ in range(levels):
        table = dict.fromkeys(range(1, width + 1), table)
    return table


CONV = "SpatialConvolution"
SURPRISES = {
    "kernel 5": (
        change(CONV, kW=5, kH=5, padW=2, padH=2),
        r"modules\[1\] \(cudnn.SpatialConvolution\) has a kernel of 5",
    ),
    "kernel not square": (change(CONV, kW=1), "kernel of 1x3, which is not square"),
    "stride 3": (change(CONV, dW=3, dH=3), "has a stride of 3, not 1 or 2"),
    "padding": (change(CONV, padW=0, padH=0), "kernel of 3 with a padding of 0"),
    "groups fraction": (change(CONV, groups=1.5), "needs groups as a whole number"),
    "groups not a number": (change(CONV, groups="2"), "needs groups as a number, which is a str"),
    "groups boolean": (change(CONV, groups=True), "needs groups as a number, which is a bool"),
    "groups infinite": (change(CONV, groups=float("inf")), "needs groups as a whole number"),
    "groups nan": (change(CONV, groups=float("nan")), "needs groups as a whole number"),
    "width a deep table": (change(CONV, kW=nested(200, 1)), "needs kW as a number, which is a dict"),
    "width a table of endless paths": (change(CONV, kW=nested(60, 2)), "needs kW as a number, which is a dict"),
    "groups that do not divide": (change(CONV, groups=2), "cannot have 2 groups of its 3 input"),
    "weight missing": (drop(CONV, "weight"), "has no tensor weight"),
    "weight of whole numbers": (
        change(CONV, weight=make_tensor(np.zeros((4, 3, 3, 3)), "Int")),
        "weight of int32 numbers",
    ),
    "bias of another length": (change(CONV, bias=make_tensor(np.zeros(3))), "bias of shape 3, not 4"),
    "input planes": (
        change(CONV, 1, nInputPlane=5, weight=make_tensor(np.zeros((4, 5, 1, 1)))),
        "has 5 input channels, but its input has 4",
    ),
    "variance missing": (drop("BatchNormalization", "running_var"), r"modules\[2\] .* has no tensor running_var"),
    "running_std in version 2": (
        lambda tree: first("BatchNormalization")(tree).update(
            running_std=first("BatchNormalization")(tree).pop("running_var")
        ),
        "has no tensor running_var",
    ),
    "bn bias alone": (drop("BatchNormalization", "weight"), "needs both weight and bias"),
    "eps zero": (change("BatchNormalization", eps=0.0), "needs eps as a number above 0"),
    "eps missing": (drop("BatchNormalization", "eps"), "needs eps as a number, which is missing"),
    "eps nan": (change("BatchNormalization", eps=float("nan")), "needs eps as a number above 0"),
    "no bn": (swap("BatchNormalization"), "is where a batch norm was expected"),
    "relu threshold": (change("ReLU", threshold=0.5), "so it is not a ReLU"),
    "relu threshold a tensor": (change("ReLU", threshold=make_tensor(np.zeros(3))), "needs threshold as a number"),
    "another activation": (swap("ReLU", Object("nn.PReLU")), "has the unsupported class 'nn.PReLU'"),
    "dropout": (swap("Linear", Object("nn.Dropout"), Object("nn.Linear")), "has the unsupported class 'nn.Dropout'"),
    "a near name": (swap("Linear", Object("nn.Linera")), "did you mean 'nn.Linear'"),
    "bn after the sum": (
        swap("CAddTable", Object("nn.CAddTable"), TreeBuilder().bn(16)),
        "BN after the sum, and pre-activation",
    ),
    "three branches": (
        lambda tree: first("ConcatTable")(tree)["modules"].update({3: Object("nn.Identity")}),
        "has 3 branches; a residual block has two",
    ),
    "a number for a module": (lambda tree: tree.fields["modules"].update({4: 1.0}), r"modules\[4\], which is a float"),
    "a hole in the modules": (lambda tree: tree.fields["modules"].pop(4), r"modules\[4\], which is missing"),
    "identity where shapes change": (swap("ConcatTable", make_sequential()), "is where"),
    "dilated": (swap(CONV, Object("nn.SpatialDilatedConvolution")), "nn.SpatialDilatedConvolution"),
    "pool with padding": (change("AveragePooling", padW=1, padH=1), "should average windows without padding"),
    "pool that sums": (change("AveragePooling", divide=False), "should average windows"),
    "view": (change("View", size=Storage("Long", [31])), r"flattens to \[31\], but its input has 32 channels"),
    "view of a matrix": (change("View", size=make_tensor(np.ones((2, 2)), "Long")), "has no valid list of sizes"),
    "linear": (change("Linear", weight=make_tensor(np.zeros((10, 31)))), "weight of shape 10x31, not 10x32"),
    "linear bias": (change("Linear", bias=make_tensor(np.zeros(9))), "bias of shape 9, not 10"),
    "something behind": (
        lambda tree: tree.fields["modules"].update({9: tree.fields["modules"][8]}),
        r"modules\[9\] \(nn.Linear\) is where no more layers were expected",
    ),
}


@pytest.mark.parametrize("surprise", SURPRISES)
def test_a_surprise_is_one_sentence_naming_the_module(tmp_path: Path, surprise: str) -> None:
    tree = TreeBuilder(15).network("C")
    written(tmp_path, tree)  # whole before
    act, message = SURPRISES[surprise]
    act(tree)
    assert re.search(message, refusal(tmp_path, tree))


def test_the_innermost_module_is_named(tmp_path: Path) -> None:
    tree = TreeBuilder(16).network("B")
    find_modules(tree, "SpatialConvolution")[-4].fields["kW"] = 2
    path = ".".join(f"modules[{place}]" for place in (5, 2, 1, 1, 1, 1, 4))
    assert f"{path} (cudnn.SpatialConvolution)" in refusal(tmp_path, tree)


def test_a_module_in_itself(tmp_path: Path) -> None:
    tree = TreeBuilder(17).network("C")
    tree.fields["modules"][4].fields["modules"][2] = tree
    message = "(nn.Sequential) is the same module as its outermost module, so it contains itself"
    assert f"modules[4].modules[2] {message}" in refusal(tmp_path, tree)


def test_modules_nested_without_end(tmp_path: Path) -> None:
    tree = make_sequential(TreeBuilder(17).network("C"))
    for _ in range(80):
        tree = make_sequential(tree)
    assert "is nested 24 modules deep" in refusal(tmp_path, tree)


def test_a_sequence_that_doubles_at_each_level(tmp_path: Path) -> None:
    """20 levels that hold the next one twice: a million ways through a file of a few kB."""
    tree = make_sequential()
    for _ in range(20):
        tree = make_sequential(tree, tree)
    assert "its module tree has more than" in refusal(tmp_path, tree)


def test_blocks_that_share_a_large_weight_do_not_fill_the_memory(tmp_path: Path) -> None:
    trees = TreeBuilder(18)
    block = trees.block("C", 64, 32, 2, 64, 1)
    tail = list(trees.network("C").fields["modules"].values())[-3:]
    tail[1].fields["size"] = Storage("Long", [64])
    tail[2].fields["weight"] = make_tensor(np.zeros((10, 64)))
    tree = make_sequential(*trees.unit(3, 64, 3), make_sequential(*([block] * 2000)), *tail)
    assert "share tensors; copied, they would be far larger than the file" in refusal(tmp_path, tree)


def test_small_blocks_shared_thousands_of_times_are_refused(tmp_path: Path) -> None:
    """They take little memory, but each of their tensors takes time."""
    trees = TreeBuilder(18)
    tail = list(trees.network("C", blocks=(1,)).fields["modules"].values())[-3:]
    tree = make_sequential(*trees.unit(3, 16, 3), make_sequential(*([trees.block("C", 16, 2, 2, 16, 1)] * 4000)), *tail)
    assert "share tensors; copied, they would be far larger than the file" in refusal(tmp_path, tree)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"cardinality": 4, "d": 1}, "has cardinality 4, but the first block has 2"),
        ({"d": 4}, "has width 8, but the first in its stage has 4"),
        ({"kind": "B"}, "has concatenated True, but the first block has False"),
        ({"shortcut": "C"}, "a shortcut that does not match the shortcuts C"),
        ({"out": 32, "shortcut": "B"}, "has out_channels 32, but the first in its stage has 16"),
    ],
)
def test_blocks_of_a_stage_must_be_alike(tmp_path: Path, second: dict[str, Any], message: str) -> None:
    trees = TreeBuilder(19)
    made = {"kind": "C", "into": 16, "d": 2, "cardinality": 2, "out": 16, "stride": 1, "shortcut": "B"} | second
    blocks = [trees.block("C", 4, 2, 2, 16, 1), trees.block("C", 16, 2, 2, 16, 1), trees.block(**made)]
    tail = list(trees.network("C", blocks=(1,)).fields["modules"].values())[-3:]
    if made["out"] == 32:
        tail = list(trees.network("C", blocks=(1, 1)).fields["modules"].values())[-3:]
    assert message in refusal(tmp_path, make_sequential(*trees.unit(3, 4, 3), make_sequential(*blocks), *tail))


def test_a_shortcut_a_that_is_none(tmp_path: Path) -> None:
    for field in (1.0, make_tensor(np.zeros(2)), None):
        tree = TreeBuilder(18).network("C", shortcut="A")
        find_modules(tree, "MulConstant")[0].fields["constant_scalar"] = field
        assert "is not a shortcut A" in refusal(tmp_path, tree) or "needs constant_scalar" in refusal(tmp_path, tree)


def test_strides_in_two_places(tmp_path: Path) -> None:
    trees = TreeBuilder(20)
    tree = trees.network("C", blocks=(1, 1, 1))
    tree.fields["modules"][6] = make_sequential(trees.block("1x1", 32, 8, 2, 64, 2))
    assert "has its stride in another convolution" in refusal(tmp_path, tree)


def test_paths_must_be_alike(tmp_path: Path) -> None:
    trees = TreeBuilder(21)
    tree = trees.network("B")
    paths = find_modules(tree, "ConcatTable")[1]
    paths.fields["modules"][2] = make_sequential(*trees.unit(4, 3, 1), *trees.unit(3, 3, 3))
    assert "modules[2] (nn.Sequential) is a path of another shape" in refusal(tmp_path, tree)


def test_the_pre_activation_network_of_fb_resnet_torch(tmp_path: Path) -> None:
    trees = TreeBuilder(22)
    branch = make_sequential(trees.bn(4), trees.relu(), *trees.unit(4, 4, 3), trees.conv(4, 4, 3))
    block = make_sequential(make_container("nn.ConcatTable", branch, Object("nn.Identity")), Object("nn.CAddTable"))
    tree = make_sequential(*trees.unit(3, 4, 3), make_sequential(block, block))
    assert "pre-activation blocks" in refusal(tmp_path, tree)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"learningRate": 0.1, "dfdx": make_tensor(np.zeros(3))}, "is the state of an optimizer"),
        ({}, "has no network, but a table"),
        ({1: make_tensor(np.zeros(3)), "weights": 2.0}, "a table with the keys 1, 'weights'"),
        (make_tensor(np.zeros(3)), "has no network, but a ndarray"),
        ("text", "has no network, but a str"),
        (Object("tds.Hash", {}), "has the unsupported class 'tds.Hash'"),
        (make_sequential(), r"ends where a convolution was expected"),
    ],
)
def test_what_is_no_model(tmp_path: Path, value: Any, message: str) -> None:
    assert message in refusal(tmp_path, value)
