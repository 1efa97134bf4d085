"""Count the cost of a detection recipe: multiply-adds of its convolutions and linear layers."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from resnext.detect.model.faster_rcnn import SIZE_DIVISOR, FasterRcnn
from resnext.detect.model.layouts import C4_ROI_SIZE, ROI_SIZE, LastStageHead
from resnext.detect.preprocessing import DetectPreprocessing
from resnext.detect.settings import DetectorSettings, DetectRecipe
from resnext.model.architecture import Architecture
from resnext.model.network import Network

ASPECT_RATIO = (4, 3)  # width to height of most COCO images
TRAINING_FACTOR = 3  # multiply-adds of a training step over those of a forward pass, if nothing is frozen


@dataclass(frozen=True)
class DetectorCost:
    """Multiply-adds of a forward pass over one training image."""

    height: int
    width: int
    network: int  # including the pyramid
    rpn: int
    regions: int  # the head, on all sampled regions
    parameters: int


@cache
def count_detector_cost(
    architecture: Architecture, settings: DetectorSettings, height: int, width: int, classes: int
) -> DetectorCost:
    """Count the cost of each part, on the meta device."""
    with torch.device("meta"):
        names = tuple(map(str, range(classes)))
        model = FasterRcnn(Network(architecture.change(num_classes=0)), settings, names, DetectPreprocessing())
        sides = [-(-side // SIZE_DIVISOR) * SIZE_DIVISOR for side in (height, width)]
        network, maps = _count_macs(model.backbone, torch.empty(1, 3, *sides))
        rpn, _ = _count_macs(model.rpn.head, list(maps.values()))
        heads, c4 = model.roi_heads, isinstance(model.roi_heads.box_head, LastStageHead)
        side = C4_ROI_SIZE if c4 else ROI_SIZE
        head, features = _count_macs(heads.box_head, torch.empty(1, maps["0"].shape[1], side, side))
        predictor, _ = _count_macs(heads.box_predictor, features)
    parameters = sum(p.numel() for p in model.parameters())
    return DetectorCost(height, width, network, rpn, settings.roi_batch * (head + predictor), parameters)


def describe_detector_cost(recipe: DetectRecipe, classes: int) -> str:
    """Describe the cost in a sentence: for an image of COCO's usual shape, and for the whole run."""
    height, width = recipe.data.min_size, round(recipe.data.min_size * ASPECT_RATIO[0] / ASPECT_RATIO[1])
    cost = count_detector_cost(recipe.model.architecture(0, 3), recipe.detector, height, width, classes)
    learn, steps, batch = recipe.train.stage, recipe.train.steps or 0, recipe.train.batch_size
    parts = {"the network": cost.network}
    if learn != "fast_rcnn":
        parts["the RPN"] = cost.rpn
    if learn != "rpn":
        parts[f"{recipe.detector.roi_batch} regions"] = cost.regions
    spelled = ", ".join(f"{value / 1e9:.0f} of {name}" for name, value in parts.items())
    proposer = cost.network + cost.rpn if learn == "fast_rcnn" else 0
    whole = steps * batch * (TRAINING_FACTOR * sum(parts.values()) + proposer)
    return (
        f"{sum(parts.values()) / 1e9:.0f} GMACs an image of {width}x{height} forward ({spelled}; 1 MAC = 2 FLOPs)"
        + (f", and {proposer / 1e9:.0f} of the proposer" if proposer else "")
        + f"; at most {whole / 1e18:.2g} EMACs for the {steps:,} steps of {batch} (forward x {TRAINING_FACTOR}; "
        "what is frozen costs less). Hours are not estimated."
    )


def _count_macs(module: nn.Module, x: Tensor | list[Tensor]) -> tuple[int, Any]:
    """Count the multiply-adds of ``module(x)``; return them with its output."""
    found: list[int] = []

    def note(layer: nn.Module, _: object, y: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        places = y.shape[0] * (y.shape[2] * y.shape[3] if y.dim() == 4 else 1)
        found.append(layer.weight.numel() * places)

    hooks = [m.register_forward_hook(note) for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    y = module(x)
    for hook in hooks:
        hook.remove()
    return sum(found), y
