"""timm's folders: preprocessing as timm's own transform, and folders that timm opens."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config

from resnext.data.imagenet_classes import imagenet_classes
from resnext.data.normalization import normalize
from resnext.data.preprocessing import Preprocessing
from resnext.data.transforms.crops import to_tensor
from resnext.data.transforms.eval_view import EvalView
from resnext.model.network import Network, create_model
from resnext.weights.adapters.registry import adapt
from resnext.weights.adapters.timm import PLAIN_PATTERN, compute_crop_pct, to_timm
from resnext.weights.build import build_network
from resnext.weights.presets import TORCHVISION_V1, TORCHVISION_V2
from tests.weights.adapters.adapter_helpers import copy_state, get_error, make_images, make_network, make_raw, randomize


def beside(config: dict[str, Any], model: Network | None = None) -> Any:
    """The Contents of a folder with this config.json."""
    return adapt(make_raw(copy_state(model or make_network()), "safetensors", {"architecture": "resnet50"} | config))


def test_the_function_is_timms() -> None:
    theirs = randomize(timm.create_model("resnext50_32x4d", layers=(1, 1, 1, 1), num_classes=5))
    contents = adapt(
        make_raw(copy_state(theirs), "safetensors", {"architecture": "resnext50_32x4d", "pretrained_cfg": {}})
    )
    assert (contents.format, contents.architecture.cardinality) == ("timm", 32)
    x = normalize(make_images(), TORCHVISION_V1, "cpu")
    with torch.no_grad():
        torch.testing.assert_close(build_network(contents, "file")(x), theirs(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(120, 80), (80, 121), (64, 64), (33, 97), (500, 150)])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"input_size": [3, 64, 64], "crop_pct": 0.95, "interpolation": "bilinear"},
        {"input_size": [3, 64, 64], "crop_pct": 0.875, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3},
        {"input_size": [3, 96, 96], "crop_pct": 1.0, "test_input_size": [3, 128, 128], "test_crop_pct": 0.9},
        {"input_size": [3, 64, 64], "crop_pct": 1.0, "crop_mode": "squash"},
        {"input_size": [3, 64, 64], "crop_pct": 1.0, "crop_mode": "border"},
    ],
)
def test_pictures_are_prepared_as_by_timm(settings: dict[str, Any], shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    preprocessing = beside({"pretrained_cfg": settings}).preprocessing
    assert preprocessing is not None
    mine = normalize(to_tensor(EvalView(preprocessing)(image))[None], preprocessing, "cpu")[0]
    theirs = create_transform(**resolve_data_config({}, pretrained_cfg=settings or {"url": ""}))(image)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"input_size": [3, 64, 128]},
        {"crop_mode": "squash", "crop_pct": 0.9},
        {"crop_mode": "border", "crop_pct": 0.875},
        {"crop_mode": "diagonal"},
        {"interpolation": "lanczos"},
        {"input_size": [1, 64, 64]},
    ],
)
def test_preprocessing_without_a_counterpart_is_none_and_said(settings: dict[str, Any]) -> None:
    contents = beside({"pretrained_cfg": settings})
    assert contents.preprocessing is None
    assert any("no equivalent" in note for note in contents.notes)


def test_the_setting_for_tests_is_said() -> None:
    contents = beside({"pretrained_cfg": {"input_size": [3, 176, 176], "test_input_size": [3, 224, 224]}})
    assert contents.preprocessing is not None
    assert contents.preprocessing.image_size == 176
    assert any("test_input_size [3, 224, 224]" in note for note in contents.notes)


@pytest.mark.parametrize(
    ("config", "classes"),
    [
        ({"label_names": ["a", "b", "c"]}, ("a", "b", "c")),
        ({"pretrained_cfg": {"label_names": ["a", "b", "c"]}}, ("a", "b", "c")),
        ({"pretrained_cfg": {"labels": ["a", "b", "c"]}}, ("a", "b", "c")),
        ({"labels": ["a", "b", "c"]}, ("a", "b", "c")),
        ({"label_names": {"0": "a", "2": "c", "1": "b"}}, ("a", "b", "c")),
        ({"label_names": {"0": "a", "1": "b", "3": "c"}}, None),
        ({"label_names": ["a", "b"]}, None),
        ({"pretrained_cfg": {"tag": "a1_in1k"}}, None),
        ({}, None),
    ],
)
def test_class_names_are_read_where_they_fit(config: dict[str, Any], classes: tuple[str, ...] | None) -> None:
    contents = beside(config)
    assert contents.classes == classes
    assert any("label_names" in note for note in contents.notes) == ("label_names" in config and classes is None)


def test_a_tag_of_imagenet_names_the_classes() -> None:
    with torch.device("meta"):
        state = create_model("resnet18").state_dict()
    contents = adapt(make_raw(state, config={"architecture": "resnet18", "pretrained_cfg": {"tag": "a1_in1k"}}))
    assert contents.classes == imagenet_classes()
    assert contents.provenance == {"tag": "a1_in1k", "architecture": "resnet18"}


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"architecture": "resnetaa50"}, "timm's 'resnetaa50' is not supported yet"),
        ({"architecture": "resnetblur50"}, "is not supported yet"),
        ({"architecture": "seresnext50_32x4d"}, "is not supported yet"),
        ({"architecture": "resnext50d_32x4d"}, "is not supported yet"),
        ({"model_args": {"output_stride": 8}}, "output_stride=8"),
        ({"model_args": {"act_layer": "silu"}}, "act_layer=silu"),
        ({"model_args": {"avg_down": True}}, "avg_down=True"),
        ({"model_args": []}, None),
        ({"model_args": [1]}, "model_args in its config.json is not an object"),
        ({"global_pool": "max"}, "global_pool=max"),
        ({"model_args": {"cardinality": 2, "base_width": 2, "global_pool": "avg"}}, None),
        ({"pretrained_cfg": 3}, "pretrained_cfg in its config.json is not an object"),
        ({"pretrained_cfg": {"input_size": "x"}}, "input_size 'x'"),
        ({"pretrained_cfg": {"input_size": [3, -1, 5]}}, "input_size [3, -1, 5]"),
        ({"pretrained_cfg": {"crop_pct": "x"}}, "crop_pct 'x'"),
        ({"pretrained_cfg": {"crop_pct": 1e-300}}, "config.json: resize"),
        ({"pretrained_cfg": {"crop_pct": 2.0}}, "smaller than image_size"),
        ({"pretrained_cfg": {"crop_pct": float("nan")}}, "crop_pct nan"),
        ({"pretrained_cfg": {"mean": [1, 2, 3]}}, "mean"),
        ({"pretrained_cfg": {"mean": [10**400, 0, 0]}}, "mean"),
        ({"pretrained_cfg": {"crop_pct": 10**400}}, "resize"),
        ({"pretrained_cfg": {"crop_mode": [1]}}, None),
        ({"pretrained_cfg": {"interpolation": {}}}, None),
        ({"pretrained_cfg": {"interpolation": [2]}}, None),
    ],
)
def test_a_config_is_used_or_refused_in_a_sentence(config: dict[str, Any], says: str | None) -> None:
    if says is None:
        assert beside(config).format == "timm"
        return
    assert says in get_error(lambda: beside(config))


def test_the_plain_names_are_those_without_letters_more() -> None:
    names = [name for name in timm.list_models("*resne*t*") if PLAIN_PATTERN.fullmatch(name)]
    assert "resnext50_32x4d" in names
    assert all(re.fullmatch(r"(wide_)?resnex?t\d+(_\d+x\d+d|_2)?", name) for name in names)
    assert not {"resnetaa50", "resnetblur50", "resnetblur18", "resnet50d", "resnet50_gn"} & set(names)


WRITTEN: list[dict[str, Any]] = [
    {},
    {"form": "branched", "in_channels": 1},
    {"block": "basic", "cardinality": 1},
    {"num_classes": 0},
    {"blocks": (1, 2, 1, 1)},
    {"stage_channels": (64, 128, 256, 512), "stage_widths": (8, 16, 32, 64)},
    {"cardinality": 1, "width": 100},
]


@pytest.mark.parametrize("changes", WRITTEN)
def test_timm_opens_what_is_written_and_computes_the_same(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = make_network(**changes)
    channels = model.architecture.in_channels
    model.preprocessing = TORCHVISION_V2
    if channels == 1:
        model.preprocessing = Preprocessing(image_size=48, resize=55, mean=(0.4,), std=(0.2,), channels=1)
    if model.architecture.num_classes:
        model.classes = ("a", "b", "c")
    state, config = to_timm(model)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = torch.rand(2, channels, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(theirs(x), model(x), rtol=1e-5, atol=1e-5)
    again = adapt(make_raw(state, "safetensors", json.loads(json.dumps(config))))
    assert (again.preprocessing, again.classes) == (model.preprocessing, model.classes)
    assert again.architecture == model.architecture.change(form="grouped")
    assert theirs.pretrained_cfg.get("label_names") == (list(model.classes) if model.classes else None)
    data = resolve_data_config({}, model=theirs)
    assert data["input_size"][1] == model.preprocessing.image_size
    assert create_transform(**data).transforms[0].size == model.preprocessing.resize


def test_every_resize_survives_as_a_share() -> None:
    for size in (32, 160, 176, 224, 299):
        for resize in range(size, 3 * size):
            assert math.floor(size / compute_crop_pct(size, resize)) == resize
