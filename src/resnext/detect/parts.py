"""The parts a detector is made of: torchvision's, kept in float32 where coordinates are, and those it has not."""

from dataclasses import dataclass

from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import FeaturePyramidNetwork, roi_pool
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from resnext.detect.roi import RoiAlign
from resnext.detect.rpn import Anchors, Head, Rpn, wide
from resnext.detect.settings import DetectorSettings
from resnext.errors import RequestError
from resnext.model.network import Network

RPN_SAME, RPN_OTHER = 0.7, 0.3  # overlap from which an anchor is positive, and below which it is negative
ROI_SAME = 0.5  # overlap from which a region is positive; below, it is background
ALIGNED, C4_ALIGNED = 7, 14  # side of a region's map before the head
SMALLEST_ANCHOR = 32.0
C4_ANCHORS = (64.0, 128.0, 256.0, 512.0)  # py-faster-rcnn's for COCO: scales 4, 8, 16, 32 of stride 16


class FpnBackbone(nn.Module):
    """The network and a feature pyramid on all its stages: maps ``0`` (the finest) ..., and ``pool``."""

    def __init__(self, body: Network, channels: int) -> None:
        super().__init__()
        self.body = body
        stages = [stage.out_channels for stage in body.architecture.stages]
        self.fpn = FeaturePyramidNetwork(stages, channels, LastLevelMaxPool())
        self.names = [name for name in body.feature_names if name != "pooled"]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] -> maps [B, channels, h, w], the finest first."""
        maps = self.body.features(images, self.names)
        if self.body.architecture.pre_activation:
            maps[self.names[-1]] = self.body.bn(maps[self.names[-1]])
        return dict(self.fpn({str(number): value for number, value in enumerate(maps.values())}))


class C4Backbone(nn.Module):
    """The network up to its last stage but one, whose map is ``0``."""

    def __init__(self, body: Network) -> None:
        super().__init__()
        self.body = body
        self.name = body.feature_names[-3]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] -> a map [B, channels, h, w]."""
        return {"0": self.body.features(images, [self.name])[self.name]}


class LastStage(nn.Module):
    """The head of c4: the network's last stage on each region, then the mean over places."""

    def __init__(self, body: Network) -> None:
        super().__init__()
        name = f"layer{len(body.architecture.stages)}"
        self.name = name
        self.add_module(name, body.get_submodule(name))
        delattr(body, name)
        self.norm = body.architecture.pre_activation
        if self.norm:
            self.bn = body.bn
            del body.bn

    def forward(self, x: Tensor) -> Tensor:
        """[regions, channels, 14, 14] -> [regions, channels of the last stage]."""
        x = self.get_submodule(self.name)(x)
        return (self.bn(x) if self.norm else x).mean((2, 3))


class MaxPool(nn.Module):
    """RoI max pooling of one map (Girshick 2015), as the paper had it."""

    def __init__(self, size: int, stride: int) -> None:
        super().__init__()
        self.size, self.stride = size, stride

    def forward(self, maps: dict[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:  # noqa: ARG002
        """A map [B, C, h, w] and each image's boxes [n, 4] -> [regions, C, size, size]."""
        return roi_pool(wide(maps["0"]), boxes, self.size, 1 / self.stride)


class Predictor(FastRCNNPredictor):
    """torchvision's, with scores and offsets in float32."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores, offsets = super().forward(x)
        return wide(scores), wide(offsets)


@dataclass(frozen=True)
class Parts:
    """A layout: what the RPN and the head are put on."""

    backbone: FpnBackbone | C4Backbone
    channels: int  # of each map
    anchor_sizes: tuple[tuple[float, ...], ...]  # of each map
    pool: nn.Module
    head: nn.Module
    head_channels: int


def parts_of(network: Network, settings: DetectorSettings) -> Parts:
    """The layout around ``network``, which becomes a part of it. Raises RequestError."""
    check_network(network, settings)
    network.fc, network.architecture = nn.Identity(), network.architecture.change(num_classes=0)
    return _fpn(network, settings) if settings.layout == "fpn" else _c4(network, settings)


def check_network(network: Network, settings: DetectorSettings) -> None:
    """Raises RequestError for a network the layout cannot stand on."""
    a, sizes = network.architecture, settings.anchor_sizes
    if a.in_channels != 3:
        raise RequestError(f"a detector reads RGB pictures, but {a.name} takes {a.in_channels} channels")
    if settings.layout == "c4" and len(a.stages) < 2:
        raise RequestError(f"detector.layout c4 needs two stages at least; {a.name} has one")
    if settings.layout == "fpn" and sizes is not None and len(sizes) != len(a.stages) + 1:
        raise RequestError(
            f"detector.anchor_sizes {[*sizes]} are {len(sizes)}, but {a.name} has {len(a.stages)} stages and the "
            f"pooled map: give {len(a.stages) + 1}"
        )
    if settings.layout == "fpn" and settings.pool == "max":
        raise RequestError("detector.pool max reads one map, so it belongs to detector.layout c4")


def _fpn(network: Network, settings: DetectorSettings) -> Parts:
    stages = len(network.architecture.stages)
    sizes = settings.anchor_sizes or tuple(SMALLEST_ANCHOR * 2**number for number in range(stages + 1))
    channels = settings.fpn_channels
    return Parts(
        FpnBackbone(network, channels),
        channels,
        tuple((size,) for size in sizes),
        RoiAlign([str(number) for number in range(stages)], ALIGNED, _strides(network)),
        TwoMLPHead(channels * ALIGNED**2, settings.head_channels),
        settings.head_channels,
    )


def _strides(network: Network) -> list[int]:
    """Pixels of the image to one of each stage's map."""
    strides = [network.architecture.stride]
    for stage in reversed(network.architecture.stages[1:]):
        strides.insert(0, strides[0] // stage.stride)
    return strides


def _c4(network: Network, settings: DetectorSettings) -> Parts:
    *_, before, last = network.architecture.stages
    stride = _strides(network)[-2]
    head = LastStage(network)
    return Parts(
        C4Backbone(network),
        before.out_channels,
        (settings.anchor_sizes or C4_ANCHORS,),
        RoiAlign(["0"], C4_ALIGNED, [stride]) if settings.pool == "align" else MaxPool(C4_ALIGNED, stride),
        head,
        last.out_channels,
    )


def rpn_of(parts: Parts, settings: DetectorSettings) -> Rpn:
    """The region proposal network of the recipe."""
    anchors = Anchors(parts.anchor_sizes, (tuple(settings.anchor_ratios),) * len(parts.anchor_sizes))
    return Rpn(
        anchors,
        Head(parts.channels, anchors.num_anchors_per_location()[0]),
        RPN_SAME,
        RPN_OTHER,
        settings.rpn_batch,
        settings.rpn_positive,
        {"training": settings.rpn_pre_nms_train, "testing": settings.rpn_pre_nms_test},
        {"training": settings.rpn_post_nms_train, "testing": settings.rpn_post_nms_test},
        settings.rpn_nms,
    )


def roi_heads_of(parts: Parts, settings: DetectorSettings, classes: int) -> RoIHeads:
    """The head that judges regions: ``classes`` and the background."""
    return RoIHeads(
        parts.pool,
        parts.head,
        Predictor(parts.head_channels, classes + 1),
        ROI_SAME,
        ROI_SAME,
        settings.roi_batch,
        settings.roi_positive,
        None,  # torchvision's weights of offsets: 10, 10, 5, 5
        settings.score,
        settings.nms,
        settings.detections,
    )
