"""The graph of a whole detector: a picture in, boxes, labels and scores out."""

from typing import Any, NamedTuple

import numpy as np

from resnext.deploy.export import MAX_ONNX_BYTES
from resnext.deploy.graph_builder import Value
from resnext.deploy.graph_expression import Expression
from resnext.detection.export.backbone_graph import add_backbone, fold_network
from resnext.detection.export.engines import OUTPUTS
from resnext.detection.export.operators import DetectorGraphBuilder, best_first, select_rows
from resnext.detection.export.picture_graph import add_picture
from resnext.detection.export.proposals_graph import add_proposals
from resnext.detection.export.regions_graph import add_detections
from resnext.detection.model.faster_rcnn import FasterRcnn
from resnext.detection.weights import copy_detector
from resnext.errors import RequestError

INPUT, INPUT_SHAPE = "picture", (1, "H", "W", 3)  # uint8, RGB
OPSET, IR_VERSION = 18, 8  # old enough for every supported release of ONNX Runtime


class DetectorOutputs(NamedTuple):
    """What a detector finds, highest score first."""

    boxes: Any  # float32 [n, 4]: x1, y1, x2, y2 in pixels of the picture
    labels: Any  # int64 [n], into the detector's classes
    scores: Any  # float32 [n]


def build_detector_model(model: FasterRcnn, engine: str) -> Any:
    """Build the model of a detector for an engine: bytes of ONNX, or an openvino.Model.

    Raises RequestError if it gets too large, or the weights are not finite.
    """
    model = copy_detector(model).to("cpu")
    size = sum(4 * parameter.numel() for parameter in model.parameters())
    if engine == "onnxruntime" and size > MAX_ONNX_BYTES:
        raise RequestError(f"an ONNX file holds at most 2 GB, but these weights take {size:,} bytes; use openvino")
    return build_onnx_detector(model) if engine == "onnxruntime" else build_openvino_detector(model)


def build_onnx_detector(model: FasterRcnn) -> bytes:
    """Build an ONNX model of a detector in eval mode on the CPU, of its weights, score threshold and limits."""
    import onnx
    from onnx import helper

    from resnext.detection.export.onnx_operators import DetectorOnnxGraph

    graph = DetectorOnnxGraph()
    kinds = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
    outputs = []
    for name, value, kind in zip(OUTPUTS, _add_detector(graph, INPUT, model), kinds, strict=True):
        graph.add_node("Identity", [value], name)
        outputs.append(helper.make_tensor_value_info(name, kind, ["n", 4] if name == "boxes" else ["n"]))
    given = helper.make_tensor_value_info(INPUT, onnx.TensorProto.UINT8, list(INPUT_SHAPE))
    made = helper.make_graph(graph.nodes, model.architecture.name, [given], outputs, graph.constants)
    proto = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    serialized: bytes = proto.SerializeToString()
    return serialized


def build_openvino_detector(model: FasterRcnn) -> Any:
    """Build an openvino.Model of a detector in eval mode on the CPU, of its weights, score threshold and limits."""
    from resnext.deploy.openvino_engine import import_openvino
    from resnext.detection.export.openvino_operators import DetectorOpenVinoGraph

    ov, graph = import_openvino(), DetectorOpenVinoGraph()
    shape = [side if isinstance(side, int) else -1 for side in INPUT_SHAPE]
    picture = graph.ops.parameter(ov.PartialShape(shape), np.uint8, INPUT)
    picture.output(0).get_tensor().set_names({INPUT})
    picture.layout = ov.Layout("NHWC")
    results = []
    for name, value in zip(OUTPUTS, _add_detector(graph, picture, model), strict=True):
        result = graph.ops.result(value)
        result.input_value(0).get_tensor().set_names({name})
        results.append(result)
    return ov.Model(results, [picture], model.architecture.name)


def _add_detector(to: DetectorGraphBuilder[Value], picture: Value, model: FasterRcnn) -> DetectorOutputs:
    """Add a detector of any stage and layout, as ``FasterRcnn.detect`` of one image."""
    images, area, factors = add_picture(to, picture, model.preprocessing)
    folded = fold_network(model)
    maps = add_backbone(to, images, folded, model.backbone)
    if model.stage == "fast_rcnn":
        other = model.proposer
        other_maps = add_backbone(to, images, fold_network(other), other.backbone)
        proposals = add_proposals(to, list(other_maps.values()), other.rpn, area)
    else:
        proposals = add_proposals(to, list(maps.values()), model.rpn, area)
    boxes, labels, scores = (
        _select_best(to, *proposals, model.settings.detections)
        if model.stage == "rpn"
        else add_detections(to, maps, proposals[0], model.roi_heads, folded, area.get_limits(to))
    )
    return DetectorOutputs((boxes * factors).value, labels.value, scores.value)


def _select_best(
    to: DetectorGraphBuilder[Value], boxes: Expression[Value], scores: Expression[Value], most: int
) -> tuple[Expression[Value], Expression[Value], Expression[Value]]:
    """Select the best proposals as detections of the single class."""
    best, order = best_first(to, scores, most)
    return select_rows(boxes, order), (best < best).cast(np.int64), best
