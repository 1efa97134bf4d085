"""Arithmetic on boxes in a graph, in the order of operations of torchvision's (``BoxCoder``, ``ops.boxes``)."""

import math

import numpy as np

from resnext.deploy.graph_builder import Value
from resnext.deploy.graph_expression import Expression
from resnext.detection.export.operators import DetectorGraphBuilder, concat, select_rows, split_columns

MAX_LOG_SCALE = math.log(1000 / 16)  # as BoxCoder: a box grows at most to this multiple of its anchor's side


def decode_boxes(
    to: DetectorGraphBuilder[Value],
    offsets: Expression[Value],
    anchors: Expression[Value],
    weights: tuple[float, float, float, float],
) -> Expression[Value]:
    """Decode offsets [..., 4] from anchors [..., 4]: x1, y1, x2, y2."""
    x1, y1, x2, y2 = split_columns(anchors)
    low, high = [], []
    parts = split_columns(offsets)
    for start, stop, shift, scale, axis in ((x1, x2, parts[0], parts[2], 0), (y1, y2, parts[1], parts[3], 1)):
        side = stop - start
        center = start + side * 0.5
        center = (shift * (1 / weights[axis])) * side + center
        growth = (scale * (1 / weights[axis + 2])).minimum(MAX_LOG_SCALE)
        half = Expression(to, to.unary("exp", growth.value), np.float32) * side * 0.5
        low.append(center - half)
        high.append(center + half)
    return concat(to, [*low, *high], -1)


def clip_boxes(boxes: Expression[Value], limits: Expression[Value]) -> Expression[Value]:
    """Clip boxes [..., 4] to the image; ``limits`` are its width, height, width and height, float32 [4]."""
    return boxes.maximum(0.0).minimum(limits)


def mask_small_boxes(
    boxes: Expression[Value], scores: Expression[Value], smallest: float, score: float | None = None
) -> Expression[Value]:
    """Set the score of boxes [..., 4] below a side, or not above a score, to -1, which ``nms`` drops."""
    x1, y1, x2, y2 = split_columns(boxes)
    shorter = (x2 - x1).minimum(y2 - y1)
    shorter = select_rows(shorter, boxes.builder.constant(np.array(0)), -1)
    masked = scores.where(shorter.constant(smallest) <= shorter, -1.0)
    return masked if score is None else masked.where(scores.constant(score) < scores, -1.0)
