"""Detectors on disk: our file, torchvision's, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from resnext.detection.model.faster_rcnn import FasterRcnn, build_detector
from resnext.detection.preprocessing import DetectPreprocessing
from resnext.detection.settings import DetectorSettings
from resnext.detection.weights import KEY, is_detector, load_detector, save_detector, serialize_detector
from resnext.errors import RequestError
from resnext.model.network import create_model
from resnext.weights import load
from resnext.weights.native import save
from resnext.weights.readers.detect_format import read_weights_file
from tests.detection.tiny_detector import CIFAR, NARROW, detector, pixels

pytestmark = pytest.mark.usefixtures("one_thread")


def assert_same(one: FasterRcnn, other: FasterRcnn) -> None:
    theirs = other.state_dict()
    assert one.state_dict().keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())
    for name in ("architecture", "settings", "classes", "preprocessing", "stage"):
        assert getattr(one, name) == getattr(other, name), name
    with torch.no_grad():
        found, right = (model.eval().detect([pixels(64, 50)])[0] for model in (one, other))
    assert all(torch.equal(found[key], right[key]) for key in right)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layout": "c4", "pool": "max", "anchor_sizes": (16.0, 32.0), "anchor_ratios": (1.0,), "score": 0.25},
        {"stage": "rpn"},
        {"architecture": CIFAR.change(pre_activation=True, bn_eps=1e-3)},
        {"architecture": NARROW.change(form="branched"), "classes": ("a\nb", "é", "")},
        {"view": DetectPreprocessing(min_size=33, max_size=99, resize="torchvision", std=(0.1, 0.2, 0.3), exif=False)},
    ],
    ids=str,
)
def test_our_file_gives_back_the_detector(changes: dict[str, Any], tmp_path: Path) -> None:
    model = detector(**changes)
    model.provenance = {"step": 3}
    save_detector(model, tmp_path / "d.safetensors")
    loaded = load_detector(tmp_path / "d.safetensors")
    assert not loaded.training
    assert loaded.provenance == {"step": 3}
    assert_same(loaded, model)
    assert is_detector(read_weights_file(tmp_path / "d.safetensors"))
    assert serialize_detector(loaded) == serialize_detector(model)


def test_category_ids_are_in_the_file_and_older_files_do_without(tmp_path: Path) -> None:
    model = detector()
    model.category_ids = (7, 3)
    save_detector(model, tmp_path / "d.safetensors")
    assert load_detector(tmp_path / "d.safetensors").category_ids == (7, 3)
    about = json.loads(metadata_of(model))
    del about["category_ids"]
    save_file(model.state_dict(), tmp_path / "old.safetensors", metadata={KEY: json.dumps(about)})
    assert load_detector(tmp_path / "old.safetensors").category_ids is None


def test_a_proposer_is_in_the_file(tmp_path: Path) -> None:
    proposer = detector(stage="rpn", seed=1, anchor_ratios=(0.5, 2.0))
    model = detector(stage="fast_rcnn", proposer=proposer)
    save_detector(model, tmp_path / "d.safetensors")
    loaded = load_detector(tmp_path / "d.safetensors")
    assert_same(loaded, model)
    assert loaded.proposer.settings == proposer.settings


def test_bn_eps_can_be_said(tmp_path: Path) -> None:
    save_detector(detector(), tmp_path / "d.safetensors")
    loaded = load_detector(tmp_path / "d.safetensors", bn_eps=1e-3)
    assert loaded.architecture.bn_eps == loaded.network.bn1.eps == 1e-3
    with pytest.raises(RequestError, match="bn_eps must be"):
        load_detector(tmp_path / "d.safetensors", bn_eps=-1.0)


def torchvisions(**changes: Any) -> dict[str, Tensor]:
    """A state dict under torchvision's names (which test_faster_rcnn.py holds against torchvision's own)."""
    settings = DetectorSettings(fpn_channels=8, head_channels=16)
    return build_detector(NARROW, settings, ("a", "b", "c"), DetectPreprocessing()).state_dict() | changes


def written(state: Any, path: Path) -> Path:
    torch.save(state, path)
    return path


def test_torchvisions_file_is_a_detector_with_numbered_classes(tmp_path: Path) -> None:
    state = torchvisions()
    model = load_detector(written(state, tmp_path / "tv.pth"))
    assert model.classes == ("class 1", "class 2", "class 3")
    assert model.has_numbered_classes
    assert model.preprocessing == DetectPreprocessing(resize="torchvision")
    assert (model.settings.fpn_channels, model.settings.head_channels) == (8, 16)
    assert len(model.provenance["notes"]) == 1
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_torchvisions_91_outputs_have_cocos_names_and_ids(tmp_path: Path) -> None:
    scores = "roi_heads.box_predictor."
    state = torchvisions(
        **{
            f"{scores}cls_score.weight": torch.zeros(91, 16),
            f"{scores}cls_score.bias": torch.zeros(91),
            f"{scores}bbox_pred.weight": torch.zeros(364, 16),
            f"{scores}bbox_pred.bias": torch.zeros(364),
        }
    )
    model = load_detector(written(state, tmp_path / "tv.pth"))
    assert model.category_ids == tuple(range(1, 91))
    assert [model.classes[id_ - 1] for id_ in (1, 11, 12, 13, 90)] == [
        *("person", "fire hydrant", "class 12", "stop sign", "toothbrush"),
    ]
    assert len(set(model.classes)) == 90
    assert "taken as COCO's categories" in model.provenance["notes"][0]


def test_a_checkpoint_of_torchvisions_references_is_read(tmp_path: Path) -> None:
    state = torchvisions()
    path = written({"model": state, "epoch": 3, "optimizer": {"state": {}}}, tmp_path / "model_3.pth")
    assert is_detector(read_weights_file(path))
    assert all(torch.equal(value, state[name]) for name, value in load_detector(path).state_dict().items())


def test_names_from_before_torchvision_0_15_are_read(tmp_path: Path) -> None:
    state = torchvisions()
    old = {
        name.replace(".0.weight", ".weight").replace(".0.bias", ".bias") if "fpn" in name else name: value
        for name, value in state.items()
    }
    old = {name.replace("rpn.head.conv.0.0.", "rpn.head.conv."): value for name, value in old.items()}
    assert {"backbone.fpn.inner_blocks.0.weight", "rpn.head.conv.weight"} <= old.keys()
    model = load_detector(written(old, tmp_path / "old.pth"))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_frozen_norms_lack_counters_and_bring_a_note_on_eps(tmp_path: Path) -> None:
    state = {name: value for name, value in torchvisions().items() if "num_batches" not in name}
    path = written(state, tmp_path / "frozen.pth")
    assert any("bn_eps 1e-12" in note for note in load_detector(path).provenance["notes"])
    model = load_detector(path, bn_eps=1e-12)
    assert model.architecture.bn_eps == 1e-12
    assert len(model.provenance["notes"]) == 1


def tensor_changes() -> dict[str, tuple[dict[str, Any], str]]:
    scores = "roi_heads.box_predictor.cls_score.weight"
    return {
        "missing": ({scores: None}, f"{scores} is missing"),
        "no pyramid": ({"backbone.fpn.layer_blocks.0.0.weight": None}, "is missing"),
        "no stem": ({"backbone.body.conv1.weight": None}, "conv1"),
        "scalar": ({"roi_heads.box_head.fc6.weight": torch.tensor(1.0)}, "fc6.weight"),
        "endless": ({scores: torch.empty(10**12, 0)}, "cls_score.weight has the invalid shape"),
        "no outputs": ({scores: torch.empty(0, 16)}, "cls_score.weight has the invalid shape"),
        "shape": ({"rpn.head.bbox_pred.weight": torch.zeros(12, 9, 1, 1)}, "bbox_pred.weight has shape"),
        "not finite": ({"backbone.fpn.layer_blocks.0.0.bias": torch.full((8,), float("nan"))}, "not finite"),
        "complex": ({"rpn.head.cls_logits.bias": torch.zeros(3, dtype=torch.complex64)}, "complex"),
        "variance": ({"backbone.body.bn1.running_var": torch.full((8,), -1.0)}, "below 0"),
        "only background": (
            {
                scores: torch.zeros(1, 16),
                "roi_heads.box_predictor.cls_score.bias": torch.zeros(1),
                "roi_heads.box_predictor.bbox_pred.weight": torch.zeros(4, 16),
                "roi_heads.box_predictor.bbox_pred.bias": torch.zeros(4),
            },
            "no outputs except the background",
        ),
    }


@pytest.mark.parametrize("case", tensor_changes())
def test_a_damaged_file_of_torchvision_is_refused_by_name(case: str, tmp_path: Path) -> None:
    changes, says = tensor_changes()[case]
    state = {name: value for name, value in torchvisions(**changes).items() if value is not None}
    path = written(state, tmp_path / "tv.pth")
    with pytest.raises(RequestError, match=says) as error:
        load_detector(path)
    assert str(error.value).startswith(str(path))


def test_tensors_that_share_their_numbers_do_not_outgrow_the_file(tmp_path: Path) -> None:
    many = torch.zeros(10**6)
    path = written(torchvisions() | {f"backbone.body.x{i}": many for i in range(50)}, tmp_path / "tv.pth")
    with pytest.raises(RequestError, match="far larger than the file"):
        load_detector(path)


def test_what_holds_no_detector_is_refused(tmp_path: Path) -> None:
    network = create_model(CIFAR.change(num_classes=3))
    save(network, tmp_path / "classifier.safetensors")
    written(torchvisions() | {"roi_heads.mask_head.x": torch.zeros(1)}, tmp_path / "mask.pth")
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "empty").mkdir()
    assert not is_detector(read_weights_file(tmp_path / "classifier.safetensors"))
    for name in ("classifier.safetensors", "mask.pth", "text.pth", "empty", "missing.pth"):
        with pytest.raises(RequestError, match=name):
            load_detector(tmp_path / name)


def changed(path: Path, **changes: Any) -> Path:
    """A file of a tiny detector whose metadata say something else."""
    about = json.loads(metadata_of(detector()))
    for key, value in changes.items():
        inside, _, name = key.partition("__")
        if name:
            about[inside][name] = value
        else:
            about[key] = value
    save_file(detector().state_dict(), path, metadata={KEY: json.dumps(about)})
    return path


def metadata_of(model: FasterRcnn) -> str:
    data = serialize_detector(model)
    length = int.from_bytes(data[:8], "little")
    return str(json.loads(data[8 : 8 + length])["__metadata__"][KEY])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"detector__fpn_channels": 10**9}, "detector.fpn_channels must be from 1 to"),
        ({"detector__head_channels": 10**30}, "detector.head_channels must be from 1 to"),
        ({"detector__head_channels": 60_000, "detector__fpn_channels": 60_000}, "has shape"),
        ({"detector__anchor_sizes": [1.0] * 65}, "detector.anchor_sizes must be 1 to 64 numbers"),
        ({"detector__anchor_ratios": [1.0] * 65}, "detector.anchor_ratios must be 1 to 64 numbers"),
        ({"detector__anchor_ratios": [-1.0]}, "must be numbers above 0"),
        ({"detector__layuot": "c4"}, "did you mean 'layout'"),
        ({"detector__pool": "max"}, "layout c4"),
        ({"detector": 3}, "must hold settings"),
        ({"architecture__base_channels": 10**9}, "."),
        ({"architecture__blocks": [10**6] * 4}, "."),
        ({"architecture__depth": "deep"}, "."),
        ({"architecture": "resnet50"}, "does not describe a detector"),
        ({"preprocessing__min_size": 10**9}, "min_size"),
        ({"classes": []}, "classes must be a list of names"),
        ({"classes": ["a", 2]}, "classes must be a list of names"),
        ({"classes": ["a"]}, "cls_score.* has shape"),
        ({"category_ids": [1]}, "category_ids must be one distinct integer per class"),
        ({"category_ids": [1, 1]}, "category_ids must be"),
        ({"category_ids": [1, True]}, "category_ids must be"),
        ({"category_ids": {"a": 1}}, "category_ids must be"),
        ({"learn": "all"}, "stage 'all' is not one of"),
        ({"learn": "fast_rcnn"}, "does not describe a detector"),
        ({"learn": "rpn"}, "unknown"),
        ({"learn": "fast_rcnn", "proposer": {}}, "does not describe a detector"),
        ({"version": 2}, "version 2"),
        ({"version": True}, "version True"),
        ({"version": None}, "version None"),
    ],
)
def test_metadata_that_say_something_else_are_refused_with_the_path_first(
    changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    path = changed(tmp_path / "d.safetensors", **changes)
    with pytest.raises(RequestError, match=says) as error:
        load_detector(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("text", ["", "[", "[1]", "3", "null", '{"version": 1}', "[" * 100_000])
def test_metadata_that_are_no_table_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    save_file(detector().state_dict(), path, metadata={KEY: text})
    with pytest.raises(RequestError) as error:
        load_detector(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("case", ["missing", "extra", "shape", "nan"])
def test_our_file_with_wrong_tensors_is_refused(case: str, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    save_detector(detector(), path)
    state, about = load_file(path), metadata_of(detector())
    name = "rpn.head.cls_logits.bias"
    if case == "missing":
        del state[name]
    else:
        shapes = {"extra": ("rpn.head.more", 3), "shape": (name, 4), "nan": (name, 3)}
        state[shapes[case][0]] = torch.full((shapes[case][1],), np.nan if case == "nan" else 0.0)
    save_file(state, path, metadata={KEY: about})
    with pytest.raises(RequestError) as error:
        load_detector(path)
    assert str(error.value).startswith(str(path))
    assert "rpn.head" in str(error.value)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(LEAVES, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=3), v, max_size=3))
ABOUT = json.loads(metadata_of(detector()))
PLACES = [(key, name) for key, inside in ABOUT.items() for name in (inside if isinstance(inside, dict) else [None])]


@settings(max_examples=200)
@given(st.sampled_from(PLACES), VALUES)
def test_any_value_in_the_metadata_ends_in_a_detector_or_a_sentence(place: tuple[str, str | None], value: Any) -> None:
    from resnext.detection.weights import from_native
    from resnext.weights.network_spec import RawCheckpoint

    about = json.loads(json.dumps(ABOUT))
    key, name = place
    if name is None:
        about[key] = value
    else:
        about[key][name] = value
    path, metadata = Path("d.safetensors"), {KEY: json.dumps(about)}
    raw = RawCheckpoint(path=path, file_format="safetensors", value=STATE, metadata=metadata, config=None)
    try:
        model = from_native(raw)
    except RequestError as error:
        assert str(error).startswith("d.safetensors")
    else:
        assert model.state_dict().keys() == STATE.keys()


STATE = detector().state_dict()
STRANGE = NARROW.change(stride_in_1x1=True, bn_eps=1e-3)  # what no tensor says


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layout": "c4", "anchor_sizes": (16.0, 32.0), "anchor_ratios": (1.0,)},
        {"stage": "rpn"},
        {"architecture": STRANGE.change(form="branched")},
        {"architecture": CIFAR.change(pre_activation=True, bn_eps=0.1)},
    ],
    ids=str,
)
def test_the_network_below_our_detector_is_the_one_that_was_trained(changes: dict[str, Any], tmp_path: Path) -> None:
    view = DetectPreprocessing(min_size=64, max_size=128, mean=(0.1, 0.2, 0.3), std=(0.3, 0.4, 0.5), exif=False)
    model = detector(**{"architecture": STRANGE, "view": view} | changes)
    save_detector(model, tmp_path / "d.safetensors")
    network = load(tmp_path / "d.safetensors", detector_backbone=True)
    assert network.architecture == model.architecture.change(num_classes=0)
    p = network.preprocessing
    assert p is not None
    assert (p.mean, p.std, p.exif) == (view.mean, view.std, view.exif)
    image = torch.randn(1, 3, 64, 64)
    keys = str(model.network.state_dict().keys())
    last = f"C{max(number for number in range(2, 6) if f'layer{number - 1}.' in keys)}"
    with torch.inference_mode():
        assert torch.equal(network.features(image, last)[last], model.eval().network.features(image, last)[last])
    if model.settings.layout == "c4":
        theirs = model.roi_heads.box_head.state_dict()
        assert all(torch.equal(network.state_dict()[name], value) for name, value in theirs.items())
    assert "only the backbone of the detector was read" in network.provenance["notes"][-1]


def test_a_detector_is_no_network_unless_that_is_asked_for(tmp_path: Path) -> None:
    save_detector(detector(), tmp_path / "d.safetensors")
    with pytest.raises(RequestError, match=r"is a detector: .*resnext\.load_detector.*convert"):
        load(tmp_path / "d.safetensors")


def test_a_c4_detector_of_the_rpn_step_has_no_whole_network(tmp_path: Path) -> None:
    save_detector(detector(layout="c4", stage="rpn", anchor_sizes=(16.0,)), tmp_path / "d.safetensors")
    with pytest.raises(RequestError, match="no last backbone stage"):
        load(tmp_path / "d.safetensors", detector_backbone=True)


@pytest.mark.parametrize(
    "damage", [{"preprocessing": 3}, {"detector": None}, {"learn": "x", "detector": {}, "preprocessing": {}}]
)
def test_metadata_of_no_detector_is_one_sentence(damage: dict[str, Any], tmp_path: Path) -> None:
    path = changed(tmp_path / "d.safetensors", **damage)
    with pytest.raises(RequestError, match=r"d\.safetensors: its detector metadata is incomplete"):
        load(path, detector_backbone=True)
