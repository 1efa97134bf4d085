"""Training step and prediction of a detector for ``resnext bench detect``: ours or torchvision's, with equal weights.

BN is frozen, and so is the network up to a stage, as usual when detectors are trained. Images are noise and boxes are
random. Both libraries draw the same samples from the same seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d

from resnext.bench.check_outputs import Distances
from resnext.bench.peers import OURS, stabilize_weights
from resnext.bench.train_step import StepConfig
from resnext.choices import Precision
from resnext.detection.model.faster_rcnn import FasterRcnn, ImageDetections, build_detector
from resnext.detection.model.fuse import fuse_detector
from resnext.detection.preprocessing import IMAGENET_MEAN, IMAGENET_STD, DetectPreprocessing
from resnext.detection.settings import DetectorSettings
from resnext.device import autocast
from resnext.errors import RequestError, WorkError
from resnext.model.architecture import Architecture
from resnext.settings_shared import FreezeStage, InitSettings
from resnext.speed.allocator import tune_malloc
from resnext.training.finetune import find_bn_layers, freeze, group_modules_by_stage, set_training_mode
from resnext.weights.adapters import torchvision as torchvision_names

SGD: dict[str, Any] = {"lr": 1e-4, "momentum": 0.9, "weight_decay": 1e-4}
ASPECT_RATIO = 4 / 3  # longer side over shorter side
LOGIT_STD = 1.0  # standard deviation of class logits; some hundred boxes per image then pass the score threshold
SEED = 0
SETTINGS = DetectorSettings()  # torchvision's defaults
RPN_LOSSES = ("loss_objectness", "loss_rpn_box_reg")
# One proposal more or less, or another order, changes the samples of the head: its losses move by a few percent.
TOLERANCES: dict[str, Distances] = {
    "fp32": {"RPN losses": 1e-4, "head losses": 2e-2, "best scores": 1e-3},
    "bf16": {"RPN losses": 0.05, "head losses": 0.1, "best scores": 0.1},
}


@dataclass(frozen=True)
class DetectWorkload:
    """The batch and the detector that every candidate is timed on."""

    architecture: Architecture
    size: int  # shorter side
    batch: int
    boxes: int = 8  # per image
    classes: int = 80
    freeze: FreezeStage | None = "conv2"  # last frozen stage

    @property
    def images(self) -> list[Tensor]:
        """Images of coarse noise, uint8 [3, H, W]."""
        generator = torch.Generator().manual_seed(1)
        coarse = torch.rand(self.batch, 3, self.size // 8 + 1, self.width // 8 + 1, generator=generator)
        fine = torch.nn.functional.interpolate(coarse, (self.size, self.width), mode="bilinear", align_corners=False)
        return list((fine * 255).to(torch.uint8))

    @property
    def width(self) -> int:
        """The longer side in pixels."""
        return round(self.size * ASPECT_RATIO)

    @property
    def targets(self) -> list[dict[str, Tensor]]:
        """Random boxes of all sizes, with labels that start at 0."""
        generator = torch.Generator().manual_seed(2)
        found = []
        for _ in range(self.batch):
            sides = self.size * torch.empty(self.boxes, 2).uniform_(0.05, 0.6, generator=generator)
            room = torch.tensor([self.width, self.size]) - sides
            corner = room * torch.rand(self.boxes, 2, generator=generator)
            labels = torch.randint(self.classes, (self.boxes,), generator=generator)
            found.append({"boxes": torch.cat([corner, corner + sides], 1), "labels": labels})
        return found


class DetectStep:
    """One candidate: ``train_step`` and ``predict`` on the batch of the workload."""

    def __init__(self, task: DetectWorkload, config: StepConfig, start: FasterRcnn) -> None:
        tune_malloc()
        self.config, self.is_ours = config, config.library == OURS
        self.model: nn.Module = _build_ours(task, start) if self.is_ours else _build_torchvision(task, start)
        if config.channels_last:
            self.model.to(memory_format=torch.channels_last)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(trained, fused=self.is_ours or None, **SGD)
        self.images, self.targets = task.images, task.targets
        if not self.is_ours:  # torchvision expects float images, and label 0 is the background
            self.images = [image.float() / 255 for image in self.images]
            self.targets = [target | {"labels": target["labels"] + 1} for target in self.targets]

    def losses(self) -> dict[str, Tensor]:
        """Compute the losses; the samples depend on the seed only."""
        set_training_mode(self.model)
        torch.manual_seed(SEED)
        with autocast(self.images[0].device, self.config.precision):
            return dict(self.model(self.images, self.targets))

    def train_step(self) -> None:
        """Run forward pass, loss, backward pass and an SGD step."""
        sum(self.losses().values(), torch.zeros(())).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def predict(self) -> list[ImageDetections]:
        """Predict boxes, scores and labels for each image."""
        if self.model.training:
            self.model.eval()
        with autocast(self.images[0].device, self.config.precision):
            return list(self.model(self.images))


def build_initial_detector(task: DetectWorkload) -> FasterRcnn:
    """Build the detector whose weights every candidate starts from.

    Raises RequestError for a network that torchvision's detector cannot use.
    """
    a = task.architecture
    torchvision_names.check_expressible(a)
    if len(a.stages) != 4 or (a.block == "basic" and a.cardinality > 1):
        raise RequestError(f"torchvision's detector needs a ResNet or ResNeXt of four stages, not {a.name}")
    classes = tuple(f"class {number}" for number in range(task.classes))
    model = build_detector(a.change(num_classes=0), SETTINGS, classes, DetectPreprocessing(), seed=SEED)
    stabilize_weights(model.network)
    with torch.no_grad():
        _set_running_stats(model, task)
        scores = _compute_class_logits(model, task)
        model.roi_heads.box_predictor.cls_score.weight.mul_(LOGIT_STD / scores.std())
    return model


@dataclass(frozen=True)
class DetectOutputs:
    """What a candidate computes before its first step."""

    losses: dict[str, float]
    detections: list[ImageDetections]


def compute_outputs(candidate: DetectStep) -> DetectOutputs:
    """Compute detections and losses, then do a training step; this is also the warm-up."""
    found = candidate.predict()
    losses = {name: loss.item() for name, loss in candidate.losses().items()}
    candidate.train_step()
    return DetectOutputs(losses, found)


def measure_distances(of: DetectOutputs, to: DetectOutputs) -> Distances:
    """Measure how far losses are from the reference's, as shares of the total loss, and the best scores."""
    whole = sum(to.losses.values())
    losses = {name: abs(of.losses[name] - value) / whole for name, value in to.losses.items()}
    return {
        "RPN losses": max(losses[name] for name in RPN_LOSSES),
        "head losses": max(value for name, value in losses.items() if name not in RPN_LOSSES),
        "best scores": max(_compare_scores(a, b) for a, b in zip(of.detections, to.detections, strict=True)),
    }


def list_configs(precision: Precision) -> list[StepConfig]:
    """List ours in ``precision`` and in fp32, then torchvision with its defaults and with its fastest settings."""
    fast, plain = StepConfig(OURS, precision), StepConfig("torchvision", "fp32", channels_last=False)
    configs = [fast, replace(fast, precision="fp32"), plain, StepConfig("torchvision", precision)]
    return list(dict.fromkeys(configs))


def _build_ours(task: DetectWorkload, start: FasterRcnn) -> FasterRcnn:
    architecture = task.architecture.change(num_classes=0)
    model = build_detector(architecture, SETTINGS, start.classes, DetectPreprocessing(), seed=SEED)
    model.load_state_dict(start.state_dict(), strict=True)
    freeze(model.network, InitSettings(weights="the same", frozen_bn=True, freeze=task.freeze))
    set_training_mode(model)
    fuse_detector(model)  # as in resnext detect train
    return model


def _build_torchvision(task: DetectWorkload, start: FasterRcnn) -> FasterRCNN:
    a, stages = task.architecture, list(group_modules_by_stage(start.network))[:-1]
    frozen = 0 if task.freeze is None else stages.index(task.freeze) + 1
    block = BasicBlock if a.block == "basic" else Bottleneck
    groups = {} if a.block == "basic" else {"groups": a.cardinality, "width_per_group": a.width}
    body = ResNet(block, list(a.blocks or ()), norm_layer=FrozenBatchNorm2d, **groups)
    for module in body.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = a.bn_eps
    backbone = _resnet_fpn_extractor(body, len(stages) - frozen)
    model = FasterRCNN(
        backbone,
        task.classes + 1,
        image_mean=IMAGENET_MEAN,
        image_std=IMAGENET_STD,
        rpn_post_nms_top_n_train=SETTINGS.rpn_post_nms_train,
        rpn_post_nms_top_n_test=SETTINGS.rpn_post_nms_test,
        box_batch_size_per_image=SETTINGS.roi_batch,
    )
    model.transform.resize = lambda image, target=None: (image, target)  # the loader resizes, as with ours
    known, ours = model.state_dict(), start.state_dict()
    left = {key for key in ours if key not in known and not key.endswith("num_batches_tracked")}
    if left:
        raise WorkError(f"torchvision's detector has no parameter {min(left)}; nothing was timed")
    model.load_state_dict({key: ours[key] for key in known}, strict=True)
    return model


def _set_running_stats(model: FasterRcnn, task: DetectWorkload) -> None:
    """Set running statistics from these images, so that activations neither grow nor vanish."""
    layers = find_bn_layers(model.network)
    before = [norm.momentum for norm in layers]
    for norm in layers:
        norm.momentum = 1.0
    model.train()
    model.backbone(model.make_batch(task.images).tensors)
    for norm, momentum in zip(layers, before, strict=True):
        norm.momentum = momentum


def _compute_class_logits(model: FasterRcnn, task: DetectWorkload) -> Tensor:
    """Compute the class logits of the proposals of the first image."""
    seen: list[Tensor] = []
    hook = model.roi_heads.box_predictor.cls_score.register_forward_hook(lambda _m, _x, y: seen.append(y))
    model.eval()
    model.detect(task.images[:1])
    hook.remove()
    return seen[0].float()


def _compare_scores(a: ImageDetections, b: ImageDetections) -> float:
    """Return the largest difference between sorted scores; 1 if only one of both found anything."""
    if not len(a["scores"]) or not len(b["scores"]):
        return float(len(a["scores"]) != len(b["scores"]))
    most = min(len(a["scores"]), len(b["scores"]))
    return float((a["scores"][:most] - b["scores"][:most]).abs().max())


def build_candidates(task: DetectWorkload, configs: Sequence[StepConfig]) -> dict[str, DetectStep]:
    """Build all candidates with the same weights, by name."""
    start = build_initial_detector(task)
    return {str(config): DetectStep(task, config, start) for config in configs}
