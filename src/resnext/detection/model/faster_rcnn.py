"""Faster R-CNN (Ren et al. 2015) on our networks, built from torchvision's modules with its parameter names.

Two layouts: ``fpn``, a feature pyramid on all stages (Lin et al. 2017), and ``c4``, which pools regions from the
second-to-last stage and uses the last stage as the head (He et al. 2016; Section 5.4 of the paper).
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import resize_boxes

from resnext.data.seeding import derive_seed
from resnext.detection.model.layouts import build_layout, build_roi_heads, build_rpn
from resnext.detection.preprocessing import DetectPreprocessing
from resnext.detection.settings import DetectorSettings
from resnext.model.architecture import Architecture
from resnext.model.network import Network, create_model

Target = dict[str, Tensor]  # boxes float32 [n, 4] in pixels of the input image, labels int64 [n] from 0
ImageDetections = dict[str, Tensor]  # of one image: boxes [n, 4], labels [n], scores float32 [n], highest score first

SIZE_DIVISOR = 32  # height and width of a batch are padded to a multiple of it
OBJECT_CLASSES = ("object",)  # the only class of the rpn stage
DETECTOR_WEIGHTS_TAG = 0x4EAD  # seed tag of the initial weights of RPN, pyramid and head


class FasterRcnn(nn.Module):
    """Faster R-CNN: finds boxes with classes in images.

    The training stage decides which parts exist: ``joint`` has all; ``rpn`` has no head, and its detections are the
    proposals; ``fast_rcnn`` has no RPN and uses the proposals of ``proposer``, a frozen detector of the rpn stage.
    The network's classifier is dropped; in the c4 layout its last stage moves into the head. Raises RequestError where
    network and settings do not fit.
    """

    def __init__(
        self,
        network: Network,
        settings: DetectorSettings,
        classes: tuple[str, ...],
        preprocessing: DetectPreprocessing,
        *,
        stage: str = "joint",
        proposer: "FasterRcnn | None" = None,
    ) -> None:
        super().__init__()
        assert (stage == "fast_rcnn") == (proposer is not None)
        self.settings, self.stage = settings, stage
        self.preprocessing, self.classes = preprocessing, OBJECT_CLASSES if stage == "rpn" else classes
        self.provenance: dict[str, Any] = {}
        self.has_numbered_classes = False  # whether the class names are only numbers, as the weights file had none
        self.category_ids: tuple[int, ...] | None = None  # id of each class in the training annotations
        parts = build_layout(network, settings)
        self.architecture = network.architecture
        self.backbone = parts.backbone
        if proposer is None:
            self.rpn = build_rpn(parts, settings)
        else:
            self.proposer = proposer.eval().requires_grad_(False)
        if stage != "rpn":
            self.roi_heads = build_roi_heads(parts, settings, len(classes))

    @property
    def network(self) -> Network:
        """The backbone network (in the c4 layout without its last stage)."""
        return self.backbone.body

    def forward(
        self, images: list[Tensor], targets: list[Target] | None = None, sizes: list[tuple[int, int]] | None = None
    ) -> Any:
        """Call ``compute_losses`` where targets are given, else ``detect``."""
        return self.detect(images, sizes) if targets is None else self.compute_losses(images, targets)

    def compute_losses(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """Compute the parts of the loss, each a mean over its samples; the training loss is their sum.

        ``images`` are outputs of ``preprocessing``, on the device. Samples are drawn from torch's global generator.
        """
        batch = self.make_batch(images)
        given = [{"boxes": target["boxes"], "labels": target["labels"] + 1} for target in targets]  # 0 is background
        maps = self.backbone(batch.tensors)
        if self.stage == "rpn":
            return dict(self.rpn(batch, maps, given)[1])
        proposals, losses = self._propose_regions(batch, maps, given)
        return {**self.roi_heads(maps, proposals, batch.image_sizes, given)[1], **losses}

    def detect(self, images: list[Tensor], sizes: list[tuple[int, int]] | None = None) -> list[ImageDetections]:
        """Detect objects; boxes are in pixels of the images given, or of the original (height, width) ``sizes``."""
        batch = self.make_batch(images)
        maps = self.backbone(batch.tensors)
        if self.stage == "rpn":
            found = self._to_detections(*self.rpn.propose(batch, maps))
        else:
            proposals, _ = self._propose_regions(batch, maps)
            found = self.roi_heads(maps, proposals, batch.image_sizes)[0]
            found = [one | {"labels": one["labels"] - 1} for one in found]
        for one, seen, size in zip(found, batch.image_sizes, sizes or batch.image_sizes, strict=True):
            one["boxes"] = resize_boxes(one["boxes"], list(seen), list(size))
        return found

    def set_score_threshold(self, score: float) -> None:
        """Set the minimum score of detections."""
        self.settings = replace(self.settings, score=score)
        if self.stage != "rpn":
            self.roi_heads.score_thresh = score

    def set_max_detections(self, most: int) -> None:
        """Set the maximum number of detections per image."""
        self.settings = replace(self.settings, detections=most)
        if self.stage != "rpn":
            self.roi_heads.detections_per_img = most

    def train(self, mode: bool = True) -> "FasterRcnn":
        """Set the mode as ``nn.Module.train`` does, but keep the proposer in eval mode."""
        super().train(mode)
        if self.stage == "fast_rcnn":
            self.proposer.eval()
        return self

    def make_batch(self, images: list[Tensor]) -> ImageList:
        """Normalize the images and pad them with zeros (the mean color) to one batch [B, 3, H, W]."""
        device = images[0].device
        sizes = [(int(image.shape[1]), int(image.shape[2])) for image in images]
        height, width = (-(-max(sides) // SIZE_DIVISOR) * SIZE_DIVISOR for sides in zip(*sizes, strict=True))
        view = self.preprocessing
        mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (view.mean, view.std))
        shape, dtype = (len(images), 3, height, width), self.network.conv1.weight.dtype
        out = torch.empty(shape, dtype=dtype, device=device, memory_format=self._get_memory_format()).zero_()
        for place, image, (h, w) in zip(out, images, sizes, strict=True):
            floats = image if image.is_floating_point() else image.float().div_(255)
            place[:, :h, :w] = (floats - mean) / std
        return ImageList(out, sizes)

    def _get_memory_format(self) -> torch.memory_format:
        """Return the memory format of the weights."""
        weight = self.network.conv1.weight
        nhwc = weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
        return torch.channels_last if nhwc else torch.contiguous_format

    def _propose_regions(
        self, batch: ImageList, maps: dict[str, Tensor], targets: list[Target] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Compute each image's proposals, and with targets the RPN's losses, unless a proposer proposes."""
        if self.stage != "fast_rcnn":
            proposals, losses = self.rpn(batch, maps, targets)
            return list(proposals), dict(losses)
        rpn = self.proposer.rpn
        with torch.no_grad():
            rpn.use_training_counts = self.training
            proposals, _ = rpn(batch, self.proposer.backbone(batch.tensors))
        return list(proposals), {}

    def _to_detections(self, proposals: list[Tensor], scores: list[Tensor]) -> list[ImageDetections]:
        """Convert the best proposals to detections of the single class."""
        most = self.settings.detections
        best = [(boxes[:most], score[:most]) for boxes, score in zip(proposals, scores, strict=True)]
        return [{"boxes": b, "labels": torch.zeros_like(s, dtype=torch.int64), "scores": s} for b, s in best]


def build_detector(
    architecture: Architecture,
    settings: DetectorSettings,
    classes: tuple[str, ...],
    preprocessing: DetectPreprocessing,
    *,
    seed: int = 0,
    stage: str = "joint",
    proposer: FasterRcnn | None = None,
) -> FasterRcnn:
    """Build a detector with initial weights that are a function of ``seed``. Raises RequestError."""
    network = create_model(architecture, seed=seed, num_classes=0)
    return build_around(network, settings, classes, preprocessing, seed=seed, stage=stage, proposer=proposer)


def build_around(
    network: Network,
    settings: DetectorSettings,
    classes: tuple[str, ...],
    preprocessing: DetectPreprocessing,
    *,
    seed: int = 0,
    stage: str = "joint",
    proposer: FasterRcnn | None = None,
) -> FasterRcnn:
    """Build a detector around ``network``; the new weights are a function of ``seed``. Raises RequestError."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, DETECTOR_WEIGHTS_TAG))
        return FasterRcnn(network, settings, classes, preprocessing, stage=stage, proposer=proposer)
