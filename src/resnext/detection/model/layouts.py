"""Build the modules of a detector for its layout (fpn or c4), from torchvision's and our own."""

from dataclasses import dataclass

from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import FeaturePyramidNetwork, roi_pool
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from resnext.detection.model.roi_align import RoiAlign
from resnext.detection.model.rpn import Float32Anchors, Rpn, SparseRpnHead, widen_to_float32
from resnext.detection.settings import DetectorSettings
from resnext.errors import RequestError
from resnext.model.network import Network

RPN_POSITIVE_IOU, RPN_NEGATIVE_IOU = 0.7, 0.3  # an anchor is positive from the first IoU on, negative below the second
ROI_POSITIVE_IOU = 0.5  # a region is positive from this IoU on, background below
ROI_SIZE, C4_ROI_SIZE = 7, 14  # side of a region's feature map at the head's input
SMALLEST_ANCHOR = 32.0
C4_ANCHORS = (64.0, 128.0, 256.0, 512.0)  # py-faster-rcnn's for COCO: scales 4, 8, 16, 32 of stride 16


class FpnBackbone(nn.Module):
    """The network and a feature pyramid on all its stages: maps ``0`` (finest), ``1``, ..., ``pool``."""

    def __init__(self, body: Network, channels: int) -> None:
        super().__init__()
        self.body = body
        stages = [stage.out_channels for stage in body.architecture.stages]
        self.fpn = FeaturePyramidNetwork(stages, channels, LastLevelMaxPool())
        self.names = [name for name in body.feature_names if name != "pooled"]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute maps [B, channels, h, w], finest first, from images [B, 3, H, W]."""
        maps = self.body.features(images, self.names)
        if self.body.architecture.pre_activation:
            maps[self.names[-1]] = self.body.bn(maps[self.names[-1]])
        return dict(self.fpn({str(number): value for number, value in enumerate(maps.values())}))


class C4Backbone(nn.Module):
    """The network without its last stage; its output is map ``0``."""

    def __init__(self, body: Network) -> None:
        super().__init__()
        self.body = body
        self.name = body.feature_names[-3]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute a map [B, channels, h, w] from images [B, 3, H, W]."""
        return {"0": self.body.features(images, [self.name])[self.name]}


class LastStageHead(nn.Module):
    """The c4 head: the network's last stage on each region, then global average pooling."""

    def __init__(self, body: Network) -> None:
        super().__init__()
        self.name = f"layer{len(body.architecture.stages)}"
        self.add_module(self.name, body.get_submodule(self.name))
        delattr(body, self.name)
        self.has_norm = body.architecture.pre_activation
        if self.has_norm:
            self.bn = body.bn
            del body.bn

    def forward(self, x: Tensor) -> Tensor:
        """Compute [regions, channels of the last stage] from region features [regions, channels, 14, 14]."""
        x = self.get_submodule(self.name)(x)
        return (self.bn(x) if self.has_norm else x).mean((2, 3))


class RoiMaxPool(nn.Module):
    """RoI max pooling of one map (Girshick 2015), as in the paper."""

    def __init__(self, size: int, stride: int) -> None:
        super().__init__()
        self.size, self.stride = size, stride

    def forward(self, maps: dict[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:  # noqa: ARG002
        """Pool [regions, C, size, size] from a map [B, C, h, w] and boxes [n, 4] per image."""
        pooled: Tensor = roi_pool(widen_to_float32(maps["0"]), boxes, self.size, 1 / self.stride)
        return pooled


class BoxPredictor(FastRCNNPredictor):
    """torchvision's FastRCNNPredictor with class scores and box offsets in float32."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute scores [n, classes] and offsets [n, 4 * classes] from features [n, C]."""
        scores, offsets = super().forward(x)
        return widen_to_float32(scores), widen_to_float32(offsets)


@dataclass(frozen=True)
class DetectorLayout:
    """The modules of a layout that the RPN and the head are built on."""

    backbone: FpnBackbone | C4Backbone
    channels: int  # of each map
    anchor_sizes: tuple[tuple[float, ...], ...]  # of each map
    pool: nn.Module
    head: nn.Module
    head_channels: int


def build_layout(network: Network, settings: DetectorSettings) -> DetectorLayout:
    """Build the layout around ``network``, which it takes over and modifies. Raises RequestError."""
    check_network(network, settings)
    network.fc, network.architecture = nn.Identity(), network.architecture.change(num_classes=0)
    return _build_fpn_layout(network, settings) if settings.layout == "fpn" else _build_c4_layout(network, settings)


def check_network(network: Network, settings: DetectorSettings) -> None:
    """Raise RequestError for a network that the layout does not support."""
    a, sizes = network.architecture, settings.anchor_sizes
    if a.in_channels != 3:
        raise RequestError(f"a detector reads RGB images, but {a.name} takes {a.in_channels} channels")
    if settings.layout == "c4" and len(a.stages) < 2:
        raise RequestError(f"detector.layout c4 needs at least two stages; {a.name} has one")
    if settings.layout == "fpn" and sizes is not None and len(sizes) != len(a.stages) + 1:
        raise RequestError(
            f"detector.anchor_sizes has {len(sizes)} values, but {a.name} needs {len(a.stages) + 1}: one for each of "
            f"its {len(a.stages)} stages and one for the pooled map"
        )
    if settings.layout == "fpn" and settings.pool == "max":
        raise RequestError("detector.pool max works on a single map, so it needs detector.layout c4")


def _build_fpn_layout(network: Network, settings: DetectorSettings) -> DetectorLayout:
    stages = len(network.architecture.stages)
    sizes = settings.anchor_sizes or tuple(SMALLEST_ANCHOR * 2**number for number in range(stages + 1))
    channels = settings.fpn_channels
    return DetectorLayout(
        FpnBackbone(network, channels),
        channels,
        tuple((size,) for size in sizes),
        RoiAlign([str(number) for number in range(stages)], ROI_SIZE, _compute_strides(network)),
        TwoMLPHead(channels * ROI_SIZE**2, settings.head_channels),
        settings.head_channels,
    )


def _compute_strides(network: Network) -> list[int]:
    """Compute the stride of each stage's map in image pixels."""
    if network.architecture.output_stride is not None:
        raise RequestError("a detector needs the strides of the paper's networks; leave out output_stride")
    strides = [network.architecture.stride]
    for stage in reversed(network.architecture.stages[1:]):
        strides.insert(0, strides[0] // stage.stride)
    return strides


def _build_c4_layout(network: Network, settings: DetectorSettings) -> DetectorLayout:
    *_, before, last = network.architecture.stages
    stride = _compute_strides(network)[-2]
    head = LastStageHead(network)
    return DetectorLayout(
        C4Backbone(network),
        before.out_channels,
        (settings.anchor_sizes or C4_ANCHORS,),
        RoiAlign(["0"], C4_ROI_SIZE, [stride]) if settings.pool == "align" else RoiMaxPool(C4_ROI_SIZE, stride),
        head,
        last.out_channels,
    )


def build_rpn(layout: DetectorLayout, settings: DetectorSettings) -> Rpn:
    """Build the region proposal network."""
    anchors = Float32Anchors(layout.anchor_sizes, (tuple(settings.anchor_ratios),) * len(layout.anchor_sizes))
    return Rpn(
        anchors,
        SparseRpnHead(layout.channels, anchors.num_anchors_per_location()[0]),
        RPN_POSITIVE_IOU,
        RPN_NEGATIVE_IOU,
        settings.rpn_batch,
        settings.rpn_positive,
        {"training": settings.rpn_pre_nms_train, "testing": settings.rpn_pre_nms_test},
        {"training": settings.rpn_post_nms_train, "testing": settings.rpn_post_nms_test},
        settings.rpn_nms,
    )


def build_roi_heads(layout: DetectorLayout, settings: DetectorSettings, classes: int) -> RoIHeads:
    """Build the head that classifies regions into ``classes`` plus background."""
    return RoIHeads(
        layout.pool,
        layout.head,
        BoxPredictor(layout.head_channels, classes + 1),
        ROI_POSITIVE_IOU,
        ROI_POSITIVE_IOU,
        settings.roi_batch,
        settings.roi_positive,
        None,  # torchvision's default weights of box offsets: 10, 10, 5, 5
        settings.score,
        settings.nms,
        settings.detections,
    )
