"""Headers of recipes: each states source, expected result and cost, and the costs of the larger ones are recounted."""

import re
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from resnext.detection.model.faster_rcnn import SIZE_DIVISOR, FasterRcnn
from resnext.detection.model.layouts import C4_ROI_SIZE, ROI_SIZE, LastStageHead
from resnext.detection.preprocessing import DetectPreprocessing
from resnext.detection.settings import DetectorSettings, DetectRecipe
from resnext.model.architecture import Architecture
from resnext.model.complexity import complexity
from resnext.model.network import Network
from resnext.recipe import RECIPES, list_recipes, read_recipe
from resnext.recipe_header import read_header
from resnext.sources import SOURCES

DETECTION = [name for name in list_recipes() if "/coco-" in name]
CLASSIFICATION = [name for name in list_recipes() if name.startswith(("paper/", "modern/")) and "coco-" not in name]
CLASSIFICATION.remove("modern/finetune")

# Section 5.1: seconds of a mini-batch of 256 on 8 M40, over the multiply-adds of its forward pass.
M40_RATES = {
    "plain": 8 * 0.70 / (256 * 7.801e9),
    "grouped": 8 * 0.95 / (256 * 7.970e9),
    "resnext101_64x4d": 8 * 1.7 / (256 * 15.46e9),
}
UNITS = {"T": 1e12, "P": 1e15, "E": 1e18}


@pytest.mark.parametrize("name", list_recipes())
def test_every_header_states_source_expected_result_and_cost(name: str) -> None:
    header = read_header(list_recipes()[name])
    assert header.text.splitlines()[0].endswith("."), "the first line says what the recipe trains"
    assert all(len(header.fields[word]) > 5 for word in ("Source", "Expected", "Cost"))
    assert header.title
    assert header.fields["Expected"] == " ".join(header.fields["Expected"].split())


def test_what_others_extend_says_what_it_is() -> None:
    bases = list(RECIPES.glob("*/_*.yaml"))
    assert len(bases) > 10
    assert all(read_header(path).title for path in bases)


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_the_cost_of_a_classification_recipe_is_what_is_counted(name: str) -> None:
    said = re.match(
        r"([\d.]+) GMACs an image at (\d+) pixels \(1 MAC = 2 FLOPs\), ([\d.]+) M parameters without BN; "
        r"([\d.]+) (\w)MACs for the ([\d,]+) (epochs|steps) \(forward x 3\); about ([\d,]+) GPU-hours",
        read_header(list_recipes()[name]).fields["Cost"],
    )
    assert said is not None
    gmacs, side, parameters, whole, unit, length, counted_in, hours = said.groups()
    recipe = read_recipe(name)
    images, classes, channels, default_side = SOURCES[recipe.data.source].facts
    assert images is not None
    assert int(side) == (recipe.augment.size or recipe.data.image_size or default_side)
    a, train, repeats = recipe.model.architecture(classes, channels), recipe.train, recipe.augment.repeated_augmentation
    cost = complexity(a, int(side))
    assert gmacs == f"{cost.macs / 1e9:.2f}"
    assert parameters == f"{cost.parameters_without_bn / 1e6:.1f}"
    assert int(length.replace(",", "")) == (train.steps if counted_in == "steps" else train.epochs)
    seen = train.steps * train.batch_size if train.steps else (train.epochs or 0) * (images // repeats) * repeats
    assert whole == f"{3 * seen * cost.macs / UNITS[unit]:.3g}"
    kind = a.name if a.name in M40_RATES else "grouped" if a.cardinality > 1 else "plain"
    assert float(hours.replace(",", "")) == pytest.approx(seen * cost.macs * M40_RATES[kind] / 3600, rel=0.06)


@cache
def count_macs(a: Architecture, settings: DetectorSettings, height: int, width: int) -> tuple[int, int, int]:
    """Count the multiply-adds of network, RPN and regions by PyTorch's counter."""

    def count(module: nn.Module, x: Tensor | list[Tensor]) -> tuple[int, Tensor]:
        with FlopCounterMode(display=False) as counter:
            y = module(x)
        return counter.get_total_flops() // 2, y

    with torch.device("meta"):
        model = FasterRcnn(Network(a.change(num_classes=0)), settings, tuple("a" * 80), DetectPreprocessing())
        sides = [-(-side // SIZE_DIVISOR) * SIZE_DIVISOR for side in (height, width)]
        network, maps = count(model.backbone, torch.empty(1, 3, *sides))
        rpn, _ = count(model.rpn.head, list(maps.values()))  # type: ignore[attr-defined]
        side = C4_ROI_SIZE if isinstance(model.roi_heads.box_head, LastStageHead) else ROI_SIZE
        head, features = count(model.roi_heads.box_head, torch.empty(1, maps["0"].shape[1], side, side))  # type: ignore
        predictor, _ = count(model.roi_heads.box_predictor, features)
    return network, rpn, settings.roi_batch * (head + predictor)


@pytest.mark.parametrize("name", DETECTION)
def test_the_cost_of_a_detection_recipe_is_what_is_counted(name: str) -> None:
    recipe = read_recipe(name, kind=DetectRecipe)
    height, width = recipe.data.min_size, round(recipe.data.min_size * 4 / 3)
    network, rpn, regions = count_macs(recipe.model.architecture(0, 3), recipe.detector, height, width)
    stage, batch, steps = recipe.train.stage, recipe.train.batch_size, recipe.train.steps or 0
    parts = {"the network": network}
    parts |= {} if stage == "fast_rcnn" else {"the RPN": rpn}
    parts |= {} if stage == "rpn" else {f"{recipe.detector.roi_batch} regions": regions}
    proposals = network + rpn if stage == "fast_rcnn" else 0
    whole, spelled = sum(parts.values()), ", ".join(f"{macs / 1e9:.0f} of {part}" for part, macs in parts.items())
    expected = f"{whole / 1e9:.0f} GMACs an image of {width}x{height} forward ({spelled}; 1 MAC = 2 FLOPs)"
    expected += f", and {proposals / 1e9:.0f} of the proposer" if proposals else ""
    expected += (
        f"; at most {steps * batch * (3 * whole + proposals) / 1e18:.2g} EMACs for the {steps:,} steps of {batch} "
    )
    assert read_header(list_recipes()[name]).fields["Cost"].startswith(expected)
