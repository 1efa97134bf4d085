"""The fast paths of a detector: measured ways of its convolutions, frozen BN inside them. The function stays the same.

``RoiAlign`` (roi.py) is fast by itself.
"""

from collections.abc import Callable

import torch

from resnext.detect.faster_rcnn import FasterRcnn
from resnext.detect.parts import C4_ALIGNED, LastStage
from resnext.model.frozen import fold_frozen
from resnext.model.plan import Plan, settle

HEAD = "roi_heads.box_head"


def settled(
    model: FasterRcnn,
    batch: int,
    size: tuple[int, int],
    precision: str = "fp32",
    progress: Callable[[str], None] = lambda _: None,
) -> Plan:
    """The plan for training ``model`` on batches of images of ``size`` (height, width), by names in ``model``.

    Other sizes are computed the same ways. What was not measured before on this machine is measured now. The plan is
    empty where ``RESNEXT_FAST=0``.
    """
    weight = model.network.conv1.weight
    layout = torch.channels_last if weight.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    images = weight.new_zeros(batch, 3, *size).contiguous(memory_format=layout)
    plans = {"backbone": settle(model.backbone, images, precision, progress=progress)}
    if model.learn != "rpn" and isinstance(model.roi_heads.box_head, LastStage):
        regions = model.settings.roi_batch * batch
        shape = (regions, model.network.architecture.stages[-1].in_channels, C4_ALIGNED, C4_ALIGNED)
        maps = weight.new_zeros(shape).contiguous(memory_format=layout)
        plans[HEAD] = settle(model.roi_heads.box_head, maps, precision, progress=progress)
    convolutions = {f"{part}.{name}": ways for part, plan in plans.items() for name, ways in plan.convolutions.items()}
    return Plan(convolutions, tuple(f"{part}.{name}" for part, plan in plans.items() for name in plan.norms))


def make_fast(model: FasterRcnn, plan: Plan | None = None) -> int:
    """Set the ways of ``plan`` and fold frozen BN; returns how many norms are folded.

    After freezing, and again after a plan is applied. Raises RequestError for a frozen norm without a finite scale,
    or a plan of another network.
    """
    (plan or Plan()).apply(model)
    return fold_frozen(model)


def for_prediction(model: FasterRcnn) -> FasterRcnn:
    """``model`` itself, ready to predict only: in evaluation mode, nothing trains, NHWC, BN folded.

    Raises RequestError for a norm without a finite scale.
    """
    model.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    fold_frozen(model)
    return model
