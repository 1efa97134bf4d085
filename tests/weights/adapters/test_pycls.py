"""pycls's checkpoints: the function of a reference that takes BGR, and its settings read without trust."""

from typing import Any

import hypothesis
import pytest
import torch
import torch.nn.functional as F
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from resnext.data.imagenet_classes import imagenet_classes
from resnext.errors import RequestError
from resnext.weights.adapters.registry import adapt
from resnext.weights.presets import CIFAR10_CLASSES, CIFAR10_PREPROCESSING
from tests.weights.adapters.adapter_helpers import check_outputs, copy_state, get_error, make_raw, randomize

MEAN, STD = [103.53, 116.28, 123.675], [57.375, 57.12, 58.395]  # 255 times those of its datasets/imagenet.py: B, G, R


class Transform(nn.Module):
    def __init__(self, into: int, width: int, out: int, strides: tuple[int, int], groups: int, eps: float) -> None:
        super().__init__()
        self.a = nn.Conv2d(into, width, 1, strides[0], bias=False)
        self.a_bn = nn.BatchNorm2d(width, eps=eps)
        self.b = nn.Conv2d(width, width, 3, strides[1], 1, groups=groups, bias=False)
        self.b_bn = nn.BatchNorm2d(width, eps=eps)
        self.c = nn.Conv2d(width, out, 1, bias=False)
        self.c_bn = nn.BatchNorm2d(out, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_bn(self.c(F.relu(self.b_bn(self.b(F.relu(self.a_bn(self.a(x))))))))


class Block(nn.Module):
    def __init__(self, into: int, width: int, stride: int, groups: int, in_1x1: bool, eps: float) -> None:
        super().__init__()
        if into != 2 * width:
            self.proj = nn.Conv2d(into, 2 * width, 1, stride, bias=False)
            self.bn = nn.BatchNorm2d(2 * width, eps=eps)
        self.f = Transform(into, width, 2 * width, (stride, 1) if in_1x1 else (1, stride), groups, eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.f(x) + (self.bn(self.proj(x)) if hasattr(self, "proj") else x))


class Reference(nn.Module):
    """A network as pycls has it, for pixels of 0 to 1 in the order BGR."""

    def __init__(self, groups: int = 4, in_1x1: bool = False, eps: float = 1e-5, cifar: bool = False) -> None:
        super().__init__()
        self.cifar = cifar
        self.stem = nn.Module()
        self.stem.conv = nn.Conv2d(3, 8, 3, 1, 1, bias=False) if cifar else nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.stem.bn = nn.BatchNorm2d(8, eps=eps)
        self.s1 = nn.Sequential()
        self.s1.add_module("b1", Block(8, 8, 1, groups, in_1x1, eps))
        self.s1.add_module("b2", Block(16, 8, 1, groups, in_1x1, eps))
        self.s2 = nn.Sequential()
        self.s2.add_module("b1", Block(16, 16, 2, groups, in_1x1, eps))
        self.head = nn.Module()
        self.head.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem.bn(self.stem.conv(x)))
        x = x if self.cifar else F.max_pool2d(x, 3, 2, 1)
        return self.head.fc(self.s2(self.s1(x)).mean((2, 3)))


def reference(**options: Any) -> Reference:
    return randomize(Reference(**options))  # type: ignore[return-value]


def checkpoint(model: nn.Module, settings: Any = None, key: str = "model_state") -> dict[str, Any]:
    cfg = settings if isinstance(settings, str) else yaml.safe_dump(settings)
    value = {"epoch": 99, key: copy_state(model), "optimizer_state": {"state": {}, "param_groups": []}}
    return value if settings is None else value | {"cfg": cfg}


SETTINGS: dict[str, Any] = {
    "MODEL": {"TYPE": "resnet", "DEPTH": 50},
    "RESNET": {"STRIDE_1X1": False},
    "BN": {"EPS": 1e-5},
    "TRAIN": {"DATASET": "imagenet", "IM_SIZE": 200},
    "TEST": {"IM_SIZE": 230},
}


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("in_1x1", [False, True])
@pytest.mark.parametrize("eps", [1e-5, 1e-2])
def test_the_function_is_that_of_pycls(groups: int, in_1x1: bool, eps: float) -> None:
    model = reference(groups=groups, in_1x1=in_1x1, eps=eps)
    settings = SETTINGS | {"RESNET": {"STRIDE_1X1": in_1x1}, "BN": {"EPS": eps}}
    contents = adapt(make_raw(checkpoint(model, settings)))
    assert contents.format == "pycls"
    assert contents.preprocessing is not None
    assert (contents.preprocessing.image_size, contents.preprocessing.resize) == (200, 230)
    check_outputs(contents, model, MEAN, STD)


def test_without_settings_the_usual_is_assumed_and_said() -> None:
    model = reference()
    contents = adapt(make_raw(checkpoint(model)))
    check_outputs(contents, model, MEAN, STD)
    assert any("the file has no settings" in note for note in contents.notes)
    assert any("BGR" in note for note in contents.notes)


def test_cifar_networks_take_rgb() -> None:
    model = reference(cifar=True)
    settings = SETTINGS | {"TRAIN": {"DATASET": "cifar10", "IM_SIZE": 32}, "MODEL": {"TYPE": "resnet"}}
    contents = adapt(make_raw(checkpoint(model, settings)))
    assert contents.preprocessing == CIFAR10_PREPROCESSING
    assert contents.classes == CIFAR10_CLASSES
    mean, std = ([255 * x for x in values] for values in (CIFAR10_PREPROCESSING.mean, CIFAR10_PREPROCESSING.std))
    check_outputs(contents, model, mean, std, bgr=False, size=32)


def test_averaged_weights_are_taken_and_imagenet_named() -> None:
    model, averaged = reference(), reference()
    averaged.head.fc = nn.Linear(32, 1000)
    contents = adapt(make_raw(checkpoint(model, SETTINGS) | {"ema_state": copy_state(averaged)}))
    assert contents.classes == imagenet_classes()
    assert any("ema_state" in note for note in contents.notes)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (SETTINGS | {"MODEL": {"TYPE": "regnet"}}, "pycls's 'regnet' is not supported yet"),
        (SETTINGS | {"MODEL": {"TYPE": "effnet"}}, "'effnet'"),
        (SETTINGS | {"MODEL": {"ACTIVATION_FUN": "silu"}}, "ACTIVATION_FUN 'silu'"),
        (SETTINGS | {"MODEL": {"TYPE": "anynet"}, "ANYNET": {"STRIDES": [2, 2]}}, "AnyNet or RegNet"),
        (SETTINGS | {"MODEL": {"TYPE": "anynet"}, "ANYNET": {"STEM_TYPE": "simple_stem_in"}}, "AnyNet or RegNet"),
        (SETTINGS | {"BN": {"EPS": "x"}}, "BN.EPS 'x', expected a number"),
        (SETTINGS | {"BN": {"EPS": 0}}, "bn_eps must be a number from 1e-12"),
        (SETTINGS | {"BN": {"EPS": ".nan"}}, "BN.EPS"),
        (SETTINGS | {"TEST": {"IM_SIZE": "nan"}}, "resize"),
        (SETTINGS | {"TEST": {"IM_SIZE": 10}}, "resize 10 is smaller"),
        ("a: [", "settings are not YAML"),
        ("[1, 2]", "settings are a list"),
        ("[" * 5000, "settings are not YAML"),
        ("a" * 70000, "at most 65,536"),
        ("!!python/object/apply:os.system [ls]", "settings are a list"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings: Any, says: str) -> None:
    assert says in get_error(lambda: adapt(make_raw(checkpoint(reference(), settings))))


def test_settings_that_would_grow_do_not() -> None:
    """Nine merges of nine merges ...: PyYAML's usual loaders would multiply the entries."""
    lines = ["a0: &a0 {k: v}"] + [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 30)]
    assert adapt(make_raw(checkpoint(reference(), "\n".join(lines)))).format == "pycls"


NAMES = st.text(max_size=3) | st.sampled_from(["MODEL", "TYPE", "BN", "EPS", "TRAIN", "IM_SIZE", "ANYNET", "STRIDES"])
TREES = st.recursive(st.text("ab01:", max_size=4), lambda x: st.lists(x) | st.dictionaries(NAMES, x), max_leaves=8)
MODEL = reference()


@hypothesis.settings(deadline=None)
@given(st.text(max_size=60) | TREES)
def test_any_settings_are_read_or_one_error(settings: Any) -> None:
    try:
        adapt(make_raw(checkpoint(MODEL, settings)))
    except RequestError as error:
        assert str(error).startswith("some/file.pth")


def test_squeeze_and_excitation_is_refused() -> None:
    value = checkpoint(reference(), SETTINGS)
    value["model_state"]["s1.b1.f.se.f_ex.0.weight"] = torch.ones(2, 8, 1, 1)
    with pytest.raises(RequestError, match="squeeze-and-excitation is not supported yet"):
        adapt(make_raw(value))


def test_a_regnet_without_settings_is_recognised_by_its_stages() -> None:
    state = copy_state(reference(cifar=True)) | {"s4.b1.f.a.weight": torch.ones(2, 2, 1, 1)}
    with pytest.raises(RequestError, match="AnyNet or RegNet"):
        adapt(make_raw({"model_state": state}))
