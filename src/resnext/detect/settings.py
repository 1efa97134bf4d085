"""A detection recipe as frozen dataclasses: every choice of a run, each with its sentence. No torch here."""

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
    say,
)

SOURCES = ("coco", "voc")
LAYOUTS = ("fpn", "c4")
RESIZES = ("antialias", "torchvision")
STEPS = ("joint", "rpn", "fast_rcnn")
MOST_CHANNELS = 65_536
MOST_ANCHORS = 64  # sizes, and ratios


@dataclass(frozen=True, kw_only=True)
class DetectorSettings:
    """Faster R-CNN around the network, in torchvision's parts."""

    layout: str = say(
        "fpn: a feature pyramid on all stages, two linear layers a region; c4: regions from the last stage but one, "
        "which the last stage computes on, as in the paper.",
        "fpn",
        choices=LAYOUTS,
    )
    fpn_channels: int = say("Channels of the pyramid's maps.", 256, low=1, high=MOST_CHANNELS)
    head_channels: int = say(
        "Outputs of the two linear layers of the fpn layout's head.", 1024, low=1, high=MOST_CHANNELS
    )
    anchor_sizes: tuple[float, ...] | None = say(
        "Anchor sides in pixels: of fpn one a map, the pooled one behind the last stage too; of c4 all on one map. "
        "When not given 32 doubling from map to map; of c4 64, 128, 256, 512.",
        None,
    )
    anchor_ratios: tuple[float, ...] = say("Heights over widths of the anchors.", (0.5, 1.0, 2.0))
    pool: str = say("How a region's features are read: RoIAlign, or the paper's RoI max pooling.", "align",
                    choices=("align", "max"))  # fmt: skip
    rpn_batch: int = say("Anchors of an image that the RPN's loss samples.", 256, low=2)
    rpn_positive: float = say("Share of them that may be positive.", 0.5, low=0.01, high=1)
    rpn_pre_nms_train: int = say("Best proposals a map before NMS, in training.", 2000, low=1)
    rpn_pre_nms_test: int = say("Best proposals a map before NMS, elsewhere.", 1000, low=1)
    rpn_post_nms_train: int = say("Proposals an image that are left after NMS, in training.", 2000, low=1)
    rpn_post_nms_test: int = say("Proposals an image that are left after NMS, elsewhere.", 1000, low=1)
    rpn_nms: float = say("Overlap (IoU) above which the lower one of two proposals goes.", 0.7, low=0, high=1)
    roi_batch: int = say("Regions of an image that the head's loss samples.", 512, low=2)
    roi_positive: float = say("Share of them that may be positive.", 0.25, low=0.01, high=1)
    score: float = say("Least score of a detection.", 0.05, low=0, high=1)
    nms: float = say("Overlap (IoU) above which the lower one of two detections of a class goes.", 0.5, low=0, high=1)
    detections: int = say(
        "Most detections an image; where it is more than COCO's 100, evaluation counts as many of a class.", 100, low=1
    )

    def __post_init__(self) -> None:
        for name in ("anchor_ratios", "anchor_sizes"):
            values = getattr(self, name)
            if values is None:
                continue
            if not 1 <= len(values) <= MOST_ANCHORS:
                raise RequestError(f"detector.{name} must be 1 to {MOST_ANCHORS} numbers, not {len(values)}")
            if min(values) <= 0:
                raise RequestError(f"detector.{name} {list(values)} must be numbers above 0")


@dataclass(frozen=True, kw_only=True)
class DetectDataSettings:
    """Images with boxes, and the view of an image that the network is judged on."""

    source: str = say("coco: COCO's JSON files; voc: folders of Pascal VOC's XML files.", "coco", choices=SOURCES)
    path: str = say(
        "Folder that holds images and annotations; the other paths are below it, or absolute.", ".", place=True
    )
    train: str | None = say(
        "Annotations to train on: a JSON file of coco, a list of ImageSets/Main (or a folder of XML) of voc. "
        "When not given the source's usual place.",
        None,
    )
    val: str | None = say("Annotations that are held out, as train.", None)
    val_fraction: float | None = say(
        "Share of the images of train that is held out in place of val, by a hash of each file's name and split_seed.",
        None,
        low=0.001,
        high=0.9,
    )
    train_images: str | None = say("Folder of the training images; when not given the usual place.", None)
    val_images: str | None = say("Folder of the held-out images; when not given the usual place.", None)
    min_size: int = say("Shorter side that images are brought to, in pixels.", 800, low=1)
    max_size: int = say("Longer side that they may then have at most, in pixels.", 1333, low=1)
    resize: str = say(
        "antialias: bytes, averaged over all pixels they stand for; torchvision: floats between neighbours, as "
        "torchvision's detectors were trained.",
        "antialias",
        choices=RESIZES,
    )
    exif: bool = say(
        "Turn photographs upright as their EXIF tag says, where that gives the size the data states; those that fit "
        "both ways (turned by 180°, mirrored, square) as most of the others are stated. No: all stay as stored.",
        True,
    )
    mean: tuple[float, ...] | None = say(
        "Mean of each channel, on the scale of 0 to 1; that of init.weights, else ImageNet's, when not given.", None
    )
    std: tuple[float, ...] | None = say("Standard deviation of each channel, on the same scale.", None)
    empty: str = say("Training images without boxes: keep them as background, or drop them.", "keep",
                     choices=("keep", "drop"))  # fmt: skip
    bad_boxes: str = say(
        "Boxes that cannot be trained on (outside the image, without width or height): error names the first, "
        "drop leaves them out and counts them. Boxes that stick out are cut at the image's edge.",
        "error",
        choices=("error", "drop"),
    )
    workers: int | None = say("Loading processes; one a core, at most 8, when not given.", None, low=0, high=256)
    start_method: str | None = say(
        "How those processes start; Python's default when not given.", None, choices=("fork", "spawn", "forkserver")
    )
    limit_train: int | None = say("Use only so many training images, drawn by split_seed.", None, low=2)
    limit_val: int | None = say("Use only so many evaluation images, drawn by split_seed.", None, low=1)
    split_seed: int = say("Seed of those draws and of val_fraction's split.", 0, low=0)

    def __post_init__(self) -> None:
        if self.val_fraction is not None and self.val is not None:
            raise RequestError(
                f"data.val {self.val} and data.val_fraction {self.val_fraction:g} exclude each other: give one of them"
            )


@dataclass(frozen=True, kw_only=True)
class DetectAugmentSettings:
    """What training does to an image and its boxes. Each draw is a function of (seed, epoch, index)."""

    flip: float = say("Probability of a horizontal flip.", 0.5, low=0, high=1)
    vertical_flip: float = say("Probability of a vertical flip, for pictures that know no upright.", 0.0, low=0, high=1)
    min_sizes: tuple[int, ...] = say("Shorter sides, one of which each image draws; data.min_size when not given.", ())
    jitter: float = say(
        "Brightness, contrast and saturation each by up to this share, in random order.", 0.0, low=0, high=1
    )
    group: bool = say("Batches of images that are all wide or all tall, which need less padding.", True)


@dataclass(frozen=True, kw_only=True)
class DetectTrainSettings(RunSettings):
    """The run itself."""

    learn: str = say(
        "joint: RPN and head together, on one network; rpn: the proposals alone; fast_rcnn: the head alone, on the "
        "proposals of an rpn run (train.proposals), features not shared, as the paper has it.",
        "joint",
        choices=STEPS,
    )
    proposals: str | None = say(
        "Run or weights of the rpn step, whose proposals fast_rcnn trains on.", None, place=True
    )
    batch_size: int = say("Images an optimizer step sees, over all devices.", 16, low=1)
    channels_last: bool = say("Memory layout NHWC.", True)
    fast: bool = say("Frozen BN inside the convolutions, and fused kernels where BN trains.", True)


@dataclass(frozen=True, kw_only=True)
class DetectRecipe:
    """Everything a detection run depends on."""

    model: ModelSettings = field(default_factory=ModelSettings, metadata={"help": "The network below the detector."})
    detector: DetectorSettings = field(default_factory=DetectorSettings, metadata={"help": "Faster R-CNN around it."})
    init: InitSettings = field(
        default_factory=InitSettings, metadata={"help": "Where the weights start, and what of them stays."}
    )
    data: DetectDataSettings = field(default_factory=DetectDataSettings, metadata={"help": "The images and boxes."})
    augment: DetectAugmentSettings = field(
        default_factory=DetectAugmentSettings, metadata={"help": "What training does to an image and its boxes."}
    )
    optimizer: OptimizerSettings = field(
        default_factory=OptimizerSettings, metadata={"help": "How gradients become steps."}
    )
    schedule: ScheduleSettings = field(
        default_factory=ScheduleSettings, metadata={"help": "The learning rate over time."}
    )
    train: DetectTrainSettings = field(default_factory=DetectTrainSettings, metadata={"help": "The run itself."})

    def __post_init__(self) -> None:
        check_schedule(self.schedule, self.optimizer, self.train.epochs, self.train.steps)
        check_init(self.init)
        check_run(self.train)
        _check_agreement(self)


def _check_agreement(recipe: DetectRecipe) -> None:
    """Contradictions between fields, in the user's terms. Raises RequestError."""
    data, train = recipe.data, recipe.train
    if (data.mean is None) != (data.std is None):
        raise RequestError("data.mean and data.std must be given together")
    for size in (data.min_size, *recipe.augment.min_sizes):
        if not 1 <= size <= data.max_size:
            raise RequestError(
                f"a shorter side of {size} is larger than the longer one may be, data.max_size {data.max_size}"
            )
    if (train.learn == "fast_rcnn") != (train.proposals is not None):
        raise RequestError(
            f"train.learn {train.learn} {'needs' if train.proposals is None else 'takes no'} train.proposals, "
            "the run of the rpn step"
        )
