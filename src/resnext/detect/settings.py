"""Settings of a detection run as frozen dataclasses, each field with its help text. Must not import torch."""

from dataclasses import dataclass, field

from resnext.errors import RequestError
from resnext.settings import (
    InitSettings,
    ModelSettings,
    OptimizerSettings,
    RunSettings,
    ScheduleSettings,
    check_init,
    check_run,
    check_schedule,
    option,
)
from resnext.sources import BOX_FORMATS

LAYOUTS = ("fpn", "c4")
RESIZES = ("antialias", "torchvision")
STAGES = ("joint", "rpn", "fast_rcnn")
MAX_CHANNELS = 65_536
MAX_ANCHORS = 64  # sizes, and ratios


@dataclass(frozen=True, kw_only=True)
class DetectorSettings:
    """Faster R-CNN around the backbone, built from torchvision's modules."""

    layout: str = option(
        "fpn: a feature pyramid on all stages and a head of two linear layers; c4: regions pooled from the "
        "second-to-last stage, with the last stage as the head, as in the paper.",
        "fpn",
        choices=LAYOUTS,
    )
    fpn_channels: int = option("Channels of the feature pyramid's maps.", 256, low=1, high=MAX_CHANNELS)
    head_channels: int = option(
        "Outputs of each of the two linear layers in the fpn layout's head.", 1024, low=1, high=MAX_CHANNELS
    )
    anchor_sizes: tuple[float, ...] | None = option(
        "Anchor sides in pixels. fpn: one per map, including the pooled map after the last stage; default 32, doubled "
        "from map to map. c4: all on one map; default 64, 128, 256, 512.",
        None,
    )
    anchor_ratios: tuple[float, ...] = option("Aspect ratios of the anchors, height / width.", (0.5, 1.0, 2.0))
    pool: str = option("Pooling of regions: align (RoIAlign) or max (RoI max pooling, as in the paper).", "align",
                    choices=("align", "max"))  # fmt: skip
    rpn_batch: int = option("Anchors sampled per image for the RPN's loss.", 256, low=2)
    rpn_positive: float = option("Largest share of positive anchors among them.", 0.5, low=0.01, high=1)
    rpn_pre_nms_train: int = option("Highest-scoring proposals kept per map before NMS, in training.", 2000, low=1)
    rpn_pre_nms_test: int = option("Highest-scoring proposals kept per map before NMS, outside training.", 1000, low=1)
    rpn_post_nms_train: int = option("Proposals kept per image after NMS, in training.", 2000, low=1)
    rpn_post_nms_test: int = option("Proposals kept per image after NMS, outside training.", 1000, low=1)
    rpn_nms: float = option("IoU above which NMS removes the lower-scoring of two proposals.", 0.7, low=0, high=1)
    roi_batch: int = option("Regions sampled per image for the head's loss.", 512, low=2)
    roi_positive: float = option("Largest share of positive regions among them.", 0.25, low=0.01, high=1)
    score: float = option("Minimum score of a detection.", 0.05, low=0, high=1)
    nms: float = option(
        "IoU above which NMS removes the lower-scoring of two detections of a class.", 0.5, low=0, high=1
    )
    detections: int = option(
        "Maximum detections per image. Above COCO's limit of 100, evaluation counts this many per class.", 100, low=1
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
class DetectDataSettings:
    """Images with boxes, and how an image is resized and normalized for evaluation."""

    source: str = option(
        "; ".join(f"{name}: {form.sentence}" for name, form in BOX_FORMATS.items()) + ".",
        "coco",
        choices=tuple(BOX_FORMATS),
    )
    path: str = option(
        "Folder with images and annotations; the other paths are relative to it, or absolute.", ".", place=True
    )
    train: str | None = option(
        "Training annotations. coco: a JSON file; voc: a list in ImageSets/Main or a folder of XML files. "
        "Default: the usual place of the source.",
        None,
    )
    val: str | None = option("Held-out annotations, given like data.train.", None)
    val_fraction: float | None = option(
        "Share of the training images to hold out when there is no val, chosen by a hash of file name and split_seed.",
        None,
        low=0.001,
        high=0.9,
    )
    train_images: str | None = option("Folder of the training images. Default: the usual place.", None)
    val_images: str | None = option("Folder of the held-out images. Default: the usual place.", None)
    min_size: int = option("Shorter side that images are resized to, in pixels.", 800, low=1)
    max_size: int = option("Maximum of the longer side after resizing, in pixels.", 1333, low=1)
    resize: str = option(
        "antialias: bilinear on uint8 with antialiasing; torchvision: bilinear on floats without antialiasing, as "
        "torchvision's detectors were trained.",
        "antialias",
        choices=RESIZES,
    )
    exif: bool = option(
        "Turn images upright by their EXIF tag where this gives the size in the annotations. Images whose size fits "
        "both ways (turned by 180°, mirrored, square) follow the majority of the others. No: keep all as stored.",
        True,
    )
    mean: tuple[float, ...] | None = option(
        "Mean of each channel, on the scale of 0 to 1. Default: that of init.weights, else ImageNet's.", None
    )
    std: tuple[float, ...] | None = option("Standard deviation of each channel, on the same scale.", None)
    empty: str = option("Training images without boxes: keep them as background or drop them.", "keep",
                     choices=("keep", "drop"))  # fmt: skip
    bad_boxes: str = option(
        "Unusable boxes (outside the image, without width or height): error stops and names the first, drop leaves "
        "them out and counts them. Boxes that extend past the image's edge are clipped.",
        "error",
        choices=("error", "drop"),
    )
    workers: int | None = option("Loading processes. Default: one per core, at most 8.", None, low=0, high=256)
    start_method: str | None = option(
        "Start method of those processes. Default: Python's.", None, choices=("fork", "spawn", "forkserver")
    )
    max_train_images: int | None = option("Use at most this many training images, drawn by split_seed.", None, low=2)
    max_val_images: int | None = option("Use at most this many held-out images, drawn by split_seed.", None, low=1)
    split_seed: int = option("Seed of those draws and of val_fraction's split.", 0, low=0)

    def __post_init__(self) -> None:
        if self.val_fraction is not None and self.val is not None:
            raise RequestError(
                f"data.val {self.val} and data.val_fraction {self.val_fraction:g} cannot be combined: give one of them"
            )


@dataclass(frozen=True, kw_only=True)
class DetectAugmentSettings:
    """Augmentation of an image and its boxes in training. Each random draw is a function of (seed, epoch, index)."""

    flip: float = option("Probability of a horizontal flip.", 0.5, low=0, high=1)
    vertical_flip: float = option(
        "Probability of a vertical flip, for images without an up direction.", 0.0, low=0, high=1
    )
    min_sizes: tuple[int, ...] = option("Shorter sides to draw from for each image. Default: data.min_size.", ())
    color_jitter: float = option(
        "Change brightness, contrast and saturation each by up to this share, in random order.", 0.0, low=0, high=1
    )
    group: bool = option("Make batches of images that are all wide or all tall, which need less padding.", True)


@dataclass(frozen=True, kw_only=True)
class DetectTrainSettings(RunSettings):
    """The training run."""

    stage: str = option(
        "joint: RPN and head together on one backbone; rpn: the RPN alone; fast_rcnn: the head alone, on the "
        "proposals of an rpn run (train.proposals), without shared features, as in the paper.",
        "joint",
        choices=STAGES,
    )
    proposals: str | None = option(
        "Run or weights file of the rpn stage, whose proposals fast_rcnn trains on.", None, place=True
    )
    batch_size: int = option("Images per optimizer step, over all devices.", 16, low=1)
    channels_last: bool = option("Use the NHWC memory layout.", True)
    fast: bool = option("Fold frozen BN into the convolutions, and use fused kernels where BN trains.", True)


@dataclass(frozen=True, kw_only=True)
class DetectRecipe:
    """All settings of a detection run."""

    model: ModelSettings = field(default_factory=ModelSettings, metadata={"help": "The backbone."})
    detector: DetectorSettings = field(default_factory=DetectorSettings, metadata={"help": "Faster R-CNN around it."})
    init: InitSettings = field(
        default_factory=InitSettings, metadata={"help": "Initial weights, and which of them stay frozen."}
    )
    data: DetectDataSettings = field(default_factory=DetectDataSettings, metadata={"help": "The images and boxes."})
    augment: DetectAugmentSettings = field(
        default_factory=DetectAugmentSettings, metadata={"help": "Augmentation of images and boxes in training."}
    )
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings, metadata={"help": "The optimizer."})
    schedule: ScheduleSettings = field(
        default_factory=ScheduleSettings, metadata={"help": "The learning rate schedule."}
    )
    train: DetectTrainSettings = field(default_factory=DetectTrainSettings, metadata={"help": "The training run."})

    def __post_init__(self) -> None:
        check_schedule(self.schedule, self.optimizer, self.train.epochs, self.train.steps)
        check_init(self.init)
        check_run(self.train)
        _check_consistency(self)


def _check_consistency(recipe: DetectRecipe) -> None:
    """Raise RequestError for fields that contradict each other."""
    data, train = recipe.data, recipe.train
    if (data.mean is None) != (data.std is None):
        raise RequestError("data.mean and data.std must be given together")
    for size in (data.min_size, *recipe.augment.min_sizes):
        if not 1 <= size <= data.max_size:
            raise RequestError(f"a shorter side of {size} is not between 1 and data.max_size {data.max_size}")
    if (train.stage == "fast_rcnn") != (train.proposals is not None):
        raise RequestError(
            f"train.stage {train.stage} {'needs' if train.proposals is None else 'does not take'} train.proposals, "
            "the run of the rpn stage"
        )
