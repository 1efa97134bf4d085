"""Faster R-CNN (Ren et al. 2015) around a network, of torchvision's parts and under its parameter names.

Two layouts: ``fpn``, a feature pyramid on all stages (Lin et al. 2017), and ``c4``, whose regions are read from the
last stage but one and computed on by the last (He et al. 2016, the lineage of the paper's Section 5.4).
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import resize_boxes

from resnext.data.randomness import seed_of
from resnext.detect.parts import parts_of, roi_heads_of, rpn_of
from resnext.detect.preprocessing import DetectPreprocessing
from resnext.detect.settings import DetectorSettings
from resnext.model.architecture import Architecture
from resnext.model.network import Network, create_model

Target = dict[str, Tensor]  # boxes float32 [n, 4] in pixels of the image given, labels int64 [n] from 0
Found = dict[str, Tensor]  # of an image: boxes, labels, scores float32 [n], best first

DIVISIBLE = 32  # batches are filled up to a multiple of it
OBJECT = ("object",)  # the one class of an rpn step
AROUND = 0x4EAD  # tag of seed_of: the weights around the network draw from a stream of their own


class FasterRcnn(nn.Module):
    """Images in, boxes with classes out.

    ``learn`` says which parts there are: ``joint`` all; ``rpn`` no head, proposals are what it detects; ``fast_rcnn``
    no RPN of its own: ``proposer`` proposes, a detector of the rpn step, which is not trained. The network's last stage
    goes over into the head in the c4 layout; its classifier is left out. Raises RequestError where network and settings
    do not fit.
    """

    def __init__(
        self,
        network: Network,
        settings: DetectorSettings,
        classes: tuple[str, ...],
        preprocessing: DetectPreprocessing,
        *,
        learn: str = "joint",
        proposer: "FasterRcnn | None" = None,
    ) -> None:
        super().__init__()
        assert (learn == "fast_rcnn") == (proposer is not None)
        self.settings, self.learn = settings, learn
        self.preprocessing, self.classes = preprocessing, OBJECT if learn == "rpn" else classes
        self.provenance: dict[str, Any] = {}
        self.numbered = False  # whether the classes are only numbers, of a file that has no names
        self.category_ids: tuple[int, ...] | None = None  # of each class, in the annotations it was trained on
        parts = parts_of(network, settings)
        self.architecture = network.architecture
        self.backbone = parts.backbone
        if proposer is None:
            self.rpn = rpn_of(parts, settings)
        else:
            self.proposer = proposer.eval().requires_grad_(False)
        if learn != "rpn":
            self.roi_heads = roi_heads_of(parts, settings, len(classes))

    @property
    def network(self) -> Network:
        """The network below the detector (of c4 without its last stage)."""
        return self.backbone.body

    def forward(
        self, images: list[Tensor], targets: list[Target] | None = None, sizes: list[tuple[int, int]] | None = None
    ) -> Any:
        """``losses`` where there are targets, else ``detect``."""
        return self.detect(images, sizes) if targets is None else self.losses(images, targets)

    def losses(self, images: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """The parts of the loss, each a mean over what was sampled; their sum is what is trained on.

        Images as ``preprocessing.view`` gives them, on the device. Samples are drawn from torch's global generator.
        """
        batch = self.batch(images)
        given = [{"boxes": target["boxes"], "labels": target["labels"] + 1} for target in targets]  # 0 is background
        maps = self.backbone(batch.tensors)
        if self.learn == "rpn":
            return dict(self.rpn(batch, maps, given)[1])
        proposals, losses = self._proposed(batch, maps, given)
        return {**self.roi_heads(maps, proposals, batch.image_sizes, given)[1], **losses}

    def detect(self, images: list[Tensor], sizes: list[tuple[int, int]] | None = None) -> list[Found]:
        """What is in the images, in pixels of the images given, or of their (height, width) ``sizes``."""
        batch = self.batch(images)
        maps = self.backbone(batch.tensors)
        if self.learn == "rpn":
            found = self._as_found(*self.rpn.propose(batch, maps))
        else:
            proposals, _ = self._proposed(batch, maps)
            found = [
                one | {"labels": one["labels"] - 1} for one in self.roi_heads(maps, proposals, batch.image_sizes)[0]
            ]
        for one, seen, size in zip(found, batch.image_sizes, sizes or batch.image_sizes, strict=True):
            one["boxes"] = resize_boxes(one["boxes"], list(seen), list(size))
        return found

    def set_score(self, score: float) -> None:
        """Give only detections of at least this ``score``."""
        self.settings = replace(self.settings, score=score)
        if self.learn != "rpn":
            self.roi_heads.score_thresh = score

    def set_detections(self, most: int) -> None:
        """Give at most so many detections an image."""
        self.settings = replace(self.settings, detections=most)
        if self.learn != "rpn":
            self.roi_heads.detections_per_img = most

    def train(self, mode: bool = True) -> "FasterRcnn":
        """As ``nn.Module.train``; a proposer stays in evaluation mode."""
        super().train(mode)
        if self.learn == "fast_rcnn":
            self.proposer.eval()
        return self

    def batch(self, images: list[Tensor]) -> ImageList:
        """The images normalised and, filled up with mean colour, below each other: [B, 3, H, W]."""
        device = images[0].device
        sizes = [(int(image.shape[1]), int(image.shape[2])) for image in images]
        height, width = (-(-max(sides) // DIVISIBLE) * DIVISIBLE for sides in zip(*sizes, strict=True))
        view = self.preprocessing
        mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (view.mean, view.std))
        shape, dtype = (len(images), 3, height, width), self.network.conv1.weight.dtype
        out = torch.empty(shape, dtype=dtype, device=device, memory_format=self._layout()).zero_()
        for place, image, (h, w) in zip(out, images, sizes, strict=True):
            floats = image if image.is_floating_point() else image.float().div_(255)
            place[:, :h, :w] = (floats - mean) / std
        return ImageList(out, sizes)

    def _layout(self) -> torch.memory_format:
        """The memory format of the weights."""
        weight = self.network.conv1.weight
        nhwc = weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
        return torch.channels_last if nhwc else torch.contiguous_format

    def _proposed(
        self, batch: ImageList, maps: dict[str, Tensor], targets: list[Target] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Each image's proposals, and where there are targets and an RPN of its own the parts of its loss."""
        if self.learn != "fast_rcnn":
            proposals, losses = self.rpn(batch, maps, targets)
            return list(proposals), dict(losses)
        rpn = self.proposer.rpn
        with torch.no_grad():
            rpn.many = self.training
            proposals, _ = rpn(batch, self.proposer.backbone(batch.tensors))
        return list(proposals), {}

    def _as_found(self, proposals: list[Tensor], scores: list[Tensor]) -> list[Found]:
        """The best proposals as detections of the one class."""
        most = self.settings.detections
        return [
            {
                "boxes": boxes[:most],
                "labels": torch.zeros_like(score[:most], dtype=torch.int64),
                "scores": score[:most],
            }
            for boxes, score in zip(proposals, scores, strict=True)
        ]


def build_detector(
    architecture: Architecture,
    settings: DetectorSettings,
    classes: tuple[str, ...],
    preprocessing: DetectPreprocessing,
    *,
    seed: int = 0,
    learn: str = "joint",
    proposer: FasterRcnn | None = None,
) -> FasterRcnn:
    """A detector with fresh weights, which are a function of ``seed``. Raises RequestError."""
    network = create_model(architecture, seed=seed, num_classes=0)
    return around(network, settings, classes, preprocessing, seed=seed, learn=learn, proposer=proposer)


def around(
    network: Network,
    settings: DetectorSettings,
    classes: tuple[str, ...],
    preprocessing: DetectPreprocessing,
    *,
    seed: int = 0,
    learn: str = "joint",
    proposer: FasterRcnn | None = None,
) -> FasterRcnn:
    """A detector around ``network``, whose other weights are a function of ``seed``. Raises RequestError."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, AROUND))
        return FasterRcnn(network, settings, classes, preprocessing, learn=learn, proposer=proposer)
