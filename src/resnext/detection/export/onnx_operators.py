"""The operators of a detector in ONNX."""

from collections.abc import Sequence

import numpy as np

from resnext.deploy.onnx_graph import OnnxGraph
from resnext.detection.export.operators import Unary
from resnext.detection.model.roi_align import SAMPLES_PER_SIDE

UNARY = {"exp": "Exp", "sigmoid": "Sigmoid", "sqrt": "Sqrt"}
MANY = 2**31 - 1  # no limit to the number of boxes


class DetectorOnnxGraph(OnnxGraph):
    """A ``DetectorGraphBuilder`` (which documents the methods) whose values are the names of ONNX nodes' outputs."""

    def unary(self, operator: Unary, x: str) -> str:
        return self.add_node(UNARY[operator], [x])

    def divide(self, x: str, y: str) -> str:
        return self.add_node("Div", [x, y])

    def concat(self, values: Sequence[str], axis: int) -> str:
        return self.add_node("Concat", list(values), axis=axis)

    def reshape(self, x: str, shape: str) -> str:
        return self.add_node("Reshape", [x, shape], allowzero=0)

    def top_k(self, x: str, count: str, largest: bool = True) -> tuple[str, str]:
        from onnx import helper

        names = [f"TopK_{len(self.nodes)}_{part}" for part in ("values", "indices")]
        count = self.add_node("Reshape", [count, self._integers(1)])
        self.nodes.append(helper.make_node("TopK", [x, count], names, axis=0, largest=int(largest), sorted=1))
        return names[0], names[1]

    def nonzero(self, x: str) -> str:
        return self.add_node("Reshape", [self.add_node("NonZero", [x]), self._integers(-1)])

    def nms(self, boxes: str, scores: str, iou: float) -> str:
        limits = [np.array([iou], np.float32), np.zeros(1, np.float32)]
        scores = self.add_node("Unsqueeze", [scores, self._integers(1)])
        inputs = [boxes, scores, self._integers(MANY), *map(self.constant, limits)]
        return self.gather(self.add_node("NonMaxSuppression", inputs), self._integers(0, 2), 1)

    def roi_align(self, features: str, boxes: str, scale: float, size: int) -> str:
        count = self.gather(self.shape(boxes), self._integers(0), 0)
        image = self.add_node("Expand", [self._integers(0), count])
        return self.add_node(
            "RoiAlign",
            [features, boxes, image],
            coordinate_transformation_mode="output_half_pixel",
            mode="avg",
            output_height=size,
            output_width=size,
            sampling_ratio=SAMPLES_PER_SIDE,
            spatial_scale=scale,
        )

    def roi_max_pool(self, features: str, boxes: str, scale: float, size: int) -> str:
        pads = self._integers(0, 1, 0, 0)
        regions = self.add_node("Pad", [boxes, pads])  # image 0 in front of each box
        return self.add_node("MaxRoiPool", [features, regions], pooled_shape=[size, size], spatial_scale=scale)

    def resize_nearest(self, x: str, size: str) -> str:
        size = self.concat([self.gather(self.shape(x), self._integers(0, 1), 0), size], 0)
        return self.add_node(
            "Resize",
            [x, "", "", size],
            mode="nearest",
            nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        )

    def pad_end(self, x: str, counts: str) -> str:
        return self.add_node("Pad", [x, self.concat([self._integers(0, 0, 0, 0, 0, 0), counts], 0)])

    def _integers(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))
