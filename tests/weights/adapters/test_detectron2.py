"""detectron2's and Detectron's weights: the function of a reference that takes BGR, under their names."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnext.errors import RequestError
from resnext.weights.adapters.detectron2 import to_detectron2
from resnext.weights.adapters.registry import adapt
from resnext.weights.build import build_network
from resnext.weights.presets import TORCHVISION_V1
from tests.weights.adapters.adapter_helpers import (
    check_outputs,
    copy_state,
    get_error,
    make_network,
    make_raw,
    randomize,
)

BGR = [103.53, 116.28, 123.675]
BGR_STD = [57.375, 57.12, 58.395]


class Frozen(nn.Module):
    """x * weight + bias, what Detectron's AffineChannel and detectron2's frozen BN of a Caffe2 file compute."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


class Conv(nn.Conv2d):
    """A convolution that has its norm inside."""

    def __init__(
        self, into: int, out: int, kernel: int, norm: type[nn.Module], stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(into, out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = norm(out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


class Bottleneck(nn.Module):
    def __init__(self, into: int, width: int, stride: int, norm: type[nn.Module], groups: int, in_1x1: bool) -> None:
        super().__init__()
        out = 2 * width
        self.shortcut = Conv(into, out, 1, norm, stride) if into != out else None
        self.conv1 = Conv(into, width, 1, norm, stride if in_1x1 else 1)
        self.conv2 = Conv(width, width, 3, norm, 1 if in_1x1 else stride, groups)
        self.conv3 = Conv(width, out, 1, norm)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class Reference(nn.Module):
    """A network as detectron2 has it, for pixels of 0 to 255 in its own order."""

    def __init__(self, norm: type[nn.Module] = nn.BatchNorm2d, groups: int = 1, in_1x1: bool = False) -> None:
        super().__init__()
        self.stem = nn.Module()
        self.stem.conv1 = Conv(3, 8, 7, norm, 2)
        first = Bottleneck(8, 8, 1, norm, groups, in_1x1)
        self.res2 = nn.Sequential(first, Bottleneck(16, 8, 1, norm, groups, in_1x1))
        self.res3 = nn.Sequential(Bottleneck(16, 16, 2, norm, groups, in_1x1))
        self.linear = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem.conv1(x)), 3, 2, 1)
        return self.linear(self.res3(self.res2(x)).mean((2, 3)))


def reference(**options: Any) -> Reference:
    return randomize(Reference(**options))  # type: ignore[return-value]


def arrays(model: nn.Module) -> dict[str, np.ndarray]:
    state = copy_state(model)
    return {name: tensor.numpy() for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def blobs(model: nn.Module, statistics: tuple[str, str] = ("bn_rm", "bn_riv")) -> dict[str, np.ndarray]:
    """The reference's weights under Detectron's names."""
    renamed = {}
    for name, array in arrays(model).items():
        parts = name.split(".")
        affine = {"weight": "bn_s", "bias": "bn_b", "running_mean": statistics[0], "running_var": statistics[1]}
        if parts[0] == "linear":
            renamed[f"pred_{parts[1][0]}"] = array
            continue
        kind = affine[parts[-1]] if parts[-2] == "norm" else "w"
        if parts[0] == "stem":
            renamed[f"res_conv1_{kind}" if kind.startswith("bn") else f"conv1_{kind}"] = array
        else:
            branch = {"shortcut": "1", "conv1": "2a", "conv2": "2b", "conv3": "2c"}[parts[2]]
            renamed[f"{parts[0]}_{parts[1]}_branch{branch}_{kind}"] = array
    return renamed


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, Frozen])
@pytest.mark.parametrize("names", ["detectron2", "blobs"])
def test_caffe2_weights_compute_the_same_from_rgb(names: str, norm: type[nn.Module], groups: int) -> None:
    """One group: MSRA's, stride in the 1x1, std 1; more: FAIR's, stride in the 3x3, its std."""
    model = reference(norm=norm, groups=groups, in_1x1=groups == 1)
    if groups == 1:
        model.stem.conv1.weight.data /= 57  # so that outputs of the unscaled pixels are of size 1
    value: dict[str, Any] = {"model": arrays(model), "__author__": "Caffe2", "matching_heuristics": True}
    if names == "blobs":
        value = blobs(model)
    contents = adapt(make_raw(value, "pickle"))
    assert contents.architecture.cardinality == groups
    assert contents.architecture.stride_in_1x1 == (groups == 1)
    check_outputs(contents, model, BGR, [1.0] * 3 if groups == 1 else BGR_STD)
    assert any("BGR" in note for note in contents.notes)
    assert any("frozen affine" in note for note in contents.notes) == (norm is Frozen)


def test_weights_of_torchvision_stay_rgb() -> None:
    model = reference()
    state = arrays(model)
    state |= {f"stem.fc.{kind}": state.pop(f"linear.{kind}") for kind in ("weight", "bias")}  # its converter's names
    contents = adapt(make_raw({"model": state, "__author__": "torchvision", "matching_heuristics": True}))
    assert contents.preprocessing is not None
    assert contents.preprocessing.mean == pytest.approx(TORCHVISION_V1.mean)
    assert contents.preprocessing.std == pytest.approx(TORCHVISION_V1.std)
    check_outputs(contents, model, BGR[::-1], BGR_STD[::-1], bgr=False)


@pytest.mark.parametrize("std", [BGR_STD[::-1], [1.0] * 3])
def test_pixel_mean_and_std_in_a_checkpoint_win(std: list[float]) -> None:
    model = reference(in_1x1=std[0] == 1)
    model.stem.conv1.weight.data *= std[0] / 57
    state: dict[str, Any] = {f"backbone.bottom_up.{name}": array for name, array in arrays(model).items()}
    state |= {"pixel_mean": np.array([123.675, 116.28, 103.53]).reshape(3, 1, 1)}
    state |= {"pixel_std": torch.tensor(std).view(3, 1, 1), "roi_heads.box_head.fc1.weight": np.ones((2, 2))}
    contents = adapt(make_raw({"model": state, "__author__": "Detectron2 Model Zoo"}))
    check_outputs(contents, model, BGR[::-1], std, bgr=False)
    assert any("roi_heads.box_head (1)" in note for note in contents.notes)


def test_a_detector_without_a_classifier_ends_in_features() -> None:
    model = reference(groups=4)
    state = {name: array for name, array in blobs(model).items() if not name.startswith("pred")}
    heads = {"fpn_res2_2_sum_w": np.ones(3), "conv_rpn_fpn2_w": np.ones(3), "bbox_pred_w": np.ones(3), "lr": np.ones(1)}
    momentum = {f"{name}_momentum": array for name, array in state.items()}
    contents = adapt(make_raw({"blobs": state | heads | momentum, "cfg": "MODEL: {}"}, "pickle"))
    assert contents.architecture.num_classes == 0
    assert any("no classifier" in note for note in contents.notes)
    assert any("fpn (1)" in note and "bbox (1)" in note for note in contents.notes)
    model.linear = nn.Identity()
    check_outputs(contents, model, BGR, BGR_STD)


def test_other_spellings_of_blobs() -> None:
    state = blobs(reference(groups=4), ("bn_running_mean", "bn_running_var"))
    spelled = {name.replace("bn_s", "bn_gamma").replace("bn_b", "bn_beta"): array for name, array in state.items()}
    spelled = {name.replace("res_conv1", "conv1").replace("pred", "fc1000"): array for name, array in spelled.items()}
    one, other = adapt(make_raw(state)), adapt(make_raw(spelled))
    assert one.state.keys() == other.state.keys()
    assert all(torch.equal(tensor, other.state[name]) for name, tensor in one.state.items())


def test_biases_of_convolutions_are_left_out_and_said_where_they_count() -> None:
    state = blobs(reference(groups=4))
    plain = adapt(make_raw(state))
    zero = adapt(
        make_raw(state | {"conv1_b": np.zeros(8), "res2_0_branch2a_b": np.zeros(8), "res2_0_branch1_b": np.zeros(16)})
    )
    assert zero.state.keys() == plain.state.keys()
    assert zero.notes == plain.notes
    counted = adapt(make_raw(state | {"conv1_b": np.ones(8)}))
    assert any("biases of convolutions" in note for note in counted.notes)


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"conv1_gn_s": np.ones(8)}, "GroupNorm, which is not supported yet"),
        ({"res2_0_branch3_w": np.ones(8)}, "1 unknown (res2_0_branch3_w"),
        ({"res2_0_branch2a_bn_x": np.ones(8)}, "1 unknown (res2_0_branch2a_bn_x"),
        ({"fc1000_w": np.ones((5, 32))}, "two parameters for fc.weight"),
        ({"res1_0_branch2a_w": np.ones(8)}, "res1.0.conv1.weight"),
    ],
)
def test_blobs_that_do_not_fit_are_named(extra: dict[str, Any], says: str) -> None:
    assert says in get_error(lambda: adapt(make_raw(blobs(reference()) | extra)))


def test_deformable_convolution_is_refused() -> None:
    state = arrays(reference()) | {"res3.0.conv2_offset.weight": np.ones((18, 8, 3, 3), np.float32)}
    with pytest.raises(RequestError, match=r"conv2_offset|deformable"):
        adapt(make_raw({"model": state, "__author__": "x"}))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"stride_in_1x1": True},
        {"num_classes": 0},
        {"form": "concatenated"},
        {"block": "basic", "cardinality": 1, "width": 64},
    ],
)
def test_what_is_written_is_read_again(changes: dict[str, Any]) -> None:
    model = make_network(blocks=(1, 2, 1, 1), **changes)
    model.preprocessing = replace(TORCHVISION_V1, image_size=64, resize=70)
    model.classes = tuple("abc")[: model.architecture.num_classes] or None
    table = to_detectron2(model)
    assert all(array.dtype == np.float32 for array in table["model"].values())
    contents = adapt(make_raw(table, "pickle"))
    again = build_network(contents, "file")
    assert again.architecture == model.architecture.change(form="grouped")
    assert (again.preprocessing, again.classes) == (model.preprocessing, model.classes)
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(again(x), model(x), rtol=1e-5, atol=1e-5)


def shared_lists(levels: int) -> Any:
    value: Any = [0]
    for _ in range(levels):
        value = [value, value]
    return value


@pytest.mark.parametrize("key", ["stride_in_1x1", "preprocessing", "classes", "mean"])
def test_a_table_of_ours_that_would_grow_when_shown_does_not(key: str) -> None:
    """A pickle can hold 2**64 numbers in 64 lists; no message may write them out."""
    model = make_network()
    model.preprocessing = TORCHVISION_V1
    table = to_detectron2(model)
    about = table["resnext"]["preprocessing"] if key == "mean" else table["resnext"]
    about[key] = shared_lists(64)
    get_error(lambda: adapt(make_raw(table, "pickle")), "some/file.pth: its entry 'resnext'")


def test_the_names_written_are_those_of_detectron2() -> None:
    model = reference(groups=4)
    contents = adapt(make_raw({"model": arrays(model), "__author__": "torchvision"}))
    table = to_detectron2(build_network(contents, "file"))
    assert table["model"].keys() == arrays(model).keys()
    assert all(np.array_equal(array, arrays(model)[name]) for name, array in table["model"].items())
    assert table["__author__"] == "resnext"
    assert table["matching_heuristics"] is True
