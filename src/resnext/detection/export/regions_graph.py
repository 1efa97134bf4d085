"""The box head in a graph: pooling of regions, classes and boxes, and the selection of detections, of one image."""

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from torch import nn
from torchvision.models.detection.roi_heads import RoIHeads

from resnext.deploy.fold import FoldedBlock, FoldedNetwork, ScaleAct
from resnext.deploy.graph import add_block, add_scale_act
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
    split_columns,
)
from resnext.detection.model.layouts import LastStageHead, RoiMaxPool
from resnext.detection.model.roi_align import RoiAlign

SMALLEST_DETECTION = 1e-2  # pixels: torchvision drops detections with a shorter side


def add_detections(
    to: DetectorGraphBuilder[Value],
    maps: Mapping[str, Value],
    proposals: Expression[Value],
    heads: RoIHeads,
    last_stage: FoldedNetwork,
    limits: Expression[Value],
) -> tuple[Expression[Value], Expression[Value], Expression[Value]]:
    """Add the head; return boxes [n, 4] in pixels of the resized image, labels int64 [n] and scores [n], best first."""
    pooled, order = _pool_regions(to, maps, proposals, heads.box_roi_pool)
    features = _add_head(to, pooled, heads.box_head, last_stage)
    logits = Expression(to, to.linear(features, heads.box_predictor.cls_score), np.float32)
    offsets = Expression(to, to.linear(features, heads.box_predictor.bbox_pred), np.float32)
    classes = heads.box_predictor.cls_score.out_features - 1
    if order is not None:
        logits, offsets = (select_rows(value, order) for value in (logits, offsets))
    everything = Expression(to, to.softmax(logits.value), np.float32)
    own = to.constant(np.arange(1, classes + 1))  # 0 is background
    scores = select_rows(everything, own, 1).transpose((1, 0))  # [classes, n]
    offsets = select_rows(reshape(to, offsets, -1, classes + 1, 4), own, 1).transpose((1, 0, 2))
    boxes = decode_boxes(to, offsets, reshape(to, proposals, 1, -1, 4), heads.box_coder.weights)
    boxes = clip_boxes(boxes, limits)
    masked = mask_small_boxes(boxes, scores, SMALLEST_DETECTION, heads.score_thresh)
    kept = Expression(to, to.nms(boxes.value, masked.value, heads.nms_thresh), np.int64)
    return _sort_detections(to, boxes, scores, kept, heads.detections_per_img)


def _sort_detections(
    to: DetectorGraphBuilder[Value],
    boxes: Expression[Value],
    scores: Expression[Value],
    kept: Expression[Value],
    most: int,
) -> tuple[Expression[Value], Expression[Value], Expression[Value]]:
    """Sort the ``kept`` (class, region) by score, equal ones by region and class, and return the first ``most``."""
    classes, regions = get_side(to, scores.value, 0), get_side(to, scores.value, 1)
    label, region = (select_rows(kept, to.constant(np.array(column)), 1) for column in (0, 1))
    place, _ = best_first(to, region * classes + label, None, largest=False)
    region = place // classes
    place = (place - region * classes) * regions + region  # in the order of ``scores``
    best, order = best_first(to, select_rows(reshape(to, scores, -1), place.value), most)
    place = select_rows(place, order)
    return select_rows(reshape(to, boxes, -1, 4), place.value), place // regions, best


def _pool_regions(
    to: DetectorGraphBuilder[Value], maps: Mapping[str, Value], boxes: Expression[Value], pool: nn.Module
) -> tuple[Value, Value | None]:
    """Add the pooling of regions; return [n, C, s, s], sorted by map, and the places of the regions in it."""
    if isinstance(pool, RoiMaxPool):
        return to.roi_max_pool(maps["0"], boxes.value, 1 / pool.stride, pool.size), None
    assert isinstance(pool, RoiAlign)
    size, names = pool.output_size[0], pool.featmap_names
    if len(names) == 1:
        return to.roi_align(maps[names[0]], boxes.value, pool.scales[0], size), None
    x1, y1, x2, y2 = split_columns(boxes)
    areas = reshape(to, (x2 - x1) * (y2 - y1), -1)
    thresholds = find_area_thresholds(pool)
    level = sum(((areas.constant(least) <= areas).cast(np.int64) for least in thresholds[1:]), start=_zeros(areas))
    pooled, places = [], []
    for number, name in enumerate(names):
        here = to.nonzero(level.equals(number).value)
        places.append(Expression(to, here, np.int64))
        pooled.append(to.roi_align(maps[name], select_rows(boxes, here).value, pool.scales[number], size))
    _, order = best_first(to, concat(to, places), None, largest=False)
    return to.concat(pooled, 0), order


def _zeros(like: Expression[Value]) -> Expression[Value]:
    return (like < like).cast(np.int64)


def find_area_thresholds(pool: RoiAlign) -> list[float]:
    """Find the smallest area (float32) of each map's boxes, by bisection of torchvision's rule, which is monotonic.

    So a graph needs only comparisons, which are the same in every engine.
    """
    found = []
    for level in range(len(pool.scales)):
        low, high = 0, int(np.float32(np.finfo(np.float32).max).view(np.int32))
        while low < high:  # over the bits of positive floats, which have the order of the numbers
            middle = (low + high) // 2
            area = np.int32(middle).view(np.float32)
            box = torch.tensor([[0.0, 0.0, 1.0, float(area)]])
            low, high = (low, middle) if int(pool.map_levels([box])) >= level else (middle + 1, high)
        found.append(float(np.int32(low).view(np.float32)))
    return found


def _add_head(to: DetectorGraphBuilder[Value], pooled: Value, head: nn.Module, last_stage: FoldedNetwork) -> Value:
    if isinstance(head, LastStageHead):
        blocks = last_stage.architecture.stages[-1].blocks
        for block in list(last_stage.blocks)[-blocks:]:
            pooled = add_block(cast(FoldedBlock, block), pooled, to)
        if last_stage.final_norm is not None:
            pooled = add_scale_act(cast(ScaleAct, last_stage.final_norm), pooled, to)
        return to.mean(pooled)
    layers = cast(nn.Linear, head.fc6), cast(nn.Linear, head.fc7)
    x = reshape(to, Expression(to, pooled, np.float32), -1, layers[0].in_features).value
    for layer in layers:
        x = to.relu(to.linear(x, layer))
    return x
