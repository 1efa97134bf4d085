"""The region proposal network in a graph: torchvision's ``filter_proposals``, of one image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, cast

import numpy as np
from torch import Tensor, nn

from resnext.deploy.graph_builder import Value
from resnext.deploy.graph_expression import Expression
from resnext.detection.export.boxes_graph import clip_boxes, decode_boxes, mask_small_boxes
from resnext.detection.export.operators import (
    DetectorGraphBuilder,
    best_first,
    concat,
    get_side,
    reshape,
    select_rows,
    stack_scalars,
)
from resnext.detection.model.rpn import Rpn

TINY_SCORE = 1e-37  # a proposal of score 0 counts too, but ``nms`` drops it


@dataclass(frozen=True)
class ImageArea(Generic[Value]):
    """Sizes of the network's input: scalars, int64."""

    height: Expression[Value]  # of the resized image
    width: Expression[Value]
    padded_height: Expression[Value]  # of the network's input
    padded_width: Expression[Value]

    def get_limits(self, to: DetectorGraphBuilder[Value]) -> Expression[Value]:
        """Return width, height, width, height of the resized image, float32 [4]."""
        sides = [self.width, self.height] * 2
        return Expression(to, stack_scalars(to, sides), np.int64).cast(np.float32)


def add_proposals(
    to: DetectorGraphBuilder[Value], maps: Sequence[Value], rpn: Rpn, area: ImageArea[Value]
) -> tuple[Expression[Value], Expression[Value]]:
    """Add the RPN; return proposals [n, 4], highest score first, and their scores [n]."""
    parts = [
        _add_level(to, map_, rpn, area, cell.detach().numpy())
        for map_, cell in zip(maps, cast(list[Tensor], rpn.anchor_generator.cell_anchors), strict=True)
    ]
    boxes, scores = (concat(to, column) for column in zip(*parts, strict=True))
    best, order = best_first(to, scores, rpn.post_nms_top_n())
    return select_rows(boxes, order), best


def _add_level(
    to: DetectorGraphBuilder[Value], features: Value, rpn: Rpn, area: ImageArea[Value], cells: np.ndarray
) -> tuple[Expression[Value], Expression[Value]]:
    """Add the proposals of one map, after NMS, in no order of scores between maps."""
    x = features
    for layer in rpn.head.conv:
        conv, *_ = cast(nn.Sequential, layer)
        x = to.relu(to.conv(x, cast(nn.Conv2d, conv)))
    outputs = []
    for conv, shape in ((rpn.head.cls_logits, (-1,)), (rpn.head.bbox_pred, (-1, 4))):
        y = to.transpose(to.conv(x, conv), (0, 2, 3, 1))
        outputs.append(reshape(to, Expression(to, y, np.float32), *shape))
    logits, offsets = outputs
    best, order = best_first(to, logits, rpn.pre_nms_top_n())
    anchors = _add_anchors(to, Expression(to, order, np.int64), features, area, cells)
    boxes = decode_boxes(to, select_rows(offsets, order), anchors, rpn.box_coder.weights)
    boxes = clip_boxes(boxes, area.get_limits(to))
    scores = Expression(to, to.unary("sigmoid", best.value), np.float32)
    scores = mask_small_boxes(boxes, scores.maximum(TINY_SCORE), rpn.min_size)
    kept = to.nms(reshape(to, boxes, 1, -1, 4).value, reshape(to, scores, 1, -1).value, rpn.nms_thresh)
    indices = to.gather(kept, to.constant(np.array(1)), 1)
    return select_rows(boxes, indices), select_rows(scores, indices)


def _add_anchors(
    to: DetectorGraphBuilder[Value],
    index: Expression[Value],
    features: Value,
    area: ImageArea[Value],
    cells: np.ndarray,
) -> Expression[Value]:
    """Add the anchors [n, 4] of flat indices [n] (row, column, anchor of the cell); ``cells`` are at cell 0, 0."""
    rows, columns = get_side(to, features, 2), get_side(to, features, 3)
    cell = index // len(cells)
    kind = index - cell * len(cells)
    row = cell // columns
    x = (cell - row * columns) * (area.padded_width // columns)
    y = row * (area.padded_height // rows)
    shifts = concat(to, [reshape(to, value, -1, 1) for value in (x, y)] * 2, 1).cast(np.float32)
    return shifts + Expression(to, to.gather(to.constant(cells), kind.value, 0), np.float32)
