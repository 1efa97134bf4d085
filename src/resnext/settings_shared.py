"""The settings that classification and detection recipes share, and the checks of them. No torch here."""

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args

from resnext.choices import Precision
from resnext.errors import RequestError
from resnext.model.architecture import Architecture, BlockType, Form, Initialisation, Shortcut, Stem
from resnext.settings_fields import (
    AutoYesNo,
    Bounds,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    Place,
    PositiveInt,
    option,
    parse_duration,
    section,
)

FreezeStage = Literal["stem", "conv2", "conv3", "conv4", "conv5", "features"]
StartMethod = Literal["fork", "spawn", "forkserver"]
LoggerName = Literal["wandb", "mlflow"]
FREEZE_STAGES: tuple[FreezeStage, ...] = get_args(FreezeStage)
DEFAULT_EPOCHS = 100  # if a recipe gives neither epochs nor steps


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The network; in detection, the backbone.

    Every field besides ``name`` changes one property of the network that ``name`` describes.
    With ``init.weights`` the network is that of the weights, and the fields given here must agree with it, except
    ``form`` and ``initialisation``, which do not change the function.
    """

    name: str | None = option(
        "Name of the network, such as resnext50_32x4d or resnext29_8x64d; default: that of init.weights.", None
    )
    depth: PositiveInt | None = option("Layers with weights on the longest path.", None)
    cardinality: PositiveInt | None = option("C, the number of paths in a block.", None)
    width: PositiveInt | None = option("d, the channels of one path in the first stage.", None)
    stem: Stem | None = option("imagenet: 7x7/2 and max pool; cifar: 3x3 and no pool.", None)
    block: BlockType | None = option("bottleneck: 1x1, 3x3, 1x1; basic: 3x3, 3x3.", None)
    form: Form | None = option("Which of the three equivalent forms of Figure 3 to compute.", None)
    shortcut: Shortcut | None = option("A pads, B projects where shapes change, C always projects.", None)
    pre_activation: bool | None = option("Put BN and ReLU before each convolution.", None)
    base_channels: PositiveInt | None = option("Output channels of the stem.", None)
    blocks: tuple[int, ...] | None = option("Blocks in each stage, instead of those of the depth.", None)
    stage_widths: tuple[int, ...] | None = option("C*d of each stage, instead of doubling from stage to stage.", None)
    stage_channels: tuple[int, ...] | None = option("Output channels of each stage, instead of doubling.", None)
    stage_cardinalities: tuple[int, ...] | None = option("C of each stage, instead of the same in all stages.", None)
    initialisation: Initialisation | None = option(
        "release: as in the Torch7 code; zero_gamma: the last BN scale of each block starts at 0.", None
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

    weights: Place | None = option(
        "Weights file, run directory or hub id to start from; default: random initial weights.", None
    )
    freeze: FreezeStage | None = option("Last frozen stage: it and all stages before it are not trained.", None)
    frozen_bn: bool = option("Freeze all BN layers: statistics, scales and shifts stay as loaded.", False)
    layer_decay: Annotated[float, Bounds(0.0001, 1)] = option(
        "Factor between the learning rates of a stage and the next one; the head has the full rate; 1 is off.", 1.0
    )


@dataclass(frozen=True, kw_only=True)
class CommonDataSettings:
    """Data settings of any recipe. Its own class words the source, the path and the split more precisely."""

    source: str = option("Data set.", "")
    path: Place | None = option("Folder of the data.", None)
    val_fraction: Annotated[float, Bounds(0.001, 0.9)] | None = option("Share of the images that is held out.", None)
    split_seed: NonNegativeInt = option(
        "Seed of the split by val_fraction, and of max_train_images and max_val_images.", 0
    )
    max_train_images: Annotated[int, Bounds(2)] | None = option(
        "Use at most this many training images, drawn by split_seed.", None
    )
    max_val_images: PositiveInt | None = option("Use at most this many held-out images, drawn by split_seed.", None)
    exif: bool = option("Rotate photographs as their EXIF tag says.", True)
    mean: tuple[float, ...] | None = option(
        "Mean of each channel, on the scale of 0 to 1; default: that of init.weights, else of the source.", None
    )
    std: tuple[float, ...] | None = option("Standard deviation of each channel, on the same scale.", None)
    workers: Annotated[int, Bounds(0, 256)] | None = option(
        "Loading processes; default: 0 for data sets in memory, else one per core, at most 8.", None
    )
    start_method: StartMethod | None = option("Start method of the loading processes; default: that of Python.", None)


@dataclass(frozen=True, kw_only=True)
class CommonAugmentSettings:
    """Augmentation in any recipe. All random draws are a function of (seed, epoch, index)."""

    flip: Fraction = option("Probability of a horizontal flip.", 0.0)
    color_jitter: Fraction = option(
        "Change brightness, contrast and saturation by up to this share each, in random order.", 0.0
    )


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """The optimizer."""

    name: Literal["sgd", "adamw", "lamb"] = option("Optimizer; lamb needs timm.", "sgd")
    lr: NonNegativeFloat = option("Peak learning rate, for the global batch.", 0.1)
    momentum: Fraction = option("Momentum of SGD (dampening 0).", 0.9)
    nesterov: bool = option("Nesterov momentum, as in the released code.", True)
    betas: tuple[float, ...] = option("Decay rates of the two moving averages of AdamW and LAMB.", (0.9, 0.999))
    weight_decay: NonNegativeFloat = option("Weight decay.", 1e-4)
    weight_decay_on: Literal["all", "weights", "not_norms"] = option(
        "Which parameters decay: all, as in the paper; weights: without norms and biases; not_norms: without norms.",
        "all",
    )


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """The learning rate schedule."""

    name: Literal["step", "cosine", "constant"] = option("Shape of the schedule.", "step")
    milestones: tuple[float, ...] = option(
        "Epochs or steps (see milestone_unit) after which the step schedule multiplies the rate by gamma.", ()
    )
    milestone_unit: Literal["epochs", "steps"] = option("Unit of the milestones.", "epochs")
    gamma: Fraction = option("Factor of the learning rate at each milestone.", 0.1)
    warmup_epochs: NonNegativeFloat = option("Epochs of linear warm-up.", 0.0)
    warmup_start: Fraction = option("Share of the learning rate at which the warm-up starts.", 0.01)
    final_lr: NonNegativeFloat = option("Learning rate at the end of a cosine schedule.", 0.0)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The run in any recipe: length, batch, precision, device, evaluation, checkpoints."""

    epochs: PositiveInt | None = option("Passes over the training set; default: 100, unless steps is given.", None)
    steps: PositiveInt | None = option("Optimizer steps of the whole run, instead of epochs.", None)
    batch_size: PositiveInt = option("Images per optimizer step, over all devices.", 256)
    grad_clip_norm: NonNegativeFloat | None = option("Largest gradient norm; larger gradients are scaled down.", None)
    ema_decay: Fraction = option("Decay of the moving average of weights and buffers, in fp32; 0 is off.", 0.0)
    ema_steps: PositiveInt = option("Steps between updates of the moving average.", 1)
    ema_warmup: bool = option("Let the decay of the moving average grow as (1+t)/(10+t) up to ema_decay.", True)
    precision: Precision = option(
        "Precision of the convolutions: fp32, or bf16 or fp16 by autocast (fp16 scales the loss; for GPUs).", "fp32"
    )
    channels_last: AutoYesNo = option("Use the NHWC memory layout; auto measures both layouts at the start.", "auto")
    fast: AutoYesNo = option(
        "Use packed convolutions and fused kernels where they measure faster; auto also measures a whole step and "
        "skips short runs.",
        "auto",
    )
    device: str = option("cpu, cuda, cuda:1, mps, or auto.", "auto")
    threads: PositiveInt | None = option("CPU threads for computation; default: that of PyTorch.", None)
    seed: NonNegativeInt = option("Seed of initial weights, image order and augmentation.", 0)
    evaluate_every: PositiveInt = option("Epochs between evaluations; the last epoch is always evaluated.", 1)
    patience: PositiveInt | None = option(
        "Stop after this many evaluations in a row that are no better than the best one, whose weights are the result.",
        None,
    )
    max_time: str | None = option(
        "Longest time of training, such as 90 s, 30 m or 2 h, over all sittings, with evaluation and report: the run "
        "ends after the last evaluated epoch that fits. With a longer one, --resume goes on exactly.",
        None,
    )
    log_to: tuple[LoggerName, ...] = option(
        "Where epochs, settings, plots and report are logged besides the run directory: wandb, mlflow or both.", ()
    )
    checkpoint_steps: PositiveInt | None = option(
        "Steps between checkpoints within an epoch; each epoch also ends with one.", None
    )
    checkpoint_url: Place | None = option(
        "URL of a folder (s3://..., gs://..., file://...) to which each checkpoint is uploaded; "
        "a run that is missing on this disk resumes from there.",
        None,
    )
    peer_timeout: Annotated[float, Bounds(1)] = option(
        "Seconds without contact after which another process counts as lost.", 600.0
    )

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the number of optimizer steps of the whole run."""
        return (self.epochs or DEFAULT_EPOCHS) * steps_per_epoch if self.steps is None else self.steps

    def total_epochs(self, steps_per_epoch: int) -> int:
        """Return the number of epochs of the whole run; ``steps`` may end it within the last one."""
        return -(-self.total_steps(steps_per_epoch) // steps_per_epoch)


@dataclass(frozen=True, kw_only=True)
class RecipeBase:
    """The sections that every recipe has. Raises RequestError for settings that contradict each other."""

    model: ModelSettings = section(ModelSettings)
    init: InitSettings = section(InitSettings)
    data: CommonDataSettings = section(CommonDataSettings)
    augment: CommonAugmentSettings = section(CommonAugmentSettings)
    optimizer: OptimizerSettings = section(OptimizerSettings)
    schedule: ScheduleSettings = section(ScheduleSettings)
    train: RunSettings = section(RunSettings)

    def __post_init__(self) -> None:
        _check_schedule(self.schedule, self.train)
        _check_optimizer(self.optimizer)
        _check_run(self.train)
        if (self.data.mean is None) != (self.data.std is None):
            raise RequestError("data.mean and data.std must be given together")
        check_belongs_to_weights("init", self.init, "loaded weights, but the recipe starts from random ones")


def _check_schedule(schedule: ScheduleSettings, train: RunSettings) -> None:
    if schedule.name != "step" and schedule.milestones:
        raise RequestError(f"schedule.milestones belong to schedule.name step, but it is {schedule.name}")
    if list(schedule.milestones) != sorted(schedule.milestones):
        raise RequestError(f"schedule.milestones {list(schedule.milestones)} must increase")
    epochs, steps, warmup = train.epochs, train.steps, schedule.warmup_epochs
    if epochs is not None and steps is not None:
        raise RequestError(f"train.epochs {epochs} and train.steps {steps} both set the length of the run: give one")
    if epochs is not None and warmup >= epochs:
        raise RequestError(f"schedule.warmup_epochs {warmup:g} must be less than train.epochs {epochs}")


def _check_optimizer(optimizer: OptimizerSettings) -> None:
    if optimizer.nesterov and optimizer.name == "sgd" and optimizer.momentum == 0:
        raise RequestError("optimizer.nesterov needs optimizer.momentum above 0")
    if len(optimizer.betas) != 2 or not all(0 <= beta < 1 for beta in optimizer.betas):
        raise RequestError(f"optimizer.betas {list(optimizer.betas)} must be two numbers from 0 to below 1")


def _check_run(train: RunSettings) -> None:
    """Check for values with which nothing would be trained or averaged."""
    if train.grad_clip_norm == 0:
        raise RequestError("train.grad_clip_norm 0 sets all gradients to 0; leave it out for no clipping")
    if train.ema_decay == 1:
        raise RequestError(
            "train.ema_decay 1 never changes the average; give less, such as 0.9999, or 0 for no average"
        )
    if train.ema_steps > 1 and not train.ema_decay:
        raise RequestError(f"train.ema_steps {train.ema_steps} needs an average: give train.ema_decay")
    if train.max_time is not None and not parse_duration(train.max_time):
        raise RequestError(f"train.max_time {train.max_time} must be a time with a unit, such as 90 s, 30 m or 2 h")


def check_belongs_to_weights(section: str, settings: Any, about: str) -> None:
    """Check that settings that are of use only with ``weights`` of their section come with it; ``about`` says why."""
    if settings.weights is not None:
        return
    for f in fields(settings):
        value = getattr(settings, f.name)
        if value != f.default:
            raise RequestError(
                f"{section}.{f.name} {str(value).lower() if isinstance(value, bool) else value} is about {about}: "
                f"give {section}.weights, a file, run directory or hub id"
            )
