"""The settings of a classification recipe as frozen dataclasses, each with a help sentence. No torch here."""

from dataclasses import dataclass, field, fields
from typing import Any

from resnext.errors import RequestError
from resnext.model.architecture import BLOCKS, FORMS, INITIALISATIONS, SHORTCUTS, STEMS, Architecture
from resnext.sources import SOURCES, list_sources

CROP_MODES = ("crop", "squash", "pad")
JPEG_DECODERS = ("exact", "fast")
CROPS = ("center", "pad", "random_resized", "paper_imagenet")
DEFAULT_EPOCHS = 100  # if a recipe gives neither epochs nor steps
FREEZE_STAGES = ("stem", "conv2", "conv3", "conv4", "conv5", "features")


def option(
    sentence: str,
    default: Any,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    place: bool = False,
) -> Any:
    """Declare a setting: its help sentence, default, and allowed values (``low`` and ``high`` included).

    ``place`` marks a path, URL or hub id.
    """
    about = {"help": sentence, "choices": choices, "low": low, "high": high, "place": place}
    return field(default=default, metadata=about)


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The network. Every field except ``name`` changes one property of the network that ``name`` describes.

    With ``init.weights`` the network is that of the weights, and the fields given here must agree with it, except
    ``form`` and ``initialisation``, which do not change the function.
    """

    name: str | None = option(
        "Name of the network, such as resnext50_32x4d or resnext29_8x64d; default: that of init.weights.", None
    )
    depth: int | None = option("Layers with weights on the longest path.", None, low=1)
    cardinality: int | None = option("C, the number of paths in a block.", None, low=1)
    width: int | None = option("d, the channels of one path in the first stage.", None, low=1)
    stem: str | None = option("imagenet: 7x7/2 and max pool; cifar: 3x3 and no pool.", None, choices=STEMS)
    block: str | None = option("bottleneck: 1x1, 3x3, 1x1; basic: 3x3, 3x3.", None, choices=BLOCKS)
    form: str | None = option("Which of the three equivalent forms of Figure 3 to compute.", None, choices=FORMS)
    shortcut: str | None = option("A pads, B projects where shapes change, C always projects.", None, choices=SHORTCUTS)
    pre_activation: bool | None = option("Put BN and ReLU before each convolution.", None)
    base_channels: int | None = option("Output channels of the stem.", None, low=1)
    blocks: tuple[int, ...] | None = option("Blocks in each stage, instead of those of the depth.", None)
    stage_widths: tuple[int, ...] | None = option("C*d of each stage, instead of doubling from stage to stage.", None)
    stage_channels: tuple[int, ...] | None = option("Output channels of each stage, instead of doubling.", None)
    initialisation: str | None = option(
        "release: as in the Torch7 code; zero_gamma: the last BN scale of each block starts at 0.",
        None,
        choices=INITIALISATIONS,
    )

    def architecture(self, num_classes: int, in_channels: int) -> Architecture:
        """Return the architecture for a number of classes and input channels. Raises RequestError."""
        if self.name is None:
            raise RequestError(
                "the recipe names no network: give model.name, such as resnext50_32x4d, or weights to start from "
                "(init.weights)"
            )
        return Architecture.parse(self.name, num_classes=num_classes, in_channels=in_channels, **self.get_changes())

    def get_changes(self) -> dict[str, Any]:
        """Return the fields besides ``name`` that were given."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "name"}
        return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class InitSettings:
    """Initial weights, and how they are fine-tuned."""

    weights: str | None = option(
        "Weights file, run directory or hub id to start from; default: random initial weights.", None, place=True
    )
    freeze: str | None = option(
        "Last frozen stage: it and all stages before it are not trained.", None, choices=FREEZE_STAGES
    )
    frozen_bn: bool = option("Freeze all BN layers: statistics, scales and shifts stay as loaded.", False)
    layer_decay: float = option(
        "Factor between the learning rates of a stage and the next one; the head has the full rate; 1 is off.",
        1.0,
        low=0.0001,
        high=1,
    )


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The images, and how an image is preprocessed for evaluation."""

    source: str = option("Data set; folder for your own images.", "digits", choices=tuple(SOURCES))
    path: str | None = option(
        "Folder of the data; default: the usual place of the source. For webdataset a pattern of shards, such as "
        "train-{0000..1023}.tar, on any file system of fsspec; for parquet the files, or hf://datasets/NAME.",
        None,
        place=True,
    )
    val_path: str | None = option(
        "Path of the held-out images, if not below path: shards, parquet files, or ImageNet-1K for imagenet5k.",
        None,
        place=True,
    )
    classes: str | None = option(
        "File with one class name per line, or imagenet; for shards that store class numbers only.", None, place=True
    )
    extra_classes: int = option(
        "Classes of imagenet5k besides the 1,000 of ImageNet-1K: those with the most images.", 4000, low=0
    )
    download: bool = option("Download a public data set that is not on this machine.", True)
    val_fraction: float | None = option(
        "Share of each class that is held out, for a folder without train/ and val/.",
        None,
        low=0.001,
        high=0.9,
    )
    split_seed: int = option("Seed of the split by val_fraction, and of max_train_images and max_val_images.", 0, low=0)
    channels: int | None = option(
        "Read the images of a folder as RGB (3) or grey (1); other sources define their channels.", None, low=1, high=3
    )
    image_size: int | None = option(
        "Side of the square input of the network, in pixels; default: that of the source, "
        "for photographs that of init.weights, else 224.",
        None,
        low=1,
    )
    resize: int | None = option(
        "Shorter side before the centre crop, in pixels; default: that of init.weights if image_size is also "
        "theirs, else image_size.",
        None,
        low=1,
    )
    crop_mode: str | None = option(
        "How an image becomes a square in evaluation: crop its centre, squash it, or pad it; "
        "default: for photographs that of init.weights, else crop.",
        None,
        choices=CROP_MODES,
    )
    interpolation: str | None = option(
        "Filter of all (antialiased) resizing; default: that of init.weights, else bicubic.",
        None,
        choices=("bicubic", "bilinear"),
    )
    exif: bool = option("Rotate photographs as their EXIF tag says.", True)
    mean: tuple[float, ...] | None = option(
        "Mean of each channel, on the scale of 0 to 1; default: that of init.weights, else of the source.",
        None,
    )
    std: tuple[float, ...] | None = option("Standard deviation of each channel, on the same scale.", None)
    workers: int | None = option(
        "Loading processes; default: 0 for data sets in memory, else one per core, at most 8.",
        None,
        low=0,
        high=256,
    )
    start_method: str | None = option(
        "Start method of the loading processes; default: that of Python.",
        None,
        choices=("fork", "spawn", "forkserver"),
    )
    on_bad_image: str = option(
        "For an unreadable training image: error stops the run, skip leaves the image out and counts it.",
        "error",
        choices=("error", "skip"),
    )
    jpeg_decoder: str = option(
        "How training reads JPEG files: exact is bit-equal to decoding and resizing by Pillow; fast is several times "
        "faster, with the same random draws and pixels within a stated bound.",
        "exact",
        choices=JPEG_DECODERS,
    )
    max_train_images: int | None = option("Use at most this many training images, drawn by split_seed.", None, low=2)
    max_val_images: int | None = option("Use at most this many evaluation images, drawn by split_seed.", None, low=1)


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """Augmentation of training images. All random draws are a function of (seed, epoch, index)."""

    crop: str = option(
        "center: as in evaluation; pad: random crop after padding; random_resized: as torchvision; "
        "paper_imagenet: as the released code.",
        "center",
        choices=CROPS,
    )
    pad: int = option("Pixels of mean colour around the image when crop is pad.", 4, low=0)
    size: int | None = option("Side of the square in training, in pixels; default: data.image_size.", None, low=1)
    min_area: float = option("Smallest share of the area that a resized crop keeps.", 0.08, low=0.0001, high=1)
    flip: float = option("Probability of a horizontal flip.", 0.0, low=0, high=1)
    color_jitter: float = option(
        "Change brightness, contrast and saturation by up to this share each, in random order.", 0.0, low=0, high=1
    )
    lighting: float = option("Standard deviation of the PCA lighting noise.", 0.0, low=0)
    trivial_augment: bool = option("One random operation of TrivialAugmentWide.", False)
    rand_augment: str | None = option(
        "RandAugment in timm's notation, such as rand-m7-mstd0.5-inc1 (needs timm).", None
    )
    repeated_augmentation: int = option(
        "Repeated augmentation: each image appears this many times in a row; an epoch uses 1/repeats of the images.",
        1,
        low=1,
        high=16,
    )
    random_erasing: float = option("Probability of random erasing.", 0.0, low=0, high=1)
    mixup: float = option("Beta parameter of mixup; 0 is off.", 0.0, low=0)
    cutmix: float = option(
        "Beta parameter of cutmix; 0 is off. With mixup too, each batch uses one of both at random.", 0.0, low=0
    )

    @property
    def is_mixing(self) -> bool:
        """Whether mixup or cutmix is on, so that a training error has no meaning."""
        return self.mixup > 0 or self.cutmix > 0


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """The optimizer."""

    name: str = option("Optimizer; lamb needs timm.", "sgd", choices=("sgd", "adamw", "lamb"))
    lr: float = option("Peak learning rate, for the global batch.", 0.1, low=0)
    momentum: float = option("Momentum of SGD (dampening 0).", 0.9, low=0, high=1)
    nesterov: bool = option("Nesterov momentum, as in the released code.", True)
    betas: tuple[float, ...] = option("Decay rates of the two moving averages of AdamW and LAMB.", (0.9, 0.999))
    weight_decay: float = option("Weight decay.", 1e-4, low=0)
    weight_decay_on: str = option(
        "Which parameters decay: all, as in the paper; weights: without norms and biases; not_norms: without norms.",
        "all",
        choices=("all", "weights", "not_norms"),
    )


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """The learning rate schedule."""

    name: str = option("Shape of the schedule.", "step", choices=("step", "cosine", "constant"))
    milestones: tuple[float, ...] = option(
        "Epochs or steps (see milestone_unit) after which the step schedule multiplies the rate by factor.", ()
    )
    milestone_unit: str = option("Unit of the milestones.", "epochs", choices=("epochs", "steps"))
    gamma: float = option("Factor of the learning rate at each milestone.", 0.1, low=0, high=1)
    warmup_epochs: float = option("Epochs of linear warm-up.", 0.0, low=0)
    warmup_start: float = option("Share of the learning rate at which the warm-up starts.", 0.01, low=0, high=1)
    final_lr: float = option("Learning rate at the end of a cosine schedule.", 0.0, low=0)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of any kind of run: length, precision, device, evaluation, checkpoints."""

    epochs: int | None = option("Passes over the training set; default: 100, unless steps is given.", None, low=1)
    steps: int | None = option("Optimizer steps of the whole run, instead of epochs.", None, low=1)
    grad_clip_norm: float | None = option("Largest gradient norm; larger gradients are scaled down.", None, low=0)
    ema_decay: float = option(
        "Decay of the moving average of weights and buffers, in fp32; 0 is off.", 0.0, low=0, high=1
    )
    ema_steps: int = option("Steps between updates of the moving average.", 1, low=1)
    ema_warmup: bool = option("Let the decay of the moving average grow as (1+t)/(10+t) up to ema_decay.", True)
    precision: str = option(
        "Precision of the convolutions: fp32, or bf16 or fp16 by autocast (fp16 scales the loss; for GPUs).",
        "fp32",
        choices=("fp32", "bf16", "fp16"),
    )
    device: str = option("cpu, cuda, cuda:1, mps, or auto.", "auto")
    threads: int | None = option("CPU threads for computation; default: that of PyTorch.", None, low=1)
    seed: int = option("Seed of initial weights, image order and augmentation.", 0, low=0)
    evaluate_every: int = option("Epochs between evaluations; the last epoch is always evaluated.", 1, low=1)
    checkpoint_steps: int | None = option(
        "Steps between checkpoints within an epoch; each epoch also ends with one.", None, low=1
    )
    checkpoint_url: str | None = option(
        "URL of a folder (s3://..., gs://..., file://...) to which each checkpoint is uploaded; "
        "a run that is missing on this disk resumes from there.",
        None,
        place=True,
    )
    peer_timeout: float = option("Seconds without contact after which another process counts as lost.", 600.0, low=1)

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the number of optimizer steps of the whole run."""
        return (self.epochs or DEFAULT_EPOCHS) * steps_per_epoch if self.steps is None else self.steps


@dataclass(frozen=True, kw_only=True)
class TrainSettings(RunSettings):
    """Settings of a classification run."""

    batch_size: int = option("Images per optimizer step, over all devices.", 256, low=2)
    bn_batch_size: int | None = option(
        "Images over which BN computes statistics: a device splits its batch into micro-batches of this size; "
        "default: its whole batch.",
        None,
        low=2,
    )
    sync_bn: bool = option("Compute BN statistics over all devices; by default per device, as in the paper.", False)
    drop_last: bool = option("Leave out the last, smaller batch of an epoch.", True)
    loss: str = option(
        "cross_entropy, or bce: binary cross entropy per class, averaged over classes.",
        "cross_entropy",
        choices=("cross_entropy", "bce"),
    )
    bce_threshold: float | None = option("In bce, targets above this count as 1, others as 0.", None, low=0, high=1)
    drop_path: float = option(
        "Drop path: probability that an image skips the last block; it grows linearly from the first block.",
        0.0,
        low=0,
        high=0.99,
    )
    label_smoothing: float = option("Label smoothing.", 0.0, low=0, high=0.999)
    compile: str = option(
        "torch.compile of the network: no, yes, or cuda-graphs; tuning plans and kernels stay in use.",
        "no",
        choices=("no", "yes", "cuda-graphs"),
    )
    channels_last: str = option(
        "Memory layout NHWC: yes, no, or auto, which measures both at the start.",
        "auto",
        choices=("auto", "yes", "no"),
    )
    fast: str = option(
        "Use packed convolutions and fused kernels where they measure faster: yes, no, or auto, which also measures "
        "a whole step and skips short runs.",
        "auto",
        choices=("auto", "yes", "no"),
    )
    tuning_plan: str | None = option(
        "File with the tuning plan to use instead of measuring (resnext bench tune --save).", None, place=True
    )
    activation_checkpointing: str = option(
        "What the backward pass recomputes instead of storing, in order of saved memory: activations (after BN and "
        "ReLU), expansions (also the last convolution of a block), blocks.",
        "no",
        choices=("no", "activations", "expansions", "blocks"),
    )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A classification recipe: everything a training run depends on."""

    model: ModelSettings = field(default_factory=ModelSettings, metadata={"help": "The network."})
    init: InitSettings = field(
        default_factory=InitSettings, metadata={"help": "Initial weights, and how they are fine-tuned."}
    )
    data: DataSettings = field(default_factory=DataSettings, metadata={"help": "The images."})
    augment: AugmentSettings = field(
        default_factory=AugmentSettings, metadata={"help": "Augmentation of training images."}
    )
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings, metadata={"help": "The optimizer."})
    schedule: ScheduleSettings = field(
        default_factory=ScheduleSettings, metadata={"help": "The learning rate schedule."}
    )
    train: TrainSettings = field(default_factory=TrainSettings, metadata={"help": "The run."})

    def __post_init__(self) -> None:
        _check_consistency(self)


def _check_consistency(recipe: Recipe) -> None:
    """Check that settings do not contradict each other. Raises RequestError."""
    check_schedule(recipe.schedule, recipe.optimizer, recipe.train.epochs, recipe.train.steps)
    _check_train(recipe.train)
    _check_data(recipe.data)
    if recipe.augment.trivial_augment and recipe.augment.rand_augment is not None:
        raise RequestError("augment.trivial_augment and augment.rand_augment exclude each other: give one")
    check_init(recipe.init)


def check_schedule(
    schedule: ScheduleSettings, optimizer: OptimizerSettings, epochs: int | None, steps: int | None
) -> None:
    """Check optimizer and schedule against the length of the run. Raises RequestError."""
    if schedule.name != "step" and schedule.milestones:
        raise RequestError(f"schedule.milestones belong to schedule.name step, but it is {schedule.name}")
    if list(schedule.milestones) != sorted(schedule.milestones):
        raise RequestError(f"schedule.milestones {list(schedule.milestones)} must increase")
    if epochs is not None and steps is not None:
        raise RequestError(f"train.epochs {epochs} and train.steps {steps} both set the length of the run: give one")
    if epochs is not None and schedule.warmup_epochs >= epochs:
        raise RequestError(f"schedule.warmup_epochs {schedule.warmup_epochs:g} must be less than train.epochs {epochs}")
    if optimizer.nesterov and optimizer.name == "sgd" and optimizer.momentum == 0:
        raise RequestError("optimizer.nesterov needs optimizer.momentum above 0")
    if len(optimizer.betas) != 2 or not all(0 <= beta < 1 for beta in optimizer.betas):
        raise RequestError(f"optimizer.betas {list(optimizer.betas)} must be two numbers from 0 to below 1")


def check_run(train: RunSettings) -> None:
    """Check for values with which nothing would be trained or averaged. Raises RequestError."""
    if train.grad_clip_norm == 0:
        raise RequestError("train.grad_clip_norm 0 sets all gradients to 0; leave it out for no clipping")
    if train.ema_decay == 1:
        raise RequestError(
            "train.ema_decay 1 never changes the average; give less, such as 0.9999, or 0 for no average"
        )
    if train.ema_steps > 1 and not train.ema_decay:
        raise RequestError(f"train.ema_steps {train.ema_steps} needs an average: give train.ema_decay")


def _check_train(train: TrainSettings) -> None:
    """Check the settings of the run. Raises RequestError."""
    check_run(train)
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


def _check_data(data: DataSettings) -> None:
    """Check the settings of the data. Raises RequestError."""
    if (data.mean is None) != (data.std is None):
        raise RequestError("data.mean and data.std must be given together")
    if data.val_fraction is not None and data.source not in list_sources(val_fraction=True):
        raise RequestError(f"data.val_fraction splits a folder; {data.source} has its own held-out images")
    with_val_path, numbered = list_sources(val_path=True), list_sources(numbered=True)
    for name, given, takers in (("val_path", data.val_path, with_val_path), ("classes", data.classes, numbered)):
        if given is not None and data.source not in takers:
            raise RequestError(f"data.{name} belongs to data.source {', '.join(takers)}, but it is {data.source}")


def check_init(init: InitSettings) -> None:
    """Check that fine-tuning settings come with loaded weights. Raises RequestError."""
    if init.weights is not None:
        return
    for f in fields(init):
        value = getattr(init, f.name)
        if value != f.default:
            raise RequestError(
                f"init.{f.name} {str(value).lower() if isinstance(value, bool) else value} is about loaded weights, "
                "but the recipe starts from random ones: give init.weights, a file, run directory or hub id"
            )
