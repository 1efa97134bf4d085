"""Judging a detector on a data set: modes, what fits, what cannot be used; and images at the edge of what there is."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import nn

from resnext.data.dataset import BadImageError
from resnext.detection.evaluation.coco_eval import STATS
from resnext.detection.evaluation.inference import evaluate_detector, run_inference
from resnext.detection.predict import predict
from resnext.detection.settings import DetectRecipe
from resnext.detection.training.task import Detection
from resnext.errors import WorkError
from resnext.recipe import read_recipe
from resnext.run_directory import RunDirectory
from resnext.training.distributed import World
from tests.detection.shape_images import folder, recipe
from tests.detection.synthetic import Made, dataset
from tests.detection.tiny_detector import CIFAR, CLASSES, detector

WORLD = World(torch.device("cpu"))
DATA = dataset([(0, 0, (4, 4, 30, 30)), (2, 1, (8, 2, 40, 40))], 3, CLASSES, size=(64, 48))

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_mode_is_as_before_and_frozen_norms_stay_frozen() -> None:
    model = detector(CIFAR)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    norms[0].requires_grad_(False).eval()
    statistics = [norm.running_mean.clone() for norm in norms]
    found = run_inference(model, DATA, WORLD)
    assert found.n > 0
    assert model.training
    assert [norm.training for norm in norms] == [False] + [True] * (len(norms) - 1)
    assert all(torch.equal(norm.running_mean, before) for norm, before in zip(norms, statistics, strict=True))
    model.eval()
    again = run_inference(model, DATA, WORLD)
    assert not model.training
    assert np.array_equal(again.boxes, found.boxes)


def test_data_of_the_same_classes_in_another_order_gets_the_same_numbers() -> None:
    model = detector(CIFAR)
    found = run_inference(model, DATA, WORLD)

    def truth(classes: tuple[str, ...], ids: tuple[int, ...], label_of: tuple[int, ...]) -> Made:
        rows = [(image, label_of[found.label[row]], found.boxes[row]) for image, row in ((0, 0), (2, -1))]
        return dataset(rows, 3, classes, ids, size=(64, 48))

    one = evaluate_detector(model, truth(CLASSES, (1, 2), (0, 1)), WORLD)
    other = evaluate_detector(model, truth((CLASSES[1], "empty", CLASSES[0]), (5, 0, 9), (2, 0)), WORLD)
    assert one is not None
    assert other is not None
    assert one.ap is not None
    assert one.ap > 0.1
    assert [getattr(one, name) for name in STATS] == [getattr(other, name) for name in STATS]
    assert {row.name: row for row in other.per_class if row.name != "empty"} == {row.name: row for row in one.per_class}


def test_an_evaluation_is_the_parts_of_its_ranks() -> None:
    model = detector(CIFAR)
    whole = run_inference(model, DATA, WORLD)
    parts = [run_inference(model, DATA, World(torch.device("cpu"), rank, 2)) for rank in (0, 1)]
    for name in ("image", "label", "boxes", "score"):
        assert np.array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name)), name


def test_an_output_that_is_not_finite_names_the_image() -> None:
    model = detector(CIFAR)
    found = {"boxes": torch.full((1, 4), float("nan")), "labels": torch.zeros(1), "scores": torch.ones(1)}
    model.detect = lambda *_: [found]  # type: ignore[method-assign]
    with pytest.raises(WorkError, match=r"output for 000\.png is not finite"):
        run_inference(model, DATA, WORLD)


def test_a_missing_image_ends_the_evaluation_by_name() -> None:
    with pytest.raises(BadImageError, match=r"/nowhere/000\.png"):
        evaluate_detector(detector(CIFAR), Made(**{**vars(DATA), "root": "/nowhere"}), WORLD)


@pytest.mark.parametrize("size", [(1, 1), (700, 2), (3, 500), (64, 64)])
@pytest.mark.parametrize("layout", ["fpn", "c4"])
def test_pictures_of_any_shape_have_detections_inside_them(size: tuple[int, int], layout: str, tmp_path: Path) -> None:
    Image.new("RGB", size, (200, 30, 90)).save(tmp_path / "x.png")
    (one,) = predict(detector(CIFAR, layout=layout), [str(tmp_path / "x.png")], torch.device("cpu"))
    assert one.error is None
    assert np.isfinite(one.boxes).all()
    assert (one.boxes >= 0).all()
    assert (one.boxes <= np.tile(size, 2) + 0.01).all()


def test_a_loss_that_is_not_finite_stops_before_it_spoils_the_weights(tmp_path: Path) -> None:
    settings = read_recipe(recipe(tmp_path / "r.yaml", folder(tmp_path / "data", 4, 1)), kind=DetectRecipe)
    task = Detection(settings)
    state = task.build(settings, RunDirectory(tmp_path / "run"), WORLD, False, Console(file=io.StringIO()))
    batch = next(state.loader.batches(0))
    with torch.no_grad():
        state.model.rpn.head.cls_logits.bias.fill_(float("nan"))
        before = state.model.backbone.fpn.state_dict()
        before = {name: value.clone() for name, value in before.items()}
    with pytest.raises(
        WorkError, match=r"the loss became nan at step 1 \(epoch 1, learning rate 0.02; .*objectness nan"
    ):
        task.step(state, batch, 0.02)
    assert all(torch.equal(value, before[name]) for name, value in state.model.backbone.fpn.state_dict().items())
    assert state.position.step == 0
