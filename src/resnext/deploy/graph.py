"""Build the operator graph of a folded network directly, for OpenVINO or ONNX.

``torch.jit.trace`` and ``torch.onnx.export`` accept any model, but each call leaks memory (pytorch/pytorch#35600; 21
and 5 MB for ResNeXt-50), takes seconds, and fails or crashes when two threads call it. A folded network needs only a
few kinds of operators; preprocessing in the graph (``preprocess_graph.py``) needs some general ones more.
"""

from typing import cast

from torch import nn

from resnext.deploy.fold import ConvAct, FoldedBlock, FoldedNetwork, ScaleAct
from resnext.deploy.graph_builder import GraphBuilder, Value
from resnext.deploy.graph_interface import GraphInterface
from resnext.deploy.preprocess_graph import add_preprocessing
from resnext.model.layers import PadShortcut


def build_graph(
    folded: FoldedNetwork, x: Value, builder: GraphBuilder[Value], interface: GraphInterface
) -> dict[str, Value]:
    """Add preprocessing and network to a graph with the input ``x``; return the outputs by their names.

    ``logits`` [B, K] (pooled features for a network without classifier), ``probabilities`` [B, K], their softmax, and
    ``cam`` [B, K, h, w], the class activation maps: the classifier's weights on each pixel of the last feature map,
    without bias, so that ``logits = cam.mean((2, 3)) + bias``. A network without classifier has only the first.
    """
    x = _add_last_map(folded, add_preprocessing(x, interface, builder), builder)
    pooled = builder.mean(x)
    if not isinstance(folded.fc, nn.Linear):
        return {"logits": pooled}
    outputs = {"logits": builder.linear(pooled, folded.fc)}
    if interface.probabilities:
        outputs["probabilities"] = builder.softmax(outputs["logits"])
    if interface.with_cam:
        outputs["cam"] = builder.conv(x, _convert_to_conv(folded.fc))
    return outputs


def _add_last_map(folded: FoldedNetwork, x: Value, builder: GraphBuilder[Value]) -> Value:
    """Add the network up to its last feature map, which is pooled and classified."""
    x = add_conv_act(folded.stem, x, builder)
    if isinstance(folded.pool, nn.MaxPool2d):
        x = builder.max_pool(x, folded.pool)
    for block in folded.blocks:
        x = add_block(cast(FoldedBlock, block), x, builder)
    if folded.final_norm is not None:
        x = add_scale_act(cast(ScaleAct, folded.final_norm), x, builder)
    return x


def _convert_to_conv(fc: nn.Linear) -> nn.Conv2d:
    """Convert a fully connected layer to the 1x1 convolution with its weights, without bias."""
    conv = nn.Conv2d(fc.in_features, fc.out_features, 1, bias=False)
    conv.weight = nn.Parameter(fc.weight.detach()[:, :, None, None], requires_grad=False)
    return conv


def to_pair(value: int | str | tuple[int, ...]) -> list[int]:
    """Convert a layer's size, stride or padding to [height, width]."""
    assert not isinstance(value, str)
    return [value, value] if isinstance(value, int) else list(value)


def add_block(block: FoldedBlock, x: Value, to: GraphBuilder[Value]) -> Value:
    """Add a block of a folded network."""
    start = x if block.pre_norm is None else add_scale_act(block.pre_norm, x, to)
    residual = None
    if isinstance(block.shortcut, nn.Identity):
        residual = x
    elif isinstance(block.shortcut, PadShortcut):
        residual = to.pad_shortcut(start, block.shortcut)
    elif block.shortcut is not None:
        residual = add_conv_act(cast(ConvAct, block.shortcut), start, to)
    *inner, last = (cast(ConvAct, layer) for layer in block.layers)
    for layer in inner:
        start = add_conv_act(layer, start, to)
    return add_conv_act(last, start, to, residual)


def add_conv_act(layer: ConvAct, x: Value, to: GraphBuilder[Value], residual: Value | None = None) -> Value:
    """Add a convolution, with a sum and a ReLU if it has them."""
    y = to.conv(x, layer.conv)
    if residual is not None:
        y = to.add(y, residual)
    return to.relu(y) if layer.act else y


def add_scale_act(layer: ScaleAct, x: Value, to: GraphBuilder[Value]) -> Value:
    """Add a scale, a shift and a ReLU."""
    return to.relu(to.scale(x, layer.scale, layer.shift))
