"""Settings of a detection run as frozen dataclasses, each field with its help text. Must not import torch."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from resnext.errors import RequestError
from resnext.settings_fields import Bounds, Choices, Fraction, Place, PositiveInt, YesNo, option, section
from resnext.settings_shared import CommonAugmentSettings, CommonDataSettings, RecipeBase, RunSettings
from resnext.sources import BOX_FORMATS, BoxSource

SourceName = Annotated[BoxSource, Choices(tuple(BOX_FORMATS))]
Layout = Literal["fpn", "c4"]
Resize = Literal["antialias", "torchvision"]
Stage = Literal["joint", "rpn", "fast_rcnn"]
RESIZES: tuple[Resize, ...] = get_args(Resize)
STAGES: tuple[Stage, ...] = get_args(Stage)
MAX_CHANNELS = 65_536
MAX_ANCHORS = 64  # sizes, and ratios
Channels = Annotated[int, Bounds(1, MAX_CHANNELS)]


@dataclass(frozen=True, kw_only=True)
class DetectorSettings:
    """Faster R-CNN around the backbone, built from torchvision's modules."""

    layout: Layout = option(
        "fpn: a feature pyramid on all stages and a head of two linear layers; c4: regions pooled from the "
        "second-to-last stage, with the last stage as the head, as in the paper.",
        "fpn",
    )
    fpn_channels: Channels = option("Channels of the feature pyramid's maps.", 256)
    head_channels: Channels = option("Outputs of each of the two linear layers in the fpn layout's head.", 1024)
    anchor_sizes: tuple[float, ...] | None = option(
        "Anchor sides in pixels. fpn: one per map, including the pooled map after the last stage; default 32, doubled "
        "from map to map. c4: all on one map; default 64, 128, 256, 512.",
        None,
    )
    anchor_ratios: tuple[float, ...] = option("Aspect ratios of the anchors, height / width.", (0.5, 1.0, 2.0))
    pool: Literal["align", "max"] = option(
        "Pooling of regions: align (RoIAlign) or max (RoI max pooling, as in the paper).", "align"
    )
    rpn_batch: Annotated[int, Bounds(2)] = option("Anchors sampled per image for the RPN's loss.", 256)
    rpn_positive: Annotated[float, Bounds(0.01, 1)] = option("Largest share of positive anchors among them.", 0.5)
    rpn_pre_nms_train: PositiveInt = option("Highest-scoring proposals kept per map before NMS, in training.", 2000)
    rpn_pre_nms_test: PositiveInt = option("Highest-scoring proposals kept per map before NMS, outside training.", 1000)
    rpn_post_nms_train: PositiveInt = option("Proposals kept per image after NMS, in training.", 2000)
    rpn_post_nms_test: PositiveInt = option("Proposals kept per image after NMS, outside training.", 1000)
    rpn_nms: Fraction = option("IoU above which NMS removes the lower-scoring of two proposals.", 0.7)
    roi_batch: Annotated[int, Bounds(2)] = option("Regions sampled per image for the head's loss.", 512)
    roi_positive: Annotated[float, Bounds(0.01, 1)] = option("Largest share of positive regions among them.", 0.25)
    score: Fraction = option("Minimum score of a detection.", 0.05)
    nms: Fraction = option("IoU above which NMS removes the lower-scoring of two detections of a class.", 0.5)
    detections: PositiveInt = option(
        "Maximum detections per image. Above COCO's limit of 100, evaluation counts this many per class.", 100
    )

    def __post_init__(self) -> None:
        for name in ("anchor_ratios", "anchor_sizes"):
            values = getattr(self, name)
            if values is None:
                continue
            if not 1 <= len(values) <= MAX_ANCHORS:
                raise RequestError(f"detector.{name} must be 1 to {MAX_ANCHORS} numbers, not {len(values)}")
            if min(values) <= 0:
                raise RequestError(f"detector.{name} {list(values)} must be numbers above 0")


@dataclass(frozen=True, kw_only=True)
class DetectDataSettings(CommonDataSettings):
    """The images and boxes, and how an image is resized and normalized for evaluation."""

    source: SourceName = option(
        "; ".join(f"{name}: {form.sentence}" for name, form in BOX_FORMATS.items()) + ".", "coco"
    )
    path: Place = option("Folder with images and annotations; the other paths are relative to it, or absolute.", ".")
    val_fraction: Annotated[float, Bounds(0.001, 0.9)] | None = option(
        "Share of the training images to hold out when there is no val, chosen by a hash of file name and split_seed.",
        None,
    )
    exif: bool = option(
        "Turn images upright by their EXIF tag where this gives the size in the annotations. Images whose size fits "
        "both ways (turned by 180°, mirrored, square) follow the majority of the others. No: keep all as stored.",
        True,
    )
    train: str | None = option(
        "Training annotations. coco: a JSON file; voc: a list in ImageSets/Main or a folder of XML files. "
        "Default: the usual place of the source.",
        None,
    )
    val: str | None = option("Held-out annotations, given like data.train.", None)
    train_images: str | None = option("Folder of the training images. Default: the usual place.", None)
    val_images: str | None = option("Folder of the held-out images. Default: the usual place.", None)
    min_size: PositiveInt = option("Shorter side that images are resized to, in pixels.", 800)
    max_size: PositiveInt = option("Maximum of the longer side after resizing, in pixels.", 1333)
    resize: Resize = option(
        "antialias: bilinear on uint8 with antialiasing; torchvision: bilinear on floats without antialiasing, as "
        "torchvision's detectors were trained.",
        "antialias",
    )
    empty: Literal["keep", "drop"] = option(
        "Training images without boxes: keep them as background or drop them.", "keep"
    )
    bad_boxes: Literal["error", "drop"] = option(
        "Unusable boxes (outside the image, without width or height): error stops and names the first, drop leaves "
        "them out and counts them. Boxes that extend past the image's edge are clipped.",
        "error",
    )

    def __post_init__(self) -> None:
        if self.val_fraction is not None and self.val is not None:
            raise RequestError(
                f"data.val {self.val} and data.val_fraction {self.val_fraction:g} cannot be combined: give one of them"
            )


@dataclass(frozen=True, kw_only=True)
class DetectAugmentSettings(CommonAugmentSettings):
    """Augmentation of images and boxes in training. All random draws are a function of (seed, epoch, index)."""

    flip: Fraction = option("Probability of a horizontal flip.", 0.5)
    vertical_flip: Fraction = option("Probability of a vertical flip, for images without an up direction.", 0.0)
    min_sizes: tuple[int, ...] = option("Shorter sides to draw from for each image. Default: data.min_size.", ())
    group: bool = option("Make batches of images that are all wide or all tall, which need less padding.", True)


@dataclass(frozen=True, kw_only=True)
class DetectTrainSettings(RunSettings):
    """The run: its stage, length, batches, precision, speed, evaluation and checkpoints."""

    batch_size: PositiveInt = option("Images per optimizer step, over all devices.", 16)
    channels_last: YesNo = option("Use the NHWC memory layout. Nothing is measured here, so there is no auto.", "yes")
    fast: YesNo = option(
        "Fold frozen BN into the convolutions, and use fused kernels where BN trains. Nothing is measured here, so "
        "there is no auto.",
        "yes",
    )
    stage: Stage = option(
        "joint: RPN and head together on one backbone; rpn: the RPN alone; fast_rcnn: the head alone, on the "
        "proposals of an rpn run (train.proposals), without shared features, as in the paper.",
        "joint",
    )
    proposals: Place | None = option("Run or weights file of the rpn stage, whose proposals fast_rcnn trains on.", None)


@dataclass(frozen=True, kw_only=True)
class DetectRecipe(RecipeBase):
    """A detection recipe: everything a training run depends on, in sections.

    model: The backbone.
    init: Initial weights, and how they are fine-tuned.
    data: The images and boxes, and how an image is resized and normalized for evaluation.
    augment: Augmentation of images and boxes in training.
    optimizer: The optimizer.
    schedule: The learning rate schedule.
    train: The run: its stage, length, batches, precision, speed, evaluation and checkpoints.
    detector: Faster R-CNN around the backbone.

    Raises RequestError for settings that contradict each other.
    """

    data: DetectDataSettings = section(DetectDataSettings)
    augment: DetectAugmentSettings = section(DetectAugmentSettings)
    train: DetectTrainSettings = section(DetectTrainSettings)
    detector: DetectorSettings = section(DetectorSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        data, train = self.data, self.train
        for size in (data.min_size, *self.augment.min_sizes):
            if not 1 <= size <= data.max_size:
                raise RequestError(f"a shorter side of {size} is not between 1 and data.max_size {data.max_size}")
        if (train.stage == "fast_rcnn") != (train.proposals is not None):
            raise RequestError(
                f"train.stage {train.stage} {'needs' if train.proposals is None else 'does not take'} "
                "train.proposals, the run of the rpn stage"
            )


def parse_category_ids(ids: Any, classes: list[str]) -> tuple[int, ...] | None:
    """Check category ids from a file; None where an older file has none. Raises RequestError."""
    if ids is None:
        return None
    whole = isinstance(ids, list) and all(isinstance(id_, int) and not isinstance(id_, bool) for id_ in ids)
    if not whole or len(ids) != len(classes) or len(set(ids)) != len(ids):
        raise RequestError("its category_ids must be one distinct integer per class")
    return tuple(ids)
