"""The settings of a classification recipe as frozen dataclasses, each with a help sentence. No torch here.

``settings_shared`` holds the sections that detection recipes have too.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from resnext.errors import RequestError
from resnext.settings_fields import (
    Bounds,
    Choices,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    Place,
    PositiveInt,
    option,
    section,
)
from resnext.settings_shared import (
    CommonAugmentSettings,
    CommonDataSettings,
    RecipeBase,
    RunSettings,
    check_belongs_to_weights,
)
from resnext.sources import SOURCES, DataSource, list_sources

SourceName = Annotated[DataSource, Choices(tuple(SOURCES))]
CropMode = Literal["crop", "squash", "pad"]
Interpolation = Literal["bicubic", "bilinear"]
JpegDecoder = Literal["exact", "fast"]
Sampling = Literal["uniform", "balanced"]
BadImagePolicy = Literal["error", "skip"]
ClassWeights = Literal["none", "balanced"]
Crop = Literal["center", "pad", "random_resized", "paper_imagenet"]

MAX_FOLDS = 100  # of a cross-validation
MAX_GROUP_PATTERN = 500  # characters

CROP_MODES: tuple[CropMode, ...] = get_args(CropMode)
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)
CROPS: tuple[Crop, ...] = get_args(Crop)


@dataclass(frozen=True, kw_only=True)
class DataSettings(CommonDataSettings):
    """The images, and how they are preprocessed for evaluation."""

    source: SourceName = option("Data set; folder for your own images.", "digits")
    path: Place | None = option(
        "Folder of the data; default: the usual place of the source. For webdataset a pattern of shards, such as "
        "train-{0000..1023}.tar, on any file system of fsspec; for parquet the files, or hf://datasets/NAME.",
        None,
    )
    val_path: Place | None = option(
        "Path of the held-out images, if not below path: shards, parquet files, or ImageNet-1K for imagenet5k.", None
    )
    val_fraction: Annotated[float, Bounds(0.001, 0.9)] | None = option(
        "Share of each class that is held out, for a folder without train/ and val/.", None
    )
    fold: str | None = option(
        "Cross-validation: hold out a fold of the training images, such as 2/5, the second of five. Folds have about "
        "the same share of every class and depend on split_seed.",
        None,
    )
    group: Place | None = option(
        "Keep the images of a group (a patient, a slide, a video) on one side of the split by val_fraction, or in one "
        "fold: a regular expression with one group in parentheses, such as (patient[0-9]+), searched for in each path "
        "below path, or a CSV file (.csv) with the columns file and group.",
        None,
    )
    classes: Place | None = option(
        "File with one class name per line, or imagenet; for shards that store class numbers only.", None
    )
    extra_classes: NonNegativeInt = option(
        "Classes of imagenet5k besides the 1,000 of ImageNet-1K: those with the most images.", 4000
    )
    download: bool = option("Download a public data set that is not on this machine.", True)
    channels: Annotated[int, Bounds(1, 3)] | None = option(
        "Read the images of a folder as RGB (3) or grey (1); other sources define their channels.", None
    )
    image_size: PositiveInt | None = option(
        "Side of the square input of the network, in pixels; default: that of the source, "
        "for photographs that of init.weights, else 224.",
        None,
    )
    resize: PositiveInt | None = option(
        "Shorter side before the centre crop, in pixels; default: that of init.weights if image_size is also "
        "theirs, else image_size.",
        None,
    )
    crop_mode: CropMode | None = option(
        "How an image becomes a square in evaluation: crop its centre, squash it, or pad it; "
        "default: for photographs that of init.weights, else crop.",
        None,
    )
    interpolation: Interpolation | None = option(
        "Filter of all (antialiased) resizing; default: that of init.weights, else bicubic.", None
    )
    on_bad_image: BadImagePolicy = option(
        "For an unreadable image: error stops the run, skip leaves it out, in training and in the run's evaluations, "
        "and counts it.",
        "error",
    )
    jpeg_decoder: JpegDecoder = option(
        "How training reads JPEG files: exact is bit-equal to decoding and resizing by Pillow; fast is several times "
        "faster, with the same random draws and pixels within a stated bound.",
        "exact",
    )
    sampling: Sampling = option(
        "Which images an epoch shows: uniform, each once; or balanced, each class equally often, so that images of "
        "small classes come several times, and of large classes others in each epoch.",
        "uniform",
    )
    class_weights: ClassWeights = option(
        "Weights of the images in the loss: none; or balanced, N / (K * n), with N training images, K classes and n "
        "images of the class.",
        "none",
    )
    cache: Literal["no", "memory"] = option(
        "Where training and its evaluations keep decoded images: memory decodes each image once, for files of one size "
        "that fit into memory, such as CIFAR's; batches are the same.",
        "no",
    )


@dataclass(frozen=True, kw_only=True)
class AugmentSettings(CommonAugmentSettings):
    """Augmentation of training images. All random draws are a function of (seed, epoch, index)."""

    crop: Crop = option(
        "center: as in evaluation; pad: random crop after padding; random_resized: as torchvision; "
        "paper_imagenet: as the released code.",
        "center",
    )
    pad: NonNegativeInt = option("Pixels of mean colour around the image when crop is pad.", 4)
    size: PositiveInt | None = option("Side of the square in training, in pixels; default: data.image_size.", None)
    min_area: Annotated[float, Bounds(0.0001, 1)] = option(
        "Smallest share of the area that a resized crop keeps.", 0.08
    )
    lighting: NonNegativeFloat = option("Standard deviation of the PCA lighting noise.", 0.0)
    trivial_augment: bool = option("One random operation of TrivialAugmentWide.", False)
    rand_augment: str | None = option(
        "RandAugment in timm's notation, such as rand-m7-mstd0.5-inc1 (needs timm).", None
    )
    repeated_augmentation: Annotated[int, Bounds(1, 16)] = option(
        "Repeated augmentation: each image appears N times in a row, and an epoch uses 1/N of the images.", 1
    )
    random_erasing: Fraction = option("Probability of random erasing.", 0.0)
    mixup: NonNegativeFloat = option("Beta parameter of mixup; 0 is off.", 0.0)
    cutmix: NonNegativeFloat = option(
        "Beta parameter of cutmix; 0 is off. With mixup too, each batch uses one of both at random.", 0.0
    )

    @property
    def is_mixing(self) -> bool:
        """Whether mixup or cutmix is on, so that a training error has no meaning."""
        return self.mixup > 0 or self.cutmix > 0


@dataclass(frozen=True, kw_only=True)
class TrainSettings(RunSettings):
    """The run: its length, batches, loss, precision, speed, evaluation and checkpoints."""

    batch_size: Annotated[int, Bounds(2)] = option("Images per optimizer step, over all devices.", 256)
    bn_batch_size: Annotated[int, Bounds(2)] | None = option(
        "Images over which BN computes statistics: a device splits its batch into micro-batches of this size; "
        "default: its whole batch.",
        None,
    )
    sync_bn: bool = option("Compute BN statistics over all devices; by default per device, as in the paper.", False)
    drop_last: bool = option("Leave out the last, smaller batch of an epoch.", True)
    loss: Literal["cross_entropy", "bce"] = option(
        "cross_entropy, or bce: binary cross entropy per class, averaged over classes.", "cross_entropy"
    )
    bce_threshold: Fraction | None = option("In bce, targets above this count as 1, others as 0.", None)
    drop_path: Annotated[float, Bounds(0, 0.99)] = option(
        "Drop path: probability that an image skips the last block; it grows linearly from the first block.", 0.0
    )
    label_smoothing: Annotated[float, Bounds(0, 0.999)] = option("Label smoothing.", 0.0)
    compile: Literal["no", "yes", "cuda-graphs"] = option(
        "torch.compile of the network: no, yes, or cuda-graphs; tuning plans and kernels stay in use.", "no"
    )
    tuning_plan: Place | None = option(
        "File with the tuning plan to use instead of measuring (resnext bench tune --save).", None
    )
    activation_checkpointing: Literal["no", "activations", "expansions", "blocks"] = option(
        "What the backward pass recomputes instead of storing, in order of saved memory: activations (after BN and "
        "ReLU), expansions (also the last convolution of a block), blocks.",
        "no",
    )


@dataclass(frozen=True, kw_only=True)
class DistillSettings:
    """Distillation: learn from a trained network as well as from the labels (Hinton et al. 2015)."""

    weights: Place | None = option(
        "Weights file, run directory or hub id of the teacher, with the same classes; default: no teacher.", None
    )
    alpha: Fraction = option("Share of the teacher in the loss; the rest is train.loss on the labels.", 0.5)
    temperature: Annotated[float, Bounds(0.01, 100)] = option(
        "Divides the logits of teacher and network before the softmax; the teacher's term counts times its square.",
        4.0,
    )


@dataclass(frozen=True, kw_only=True)
class Recipe(RecipeBase):
    """A classification recipe: everything a training run depends on, in sections.

    model: The network.
    init: Initial weights, and how they are fine-tuned.
    data: The images, and how they are preprocessed for evaluation.
    augment: Augmentation of training images.
    optimizer: The optimizer.
    schedule: The learning rate schedule.
    train: The run: its length, batches, loss, precision, speed, evaluation and checkpoints.
    distill: A teacher, from which the network learns too.

    Raises RequestError for settings that contradict each other.
    """

    data: DataSettings = section(DataSettings)
    augment: AugmentSettings = section(AugmentSettings)
    train: TrainSettings = section(TrainSettings)
    distill: DistillSettings = section(DistillSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_train(self.train)
        _check_data(self.data)
        check_belongs_to_weights("distill", self.distill, "a teacher, but the recipe names none")
        if self.augment.trivial_augment and self.augment.rand_augment is not None:
            raise RequestError("augment.trivial_augment and augment.rand_augment exclude each other: give one")


def _check_train(train: TrainSettings) -> None:
    if train.bn_batch_size is not None and train.batch_size % train.bn_batch_size:
        raise RequestError(
            f"train.bn_batch_size {train.bn_batch_size} does not divide train.batch_size {train.batch_size}"
        )
    if train.bn_batch_size is not None and train.sync_bn:
        raise RequestError(
            "train.sync_bn computes statistics over the whole batch, so it cannot be combined with train.bn_batch_size"
        )
    if train.bce_threshold is not None and train.loss != "bce":
        raise RequestError(f"train.bce_threshold belongs to train.loss bce, but it is {train.loss}")
    if train.tuning_plan is not None and train.fast == "no":
        raise RequestError(f"train.tuning_plan {train.tuning_plan} needs fast paths, but train.fast is no")


def parse_fold(text: str) -> tuple[int, int]:
    """Parse a ``data.fold`` such as 2/5 into the fold, from 1, and the number of folds. Raises RequestError."""
    number, _, total = text.partition("/")
    if not (number.isascii() and total.isascii() and number.isdigit() and total.isdigit()):
        raise RequestError(f"data.fold {text!r} must be such as 2/5, the second of five folds")
    fold, folds = int(number), int(total)
    if not 2 <= folds <= MAX_FOLDS or not 1 <= fold <= folds:
        raise RequestError(f"data.fold {text!r} must be from 1/K to K/K, with K folds from 2 to {MAX_FOLDS}")
    return fold, folds


def is_group_file(group: str) -> bool:
    """Whether a ``data.group`` is a CSV file; otherwise it is a regular expression."""
    return group.lower().endswith(".csv")


def compile_group_pattern(pattern: str) -> re.Pattern[str]:
    """Compile a ``data.group`` that is a pattern. Raises RequestError unless it has one group in parentheses."""
    if len(pattern) > MAX_GROUP_PATTERN:
        raise RequestError(f"data.group has {len(pattern):,} characters; a pattern may have {MAX_GROUP_PATTERN}")
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise RequestError(f"data.group {pattern!r} is not a regular expression ({error}), nor a .csv file") from None
    if compiled.groups != 1:
        found = f"{compiled.groups} groups" if compiled.groups else "no group"
        raise RequestError(
            f"data.group {pattern!r} has {found} in parentheses; it needs one, such as (patient[0-9]+), whose text is "
            "the name of the image's group; (?:...) does not count"
        )
    return compiled


def _check_data(data: DataSettings) -> None:
    if data.fold is not None:
        parse_fold(data.fold)
        if data.val_fraction is not None:
            raise RequestError("data.fold and data.val_fraction both say what is held out: give one")
        if data.max_val_images is not None:
            raise RequestError("data.fold holds out a whole fold: leave data.max_val_images out")
    if data.cache == "memory" and data.jpeg_decoder == "fast":
        raise RequestError(
            "data.cache memory keeps whole images, but data.jpeg_decoder fast decodes only crops: use one of both"
        )
    if data.sampling == data.class_weights == "balanced":
        raise RequestError(
            "data.sampling balanced and data.class_weights balanced both make up for unequal classes: use one of both"
        )
    if data.val_fraction is not None and data.source not in list_sources(val_fraction=True):
        raise RequestError(f"data.val_fraction splits a folder; {data.source} has its own held-out images")
    if data.group is not None:
        if data.source not in list_sources(val_fraction=True):
            raise RequestError(f"data.group is about the split of a folder; {data.source} has its own held-out images")
        if not is_group_file(data.group):
            compile_group_pattern(data.group)
    with_val_path, numbered = list_sources(val_path=True), list_sources(numbered=True)
    for name, given, takers in (("val_path", data.val_path, with_val_path), ("classes", data.classes, numbered)):
        if given is not None and data.source not in takers:
            raise RequestError(f"data.{name} belongs to data.source {', '.join(takers)}, but it is {data.source}")
