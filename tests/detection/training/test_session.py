"""Where a run's detector starts, what of it is frozen, and the chain of the paper's two steps."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from resnext.data.preprocessing import Preprocessing
from resnext.detection.data.open import open_detection_data
from resnext.detection.evaluation.class_matching import merge_classes
from resnext.detection.model.faster_rcnn import OBJECT_CLASSES
from resnext.detection.preprocessing import IMAGENET_MEAN
from resnext.detection.settings import DetectDataSettings, DetectRecipe
from resnext.detection.training.initial_weights import build_initial_detector, extract_network
from resnext.detection.training.task import Detection, State
from resnext.detection.weights import load_detector, save_detector
from resnext.errors import RequestError
from resnext.model.network import create_model
from resnext.recipe import read_recipe
from resnext.run_directory import RunDirectory
from resnext.training.distributed import World
from resnext.weights import load
from resnext.weights.native import save
from resnext.weights.network_spec import RawCheckpoint
from resnext.weights.readers.detect_format import read_weights_file
from tests.detection.annotation_files import voc_folder
from tests.detection.shape_images import folder, recipe
from tests.detection.tiny_detector import shake

MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
NETWORK: dict[str, Any] = {"stem": "imagenet", "blocks": (1, 1, 1), "base_channels": 4}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a network with classes, preprocessing and an eps of its own."""
    model = create_model("resnext11_2x4d", **NETWORK, num_classes=7, bn_eps=1e-3, seed=1)
    shake(model)
    model.preprocessing = Preprocessing(image_size=32, resize=32, mean=MEAN, std=STD, channels=3)
    path = tmp_path_factory.mktemp("weights") / "classifier.safetensors"
    save(model, path)
    return path


def asked(tmp_path: Path, data: Path, **changes: Any) -> DetectRecipe:
    return read_recipe(recipe(tmp_path / "r.yaml", data, **changes), kind=DetectRecipe)


def begun(tmp_path: Path, data: Path, said: io.StringIO | None = None, **changes: Any) -> tuple[Detection, State]:
    settings, world = asked(tmp_path, data, **changes), World(torch.device("cpu"))
    task, console = Detection(settings), Console(file=said or io.StringIO(), width=200)
    return task, task.build(settings, RunDirectory(tmp_path / "run"), world, False, console)


def prepared(tmp_path: Path, data: Path, **changes: Any) -> tuple[State, str]:
    """The state, and what was said."""
    said = io.StringIO()
    return begun(tmp_path, data, said, **changes)[1], said.getvalue()


def frozen(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if not p.requires_grad}


def test_classification_weights_bring_their_colours_and_eps(data: Path, classifier: Path, tmp_path: Path) -> None:
    state, _ = prepared(tmp_path, data, init__weights=str(classifier))
    model, theirs = state.model, load(classifier).state_dict()
    assert (model.preprocessing.mean, model.preprocessing.std) == (MEAN, STD)
    assert model.architecture.bn_eps == model.network.bn1.eps == 1e-3
    assert model.architecture.num_classes == 0
    assert model.provenance["init"]["weights"] == str(classifier)
    body = model.network.state_dict()
    assert body.keys() == theirs.keys() - {"fc.weight", "fc.bias"}
    assert all(torch.equal(value, theirs[name]) for name, value in body.items())


def test_the_file_that_a_run_starts_from_is_read_once(
    data: Path, classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_detector(prepared(tmp_path, data)[0].model, tmp_path / "d.safetensors")
    for path in (classifier, tmp_path / "d.safetensors"):
        read: list[Path] = []

        def note(path: Path, read: list[Path] = read) -> RawCheckpoint:
            read.append(path)
            return read_weights_file(path)

        for module in ("resnext.detection.weights", "resnext.weights.readers.detect_format"):
            monkeypatch.setattr(f"{module}.read_weights_file", note)
        prepared(tmp_path, data, init__weights=str(path))
        assert read == [path]


def test_colours_given_by_hand_win_and_fresh_networks_have_imagenets(
    data: Path, classifier: Path, tmp_path: Path
) -> None:
    given = {"data__mean": [0.5] * 3, "data__std": [0.25] * 3}
    state, _ = prepared(tmp_path, data, init__weights=str(classifier), **given)
    assert state.model.preprocessing.mean == (0.5,) * 3
    state, _ = prepared(tmp_path, data)
    assert state.model.preprocessing.mean == IMAGENET_MEAN


def test_a_detector_with_the_same_classes_goes_on_as_it_is(data: Path, tmp_path: Path) -> None:
    first, _ = prepared(tmp_path, data)
    shake(first.model)
    save_detector(first.model, tmp_path / "d.safetensors")
    second, said = prepared(
        tmp_path, data, init__weights=str(tmp_path / "d.safetensors"), train__seed=9, detector__score=0.3
    )
    state = first.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in second.model.state_dict().items())
    assert second.model.settings.score == 0.3
    assert "anew" not in said
    assert "as it did" not in said
    _, said = prepared(
        tmp_path, data, init__weights=str(tmp_path / "d.safetensors"), data__max_size=100, data__exif=False
    )
    assert (
        "the recipe changes the detector's preprocessing: data.max_size 100, not 64, data.exif False, not True" in said
    )


def test_a_detector_remembers_the_category_ids_it_was_trained_on(data: Path, tmp_path: Path) -> None:
    assert prepared(tmp_path, data)[0].model.category_ids == (1, 2)
    assert prepared(tmp_path, data, train__stage="rpn")[0].model.category_ids is None  # objects of any class
    voc = {"data__source": "voc", "train__batch_size": 1}  # which has no ids
    assert prepared(tmp_path, voc_folder(tmp_path / "voc"), **voc)[0].model.category_ids is None


def test_what_training_knows_of_its_held_out_images_is_said(tmp_path: Path) -> None:
    root = folder(tmp_path / "data")
    path = root / "annotations/instances_val.json"
    content = json.loads(path.read_text())
    content["categories"] = [{"id": 2, "name": "disc"}, {"id": 1, "name": "bar"}, {"id": 9, "name": "none"}]
    content["annotations"] += [content["annotations"][0] | {"id": 1000 + k} for k in range(11)]
    path.write_text(json.dumps(content))
    task, state = begun(tmp_path, root)
    said = list(task.describe_run(state))
    assert (
        "instances_val.json: classes matched by name; unknown to the detector, without boxes in the data: 'none'"
        in said
    )
    assert said[-1].startswith("1 image of instances_val.json has more boxes than the 10 detections that count")


HEAD = "roi_heads.box_predictor."


@pytest.mark.parametrize(
    ("theirs", "kept", "says"),
    [
        (("disc", "other"), {0: 0}, "change from 2 to 2 classes: 1 and the background keep .*; 'bar' start new"),
        (("bar", "disc"), {0: 1, 1: 0}, "change from 2 to 2 classes: all keep their weights, matched by name"),
        (("a", "b", "bar"), {1: 2}, "change from 3 to 2 classes: 1 and .* keep .*; 'disc' start new"),
        (("a", "b"), {}, "no name matches, so all but the background start new"),
    ],
    ids=["one", "another order", "fewer", "none"],
)
def test_last_layers_keep_the_rows_of_classes_known_by_name(
    theirs: tuple[str, ...], kept: dict[int, int], says: str, data: Path, tmp_path: Path
) -> None:
    model = build_initial_detector(
        asked(tmp_path, data), replace(open_detection_data(DetectDataSettings(path=str(data)))[0], classes=theirs)
    )
    shake(model)
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias.normal_()
        model.roi_heads.box_predictor.bbox_pred.bias.normal_()
    save_detector(model, tmp_path / "d.safetensors")
    state, said = prepared(tmp_path, data, init__weights=str(tmp_path / "d.safetensors"), train__seed=9)
    fresh, _ = prepared(tmp_path, data, train__seed=9)
    assert state.model.classes == ("disc", "bar")
    assert re.search(says, said)
    old, new, drawn = model.state_dict(), state.model.state_dict(), fresh.model.state_dict()
    assert {name for name in new if not name.startswith(HEAD) and not torch.equal(new[name], old[name])} == set()
    rows = {0: 0} | {mine + 1: their + 1 for mine, their in kept.items()}  # after the background
    for row in range(3):
        source, at = (old, rows[row]) if row in rows else (drawn, row)
        for kind in ("weight", "bias"):
            for layer, values in ((f"{HEAD}cls_score.{kind}", 1), (f"{HEAD}bbox_pred.{kind}", 4)):
                mine, right = new[layer][row * values :][:values], source[layer][at * values :][:values]
                assert torch.equal(mine, right), (layer, row)


def test_a_detector_of_another_shape_is_refused(data: Path, tmp_path: Path) -> None:
    first, _ = prepared(tmp_path, data)
    path = tmp_path / "d.safetensors"
    save_detector(first.model, path)
    for changes in ({"detector__fpn_channels": 4}, {"detector__layout": "c4"}, {"detector__anchor_ratios": [1.0]}):
        with pytest.raises(RequestError, match="is a detector of another shape"):
            prepared(tmp_path, data, init__weights=str(path), **changes)
    with pytest.raises(RequestError, match=r"model\.width 8.* contradicts"):
        prepared(tmp_path, data, init__weights=str(path), model__width=8, model__name=None)


def test_notes_of_the_start_are_not_notes_of_the_run(data: Path, tmp_path: Path) -> None:
    """They say what was assumed of another file; a run's own weights bring none."""
    first, _ = prepared(tmp_path, data)
    first.model.classes = ("disc", "other")
    save_detector(first.model, tmp_path / "d.safetensors")
    second, _ = prepared(tmp_path, data, init__weights=str(tmp_path / "d.safetensors"))
    assert second.model.provenance.keys() == {"init"}
    assert second.model.provenance["init"]["notes"]


@pytest.mark.parametrize(
    ("layout", "stage", "parts"),
    [
        ("fpn", "stem", ["conv1", "bn1"]),
        ("fpn", "conv3", ["conv1", "bn1", "layer1", "layer2"]),
        ("fpn", "features", ["conv1", "bn1", "layer1", "layer2", "layer3"]),
        ("c4", "conv2", ["conv1", "bn1", "layer1"]),
    ],
)
def test_stages_are_frozen_from_the_images_on(
    layout: str, stage: str, parts: list[str], data: Path, classifier: Path, tmp_path: Path
) -> None:
    anchors = None if layout == "c4" else [8, 16, 32, 64]
    state, _ = prepared(
        tmp_path,
        data,
        init__weights=str(classifier),
        init__freeze=stage,
        detector__layout=layout,
        detector__anchor_sizes=anchors,
    )
    prefixes = tuple(f"backbone.body.{part}." for part in parts)
    assert frozen(state.model) == {n for n, _ in state.model.named_parameters() if n.startswith(prefixes)}
    norms = {name: m for name, m in state.model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert all(norm.training == (not f"{name}.".startswith(prefixes)) for name, norm in norms.items())
    assert any(norm.training for norm in norms.values()) == (stage != "features")


def test_the_last_stage_of_c4_is_frozen_in_the_head(data: Path, classifier: Path, tmp_path: Path) -> None:
    options = {"detector__layout": "c4", "detector__anchor_sizes": [8, 16, 32]}
    state, _ = prepared(tmp_path, data, init__weights=str(classifier), init__freeze="conv4", **options)
    names = {name for name, _ in state.model.named_parameters()}
    expected = {n for n in names if n.startswith(("backbone.body.", "roi_heads.box_head."))}
    assert frozen(state.model) == expected
    assert any(name.startswith("roi_heads.box_head.layer3.") for name in expected)
    assert not state.model.roi_heads.box_head.layer3[0].bn1.training


@pytest.mark.parametrize("layout", ["fpn", "c4"])
def test_frozen_norms_keep_weights_and_statistics_in_a_step(
    layout: str, data: Path, classifier: Path, tmp_path: Path
) -> None:
    options = {"detector__layout": layout} | ({"detector__anchor_sizes": [8, 16, 32]} if layout == "c4" else {})
    task, state = begun(tmp_path, data, init__weights=str(classifier), init__frozen_bn=True, **options)
    norms = {name for name, m in state.model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert frozen(state.model) == {f"{name}.{kind}" for name in norms for kind in ("weight", "bias")}
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    task.step(state, next(state.loader.batches(0)), 0.05)
    for name, value in state.model.state_dict().items():
        assert torch.equal(value, before[name]) == (name.rpartition(".")[0] in norms), name


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"init__freeze": "conv2"}, "init.freeze conv2 is about loaded weights"),
        ({"init__frozen_bn": True}, "init.frozen_bn true is about loaded weights"),
        ({"init__weights": "WEIGHTS", "init__layer_decay": 0.5}, "init.layer_decay is not supported in detection"),
        ({"init__weights": "WEIGHTS", "init__freeze": "conv5"}, "no such stage; choose from stem, conv2, conv3, conv4"),
        ({"init__weights": "WEIGHTS", "model__cardinality": 4}, "model.cardinality 4 contradicts"),
        ({"init__weights": "nowhere.pt"}, "nowhere.pt"),
        ({"train__batch_size": 11}, "larger than the training set of 10 images"),
        ({"schedule__warmup_epochs": 2, "train__epochs": None, "train__steps": 4}, "must be shorter than the"),
        ({"train__proposals": "WEIGHTS", "train__stage": "fast_rcnn"}, "WEIGHTS"),
        ({"train__stage": "fast_rcnn"}, "train.stage fast_rcnn needs train.proposals"),
        ({"train__proposals": "x"}, "train.stage joint does not take train.proposals"),
        ({"detector__anchor_sizes": [8, 16]}, "needs 4"),
        ({"detector__anchor_ratios": []}, "detector.anchor_ratios must be 1 to 64 numbers"),
        (
            {"model__name": None, "model__stem": None, "model__blocks": None, "model__base_channels": None},
            "the recipe names no network",
        ),
    ],
)
def test_what_cannot_work_is_refused(
    changes: dict[str, Any], says: str, data: Path, classifier: Path, tmp_path: Path
) -> None:
    changes = {key: str(classifier) if value == "WEIGHTS" else value for key, value in changes.items()}
    with pytest.raises(RequestError) as error:
        prepared(tmp_path, data, **changes)
    assert says.replace("WEIGHTS", str(classifier)) in str(error.value)


def test_the_rpn_step_sees_one_class(data: Path, tmp_path: Path) -> None:
    task, state = begun(tmp_path, data, train__stage="rpn")
    assert task.train.classes == state.model.classes == OBJECT_CLASSES
    assert set(task.train.labels.tolist()) == {0}
    assert task.val.category_ids == (1,)
    whole, _ = open_detection_data(state.recipe.data)
    assert merge_classes(whole).boxes is whole.boxes
    assert {row["category_id"] for row in task.val.to_coco_dict()["annotations"]} == {1}


def test_fast_rcnn_learns_on_the_proposals_of_the_rpn_step(data: Path, tmp_path: Path) -> None:
    task, rpn = begun(tmp_path, data, train__stage="rpn")
    for batch in rpn.loader.batches(0):
        assert task.step(rpn, batch, 0.02).loss > 0
    assert rpn.sums.loss_parts.keys() == {"loss_objectness", "loss_rpn_box_reg"}
    path = tmp_path / "rpn.safetensors"
    save_detector(rpn.model, path)
    options = {"train__stage": "fast_rcnn", "train__proposals": str(path)}
    task, state = begun(tmp_path, data, **options)
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    for batch in state.loader.batches(0):
        assert task.step(state, batch, 0.02).loss > 0
    assert state.sums.loss_parts.keys() == {"loss_classifier", "loss_box_reg"}
    for name, value in state.model.state_dict().items():
        if name.startswith("proposer."):
            assert torch.equal(value, before[name]), name
    theirs = load_detector(path).state_dict()
    assert all(torch.equal(theirs[name], before[f"proposer.{name}"]) for name in theirs)
    save_detector(state.model, tmp_path / "fast.safetensors")
    assert load_detector(tmp_path / "fast.safetensors").proposer.stage == "rpn"


def test_proposals_of_a_joint_detector_or_in_other_colours_are_refused(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    options = {"train__stage": "fast_rcnn", "train__proposals": str(path)}
    save_detector(prepared(tmp_path, data)[0].model, path)
    with pytest.raises(RequestError, match=r"must be a run of the rpn stage .*, not of joint"):
        prepared(tmp_path, data, **options)
    save_detector(prepared(tmp_path, data, train__stage="rpn")[0].model, path)
    with pytest.raises(RequestError, match=r"was trained with data\.mean"):
        prepared(tmp_path, data, data__mean=[0.5] * 3, data__std=[0.25] * 3, **options)


def test_the_start_does_not_depend_on_the_data_beyond_its_classes(data: Path, tmp_path: Path) -> None:
    settings = asked(tmp_path, data)
    train, val = open_detection_data(settings.data)
    one, two = (build_initial_detector(settings, part).state_dict() for part in (train, val))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.parametrize("layout", ["fpn", "c4"])
def test_another_step_takes_the_network_of_a_detector_with_its_eps_and_colours(
    layout: str, data: Path, classifier: Path, tmp_path: Path
) -> None:
    path, options = tmp_path / "d.safetensors", {"detector__layout": layout}
    options |= {"detector__anchor_sizes": [8, 16, 32]} if layout == "c4" else {}
    first, _ = prepared(tmp_path, data, init__weights=str(classifier), **options)
    save_detector(first.model, path)
    second, said = prepared(tmp_path, data, init__weights=str(path), train__stage="rpn", **options)
    assert "only the detector's backbone is used" in said
    model = second.model
    assert (model.architecture.bn_eps, model.preprocessing.mean, model.preprocessing.std) == (1e-3, MEAN, STD)
    body = model.network.state_dict()
    theirs = load(classifier).state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in body.items())
    whole = extract_network(first.model, "d").state_dict()
    assert whole.keys() == theirs.keys() - {"fc.weight", "fc.bias"}
    assert all(torch.equal(value, theirs[name]) for name, value in whole.items())
    if layout == "c4":
        save_detector(model, path)
        with pytest.raises(RequestError, match="no last stage to start from"):
            prepared(tmp_path, data, init__weights=str(path), **options)


def test_weights_that_read_grey_images_are_refused_by_name(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "grey.safetensors"
    network = create_model("resnext11_2x4d", **NETWORK, num_classes=7, in_channels=1)
    network.preprocessing = Preprocessing(image_size=32, resize=32, mean=(0.5,), std=(0.5,), channels=1)
    save(network, path)
    with pytest.raises(RequestError, match=r"grey\.safetensors takes images of 1 channels"):
        prepared(tmp_path, data, init__weights=str(path))
