"""The operators of a detector in OpenVINO."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from resnext.deploy.openvino_graph import OpenVinoGraph, keep_float32
from resnext.detection.export.operators import Unary
from resnext.detection.model.roi_align import SAMPLES_PER_SIDE

SEARCH_ROUNDS, SEARCH_BOUNDS = 3, 16  # of the search for a bound: each round compares with this many
MANY = 2**31 - 1  # no limit to the number of boxes


class DetectorOpenVinoGraph(OpenVinoGraph):
    """A ``DetectorGraphBuilder`` (which documents the methods) whose values are OpenVINO nodes."""

    def unary(self, operator: Unary, x: Any) -> Any:
        return keep_float32(getattr(self.ops, operator)(x))

    def divide(self, x: Any, y: Any) -> Any:
        return keep_float32(self.ops.divide(x, y))

    def concat(self, values: Sequence[Any], axis: int) -> Any:
        return self.ops.concat(list(values), axis)

    def reshape(self, x: Any, shape: Any) -> Any:
        return self.ops.reshape(x, shape, False)

    def top_k(self, x: Any, count: Any, largest: bool = True) -> tuple[Any, Any]:
        if not largest:
            top = self.ops.topk(x, count, 0, "min", "value", "i64", True)
            return top.output(0), top.output(1)
        few = self.nonzero(self.ops.greater_equal(x, self._find_bound(x, count)))
        top = self.ops.topk(self.gather(x, few, 0), count, 0, "max", "value", "i64", True)
        return top.output(0), self.gather(few, top.output(1), 0)

    def _find_bound(self, x: Any, count: Any) -> Any:
        """Add a search for a bound that at least ``count`` numbers of [n] reach, and hardly more.

        OpenVINO's TopK takes seconds for a thousand of a hundred thousand numbers; these operators are quick.
        """
        zero = np.array([0])
        low, high = self.ops.reduce_min(x, zero, True), self.ops.reduce_max(x, zero, True)
        column = self.ops.unsqueeze(x, np.array(1))
        for _ in range(SEARCH_ROUNDS):
            step = keep_float32(self.ops.multiply(self.ops.subtract(high, low), np.float32(1 / SEARCH_BOUNDS)))
            places = np.arange(SEARCH_BOUNDS, dtype=np.float32)
            bounds = keep_float32(self.ops.add(low, keep_float32(self.ops.multiply(step, places))))
            reached = self.ops.convert(self.ops.greater_equal(column, bounds), np.int32)
            counts = self.ops.reduce_sum(reached, zero, False)
            enough = self.ops.convert(self.ops.greater_equal(counts, self.ops.convert(count, np.int32)), np.int32)
            last = self.ops.subtract(self.ops.reduce_sum(enough, zero, True), np.array([1], np.int32))
            low = self.gather(bounds, last, 0)
            high = keep_float32(self.ops.add(low, step))
        return low

    def nonzero(self, x: Any) -> Any:
        return self.ops.reshape(self.ops.non_zero(x, "i64"), np.array([-1]), False)

    def nms(self, boxes: Any, scores: Any, iou: float) -> Any:
        scores = self.ops.unsqueeze(scores, np.array(1))
        limits = np.array(MANY), np.float32(iou), np.float32(0)
        found = self.ops.non_max_suppression(
            boxes, scores, *limits, box_encoding="corner", sort_result_descending=False, output_type="i64"
        )
        return self.ops.gather(found.output(0), np.array([0, 2]), np.array(1))

    def roi_align(self, features: Any, boxes: Any, scale: float, size: int) -> Any:
        count = self.ops.gather(self.ops.shape_of(boxes), np.array([0]), np.array(0))
        image = self.ops.broadcast(np.array(0), count)
        samples = SAMPLES_PER_SIDE
        return self.ops.roi_align(features, boxes, image, size, size, samples, scale, "avg", "asymmetric")

    def roi_max_pool(self, features: Any, boxes: Any, scale: float, size: int) -> Any:
        regions = self.ops.pad(boxes, np.array([0, 1]), np.array([0, 0]), "constant", np.float32(0))
        return self.ops.roi_pooling(features, regions, np.array([size, size]), scale, "max")

    def resize_nearest(self, x: Any, size: Any) -> Any:
        return self.ops.interpolate(
            x,
            size,
            "nearest",
            "sizes",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
            axes=np.array([2, 3]),
        )

    def pad_end(self, x: Any, counts: Any) -> Any:
        ends = self.ops.concat([np.array([0, 0]), counts], 0)
        return self.ops.pad(x, np.zeros(4, np.int64), ends, "constant", np.float32(0))
