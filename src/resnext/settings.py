"""A recipe as frozen dataclasses: every choice of a run, each with its sentence. No torch here."""

from dataclasses import dataclass, field, fields
from typing import Any

from resnext.errors import RequestError
from resnext.model.architecture import BLOCKS, FORMS, INITIALISATIONS, SHORTCUTS, STEMS, Architecture

SOURCES = (
    *("digits", "fashion_mnist", "cifar10", "cifar100", "folder"),
    *("imagenet", "imagenet5k", "webdataset", "parquet"),
)
VAL_PATHS = ("imagenet", "imagenet5k", "webdataset", "parquet")  # sources whose held-out images may lie elsewhere
NUMBERED = ("webdataset", "parquet")  # sources that may know their classes by number only
FITS = ("crop", "squash", "pad")
DECODES = ("exact", "fast")
CROPS = ("center", "pad", "random_resized", "paper_imagenet")
EPOCHS = 100  # where a recipe does not say how long
FREEZES = ("stem", "conv2", "conv3", "conv4", "conv5", "features")


def say(
    sentence: str,
    default: Any,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    place: bool = False,
) -> Any:
    """A field with its sentence, and the values it may take (``low`` and ``high`` are both allowed).

    ``place``: a path, or a name of something elsewhere.
    """
    about = {"help": sentence, "choices": choices, "low": low, "high": high, "place": place}
    return field(default=default, metadata=about)


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The network. Everything but ``name`` changes one field of what the name says.

    With ``init.weights`` the network is theirs, and what is said here must agree with it; ``form`` and
    ``initialisation``, which change no function, are free.
    """

    name: str | None = say(
        "Name of the network, such as resnext50_32x4d or resnext29_8x64d; that of init.weights when not given.", None
    )
    depth: int | None = say("Layers with weights on the longest path.", None, low=1)
    cardinality: int | None = say("C, the number of paths in a block.", None, low=1)
    width: int | None = say("d, the channels of one path in the first stage.", None, low=1)
    stem: str | None = say("imagenet: 7x7/2 and max pool; cifar: 3x3 and no pool.", None, choices=STEMS)
    block: str | None = say("bottleneck: 1x1, 3x3, 1x1; basic: 3x3, 3x3.", None, choices=BLOCKS)
    form: str | None = say("Which of Figure 3's equal forms to compute.", None, choices=FORMS)
    shortcut: str | None = say("A pads, B projects where shapes change, C always projects.", None, choices=SHORTCUTS)
    pre_activation: bool | None = say("Put BN and ReLU before each convolution.", None)
    base_channels: int | None = say("Output channels of the stem.", None, low=1)
    blocks: tuple[int, ...] | None = say("Blocks in each stage, instead of what the depth says.", None)
    stage_widths: tuple[int, ...] | None = say("C*d of each stage, instead of doubling from stage to stage.", None)
    stage_channels: tuple[int, ...] | None = say("Output channels of each stage, instead of doubling.", None)
    initialisation: str | None = say(
        "release: as the Torch7 code; zero_gamma: the last BN of a block starts at 0.",
        None,
        choices=INITIALISATIONS,
    )

    def architecture(self, num_classes: int, in_channels: int) -> Architecture:
        """The architecture these settings name, for data of so many classes and channels. Raises RequestError."""
        if self.name is None:
            raise RequestError(
                "the recipe says no network: give model.name, such as resnext50_32x4d, or weights to start from "
                "(init.weights)"
            )
        return Architecture.parse(self.name, num_classes=num_classes, in_channels=in_channels, **self.said())

    def said(self) -> dict[str, Any]:
        """The fields beside ``name`` that were given."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "name"}
        return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class InitSettings:
    """Where the weights start, and what of them stays (fine-tuning)."""

    weights: str | None = say(
        "Weights file, run directory or hub id to start from; fresh weights when not given.", None, place=True
    )
    freeze: str | None = say("Everything up to and including this stage stays as loaded.", None, choices=FREEZES)
    frozen_bn: bool = say("All BN layers keep their loaded statistics, scales and shifts, and are not trained.", False)
    layer_decay: float = say(
        "The learning rate of each stage is the next one's times this; the head has the full rate; 1 is off.",
        1.0,
        low=0.0001,
        high=1,
    )


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where the images come from, and the view of an image that the network is judged on."""

    source: str = say("Which data set, or folder for one's own images.", "digits", choices=SOURCES)
    path: str | None = say(
        "Folder that holds the data; the source's own place when not given. Of webdataset the shards, as a pattern "
        "such as train-{0000..1023}.tar, on any file system fsspec knows; of parquet the files, or hf://datasets/NAME.",
        None,
        place=True,
    )
    val_path: str | None = say(
        "Where the held-out images lie, when not below path: shards, parquet files, or ImageNet-1K for imagenet5k.",
        None,
        place=True,
    )
    classes: str | None = say(
        "File with the class names, one a line, or imagenet: for shards, which hold numbers only.", None, place=True
    )
    extra_classes: int = say(
        "Classes that imagenet5k takes beside the 1,000 of ImageNet-1K: those with most images.", 4000, low=0
    )
    download: bool = say("Fetch a public data set that is not on this machine.", True)
    val_fraction: float | None = say(
        "Share of a folder without train/ and val/ that is held out, a class at a time.",
        None,
        low=0.001,
        high=0.9,
    )
    split_seed: int = say("Seed of that split.", 0, low=0)
    channels: int | None = say(
        "3 reads a folder's images as RGB, 1 as grey; other sources know theirs.", None, low=1, high=3
    )
    image_size: int | None = say(
        "Side of the square the network sees, in pixels; when not given the source's own, "
        "which for photographs is that of init.weights, else 224.",
        None,
        low=1,
    )
    resize: int | None = say(
        "Shorter side before the centre crop, in pixels; when not given that of init.weights where image_size is "
        "theirs too, else image_size.",
        None,
        low=1,
    )
    fit: str | None = say(
        "How a picture meets the square in evaluation: crop its centre, squash it, or pad it; "
        "when not given crop, or for photographs that of init.weights.",
        None,
        choices=FITS,
    )
    interpolation: str | None = say(
        "Filter of every resize (antialiased); that of init.weights, else bicubic, when not given.",
        None,
        choices=("bicubic", "bilinear"),
    )
    exif: bool = say("Turn photographs upright as their EXIF tag says.", True)
    mean: tuple[float, ...] | None = say(
        "Mean of each channel, on the scale of 0 to 1; that of init.weights, else the source's own, when not given.",
        None,
    )
    std: tuple[float, ...] | None = say("Standard deviation of each channel, on the same scale.", None)
    workers: int | None = say(
        "Loading processes; when not given: 0 for sets in memory, else one a core, at most 8.",
        None,
        low=0,
        high=256,
    )
    start_method: str | None = say(
        "How those processes start; Python's default when not given.",
        None,
        choices=("fork", "spawn", "forkserver"),
    )
    on_bad_image: str = say(
        "What an unreadable training image does: error stops, skip drops and counts it.",
        "error",
        choices=("error", "skip"),
    )
    decode: str = say(
        "How training reads JPEG files: exact is Pillow's decoding and resizing to the bit; fast has the same draws "
        "and pixels within a stated bound, several times sooner.",
        "exact",
        choices=DECODES,
    )
    limit_train: int | None = say("Use only so many training images, drawn by split_seed.", None, low=2)
    limit_val: int | None = say("Use only so many evaluation images, drawn by split_seed.", None, low=1)


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """What training does to an image. Each draw is a function of (seed, epoch, index)."""

    crop: str = say(
        "center: the evaluation view; pad: random crop of the padded view; random_resized: torchvision's; "
        "paper_imagenet: the release's.",
        "center",
        choices=CROPS,
    )
    pad: int = say("Pixels of mean colour around the image when crop is pad.", 4, low=0)
    size: int | None = say("Side of the square in training, in pixels; data.image_size when not given.", None, low=1)
    min_area: float = say("Smallest share of the area that a resized crop keeps.", 0.08, low=0.0001, high=1)
    flip: float = say("Probability of a horizontal flip.", 0.0, low=0, high=1)
    jitter: float = say(
        "Brightness, contrast and saturation each by up to this share, in random order.", 0.0, low=0, high=1
    )
    lighting: float = say("Standard deviation of the PCA lighting noise.", 0.0, low=0)
    trivial_augment: bool = say("One random operation of TrivialAugmentWide.", False)
    rand_augment: str | None = say("RandAugment as timm spells it, such as rand-m7-mstd0.5-inc1 (needs timm).", None)
    repeats: int = say(
        "Repeated augmentation: each image comes so many times in a row, and an epoch visits so many fewer images.",
        1,
        low=1,
        high=16,
    )
    erase: float = say("Probability of random erasing.", 0.0, low=0, high=1)
    mixup: float = say("Beta parameter of mixup; 0 is off.", 0.0, low=0)
    cutmix: float = say("Beta parameter of cutmix; 0 is off. With mixup too, each batch draws one of them.", 0.0, low=0)

    @property
    def mixes(self) -> bool:
        """Whether training images are mixed, so that a training error has no meaning."""
        return self.mixup > 0 or self.cutmix > 0


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """How gradients become steps."""

    name: str = say("Optimizer; lamb needs timm.", "sgd", choices=("sgd", "adamw", "lamb"))
    lr: float = say("Peak learning rate, for the global batch.", 0.1, low=0)
    momentum: float = say("Momentum of SGD (dampening 0).", 0.9, low=0, high=1)
    nesterov: bool = say("Nesterov momentum, as the release's code has it.", True)
    betas: tuple[float, ...] = say("Decay rates of the two averages of AdamW and LAMB.", (0.9, 0.999))
    weight_decay: float = say("Weight decay.", 1e-4, low=0)
    decay: str = say(
        "all: decay every parameter, as the paper; weights: not norms and biases; not_norms: all but norms.",
        "all",
        choices=("all", "weights", "not_norms"),
    )


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """The learning rate over time."""

    name: str = say("Shape of the schedule.", "step", choices=("step", "cosine", "constant"))
    milestones: tuple[float, ...] = say(
        "Epochs (or steps, see milestone_unit) after which the step schedule multiplies the rate by factor.", ()
    )
    milestone_unit: str = say("What milestones count.", "epochs", choices=("epochs", "steps"))
    factor: float = say("Factor of each step.", 0.1, low=0, high=1)
    warmup_epochs: float = say("Epochs of linear warm-up.", 0.0, low=0)
    warmup_start: float = say("Share of the rate that the warm-up starts from.", 0.01, low=0, high=1)
    final_lr: float = say("Rate at the end of a cosine.", 0.0, low=0)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How long, how exactly and where any kind of run computes, and what it keeps."""

    epochs: int | None = say("Passes over the training set; 100 when neither epochs nor steps is given.", None, low=1)
    steps: int | None = say("Optimizer steps of the whole run, instead of epochs.", None, low=1)
    clip_norm: float | None = say("Largest gradient norm.", None, low=0)
    ema_decay: float = say("Decay of the averaged weights and buffers, kept in fp32; 0 is off.", 0.0, low=0, high=1)
    ema_steps: int = say("Steps between two updates of the average.", 1, low=1)
    ema_warmup: bool = say("Let the decay grow as (1+t)/(10+t) up to ema_decay.", True)
    precision: str = say(
        "Arithmetic of the convolutions: fp32, or bf16 or fp16 by autocast (fp16 scales the loss, for GPUs).",
        "fp32",
        choices=("fp32", "bf16", "fp16"),
    )
    device: str = say("cpu, cuda, cuda:1, mps, or auto.", "auto")
    threads: int | None = say("CPU threads of the computation; PyTorch's default when not given.", None, low=1)
    seed: int = say("Seed of weights, order and augmentation.", 0, low=0)
    evaluate_every: int = say("Epochs between evaluations; the last epoch is always evaluated.", 1, low=1)
    checkpoint_steps: int | None = say(
        "Steps between checkpoints within an epoch; each epoch ends with one anyway.", None, low=1
    )
    mirror: str | None = say(
        "URL of a folder (s3://..., gs://..., file://...) that each checkpoint is copied to; "
        "a run that is not on this disk goes on from there.",
        None,
        place=True,
    )
    peer_timeout: float = say("Seconds without a word after which another process counts as lost.", 600.0, low=1)

    def total_steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps of the whole run."""
        return (self.epochs or EPOCHS) * steps_per_epoch if self.steps is None else self.steps


@dataclass(frozen=True, kw_only=True)
class TrainSettings(RunSettings):
    """The run itself."""

    batch_size: int = say("Images an optimizer step sees, over all devices.", 256, low=2)
    bn_batch: int | None = say(
        "Images whose statistics BN shares: a device computes its batch in parts of so many, one after the other; "
        "its whole batch when not given.",
        None,
        low=2,
    )
    sync_bn: bool = say("BN shares its statistics over all devices; by default each has its own, as the paper.", False)
    drop_last: bool = say("Leave out the last, smaller batch of an epoch.", True)
    loss: str = say(
        "cross_entropy, or bce: a binary cross entropy for each class, a mean over classes.",
        "cross_entropy",
        choices=("cross_entropy", "bce"),
    )
    bce_threshold: float | None = say("Targets above it count as 1 and others as 0 in bce.", None, low=0, high=1)
    drop_path: float = say(
        "Probability that an image skips the last block's sum; it grows linearly from the first block on.",
        0.0,
        low=0,
        high=0.99,
    )
    label_smoothing: float = say("Label smoothing.", 0.0, low=0, high=0.999)
    compile: str = say(
        "torch.compile of the network: no, yes, or cuda-graphs; plans and kernels stay what they are.",
        "no",
        choices=("no", "yes", "cuda-graphs"),
    )
    channels_last: str = say(
        "Memory layout NHWC: yes, no, or auto, which measures both at the start.",
        "auto",
        choices=("auto", "yes", "no"),
    )
    fast: str = say(
        "Packed convolutions and fused kernels, where they were measured to be faster: yes, no, or auto, which also "
        "measures a whole step and leaves short runs alone.",
        "auto",
        choices=("auto", "yes", "no"),
    )
    plan: str | None = say(
        "File with the plan of fast paths to use (resnext bench tune --save), not measured.", None, place=True
    )
    recompute: str = say(
        "What the backward pass computes again instead of keeping it, most memory last: activations (after BN and "
        "ReLU), expansions (also the last convolution of a block), blocks.",
        "no",
        choices=("no", "activations", "expansions", "blocks"),
    )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything a run depends on."""

    model: ModelSettings = field(default_factory=ModelSettings, metadata={"help": "The network."})
    init: InitSettings = field(
        default_factory=InitSettings, metadata={"help": "Where the weights start, and what of them stays."}
    )
    data: DataSettings = field(default_factory=DataSettings, metadata={"help": "The images."})
    augment: AugmentSettings = field(
        default_factory=AugmentSettings, metadata={"help": "What training does to an image."}
    )
    optimizer: OptimizerSettings = field(
        default_factory=OptimizerSettings, metadata={"help": "How gradients become steps."}
    )
    schedule: ScheduleSettings = field(
        default_factory=ScheduleSettings, metadata={"help": "The learning rate over time."}
    )
    train: TrainSettings = field(default_factory=TrainSettings, metadata={"help": "The run itself."})

    def __post_init__(self) -> None:
        _check_agreement(self)


def _check_agreement(recipe: Recipe) -> None:
    """Contradictions between fields, in the user's terms. Raises RequestError."""
    check_schedule(recipe.schedule, recipe.optimizer, recipe.train.epochs, recipe.train.steps)
    _check_train(recipe.train)
    _check_data(recipe.data)
    if recipe.augment.trivial_augment and recipe.augment.rand_augment is not None:
        raise RequestError("augment.trivial_augment and augment.rand_augment are two policies: give one")
    check_init(recipe.init)


def check_schedule(
    schedule: ScheduleSettings, optimizer: OptimizerSettings, epochs: int | None, steps: int | None
) -> None:
    """What optimizer and schedule of a run of so many ``train.epochs`` or ``train.steps`` contradict. RequestError."""
    if schedule.name != "step" and schedule.milestones:
        raise RequestError(f"schedule.milestones belong to schedule.name step, but it is {schedule.name}")
    if list(schedule.milestones) != sorted(schedule.milestones):
        raise RequestError(f"schedule.milestones {list(schedule.milestones)} must rise")
    if epochs is not None and steps is not None:
        raise RequestError(f"train.epochs {epochs} and train.steps {steps} both say how long: give one")
    if epochs is not None and schedule.warmup_epochs >= epochs:
        raise RequestError(f"schedule.warmup_epochs {schedule.warmup_epochs:g} leaves nothing of train.epochs {epochs}")
    if optimizer.nesterov and optimizer.name == "sgd" and optimizer.momentum == 0:
        raise RequestError("optimizer.nesterov needs optimizer.momentum above 0")
    if len(optimizer.betas) != 2 or not all(0 <= beta < 1 for beta in optimizer.betas):
        raise RequestError(f"optimizer.betas {list(optimizer.betas)} must be two numbers from 0 to below 1")


def check_run(train: RunSettings) -> None:
    """Values at the end of their range under which nothing would be learned, or seen of it. Raises RequestError."""
    if train.clip_norm == 0:
        raise RequestError("train.clip_norm 0 leaves nothing of any gradient; leave it out to clip none")
    if train.ema_decay == 1:
        raise RequestError(
            "train.ema_decay 1 keeps the first weights for ever; give less, such as 0.9999, or 0 for none"
        )
    if train.ema_steps > 1 and not train.ema_decay:
        raise RequestError(f"train.ema_steps {train.ema_steps} updates no average: give train.ema_decay")


def _check_train(train: TrainSettings) -> None:
    """Raises RequestError."""
    check_run(train)
    if train.bn_batch is not None and train.batch_size % train.bn_batch:
        raise RequestError(f"train.bn_batch {train.bn_batch} does not divide train.batch_size {train.batch_size}")
    if train.bn_batch is not None and train.sync_bn:
        raise RequestError("train.sync_bn shares statistics over the whole batch, so it takes no train.bn_batch")
    if train.bce_threshold is not None and train.loss != "bce":
        raise RequestError(f"train.bce_threshold belongs to train.loss bce, but it is {train.loss}")
    if train.plan is not None and train.fast == "no":
        raise RequestError(f"train.plan {train.plan} says how to compute fast, but train.fast is no")


def _check_data(data: DataSettings) -> None:
    """Raises RequestError."""
    if (data.mean is None) != (data.std is None):
        raise RequestError("data.mean and data.std must be given together")
    if data.source != "folder" and data.val_fraction is not None:
        raise RequestError(f"data.val_fraction splits a folder; {data.source} has its own held-out images")
    if data.val_path is not None and data.source not in VAL_PATHS:
        raise RequestError(f"data.val_path belongs to data.source {', '.join(VAL_PATHS)}, but it is {data.source}")
    if data.classes is not None and data.source not in NUMBERED:
        raise RequestError(f"data.classes belongs to data.source {', '.join(NUMBERED)}, but it is {data.source}")


def check_init(init: InitSettings) -> None:
    """What says how loaded weights are trained needs loaded weights. Raises RequestError."""
    if init.weights is not None:
        return
    for f in fields(init):
        value = getattr(init, f.name)
        if value != f.default:
            raise RequestError(
                f"init.{f.name} {str(value).lower() if isinstance(value, bool) else value} is about loaded weights, "
                "but the recipe starts from fresh ones: give init.weights, a file, run directory or hub id"
            )
