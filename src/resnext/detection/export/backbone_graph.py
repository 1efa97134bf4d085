"""The backbone in a graph: the folded network, and its feature pyramid."""

import copy
from itertools import islice
from typing import cast

import numpy as np
from torch import nn

from resnext.deploy.fold import FoldedBlock, FoldedNetwork, ScaleAct, fold
from resnext.deploy.graph import add_block, add_conv_act, add_scale_act
from resnext.deploy.graph_builder import Value
from resnext.detection.export.operators import DetectorGraphBuilder
from resnext.detection.model.faster_rcnn import FasterRcnn
from resnext.detection.model.layouts import FpnBackbone, LastStageHead


def fold_network(model: FasterRcnn) -> FoldedNetwork:
    """Fold the whole network of a detector, in the c4 layout with the stage that is in its head."""
    network = copy.copy(model.network)
    network._modules = dict(network._modules)
    head = None if model.stage == "rpn" else model.roi_heads.box_head
    if isinstance(head, LastStageHead):
        network._modules[head.name] = head.get_submodule(head.name)
        if head.has_norm:
            network._modules["bn"] = head.bn
    return fold(copy.deepcopy(network)).float()


def add_backbone(
    to: DetectorGraphBuilder[Value], images: Value, folded: FoldedNetwork, backbone: nn.Module
) -> dict[str, Value]:
    """Add the backbone on normalised images [1, 3, H, W]; return its maps by name, finest first."""
    blocks = iter(folded.blocks)
    x = add_conv_act(folded.stem, images, to)
    if isinstance(folded.pool, nn.MaxPool2d):
        x = to.max_pool(x, folded.pool)
    maps = []
    is_pyramid = isinstance(backbone, FpnBackbone)
    stages = folded.architecture.stages
    for stage in stages if is_pyramid else stages[:-1]:
        for block in islice(blocks, stage.blocks):
            x = add_block(cast(FoldedBlock, block), x, to)
        maps.append(x)
    if not is_pyramid:
        return {"0": maps[-1]}
    if folded.final_norm is not None:
        maps[-1] = add_scale_act(cast(ScaleAct, folded.final_norm), maps[-1], to)
    return _add_pyramid(to, maps, cast(FpnBackbone, backbone))


def _add_pyramid(to: DetectorGraphBuilder[Value], maps: list[Value], backbone: FpnBackbone) -> dict[str, Value]:
    fpn, sides = backbone.fpn, to.constant(np.array([2, 3]))
    inner, outer = (
        [cast(nn.Conv2d, cast(nn.Sequential, b)[0]) for b in part] for part in (fpn.inner_blocks, fpn.layer_blocks)
    )
    last = to.conv(maps[-1], inner[-1])
    found = [to.conv(last, outer[-1])]
    for x, lateral, output in zip(maps[-2::-1], inner[-2::-1], outer[-2::-1], strict=True):
        size = to.gather(to.shape(x), sides, 0)
        last = to.add(to.conv(x, lateral), to.resize_nearest(last, size))
        found.insert(0, to.conv(last, output))
    named = {str(number): value for number, value in enumerate(found)}
    return named | {"pool": to.max_pool(found[-1], nn.MaxPool2d(1, 2, 0))}
