"""The rules that choose the settings of a training run from what a folder of photos holds. No file is read here."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from resnext.data.tools.advice import IMBALANCE, list_class_advice
from resnext.data.tools.findings import pluralize
from resnext.model.architecture import Architecture
from resnext.model.complexity import complexity, compute_layer_costs
from resnext.planning.photo_survey import PhotoSurvey
from resnext.recipe import build_settings
from resnext.settings import Recipe
from resnext.settings_fields import parse_duration
from resnext.settings_shared import ModelSettings

BUDGET_SECONDS = 200.0  # of training steps: with evaluation four minutes; many pictures take longer
BUDGET_SHARE = (
    0.75  # of train.max_time that is planned for training steps: evaluations and slower machines need the rest
)
SHORT_SECONDS = 600.0  # of a run in which fast paths are not measured
FEW_EPOCHS = {"scratch": 60, "weights": 8}  # with fewer in the budget, smaller images are taken
LEAST_EPOCHS = {"scratch": 12, "weights": 5}  # trained even if they take longer than the budget
MOST_EPOCHS = {"scratch": 100, "weights": 30}
MACS_PER_CORE = 20e9  # multiply-adds of training a second, forward and backward; measured: 15 to 25
MACS_PER_GPU = 5e12  # an order of magnitude
PIXELS_PER_CORE = {"exact": 150e6, "fast": 300e6}  # decoded pixels of JPEG files a second
TRANSFORM_SECONDS = 1.5e-3  # of one core, to augment an image
EPOCH_SECONDS = 0.5  # to start loading processes, log and write a checkpoint
PHOTO_SIDE = 64  # pixels; smaller pictures get a network that does not shrink them at once
PHOTO_SIDES, SMALL_SIDES = (128, 96, 64), (48, 32, 16)  # image sizes from scratch, the best first
WEIGHTS_SIDES = (224, 160, 128)  # image sizes with loaded weights
PHOTO_NETWORK = {
    "model.name": "resnext26_8x4d",
    "model.stem": "imagenet",
    "model.base_channels": 32,
    "model.blocks": [2, 2, 2, 2],
    "model.initialisation": "zero_gamma",
}
SMALL_NETWORK = {"model.name": "resnext20_4x8d", "model.base_channels": 16}
SCALE_LIMIT = 2.0  # times the image size: larger photos are decoded by the fast decoder
MIRROR_WORDS = ("left", "right")
AS_GIVEN = "as you said"


@dataclass(frozen=True)
class Processor:
    """What trains: a GPU, or the CPU with this many threads; and the cores that load images."""

    threads: int
    cores: int
    gpu: bool = False

    @property
    def macs_per_second(self) -> float:
        """Multiply-adds of training a second."""
        return MACS_PER_GPU if self.gpu else MACS_PER_CORE * self.threads


@dataclass(frozen=True)
class StartWeights:
    """Weights to start from: what init.weights says, and the network in them."""

    name: str
    architecture: Architecture


@dataclass(frozen=True)
class Choice:
    """A setting that the plan chooses, and why."""

    key: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Cost:
    """The estimated cost of a run."""

    image_seconds: float  # to train on one image
    epoch_seconds: float
    seconds: float  # of the whole run
    memory_bytes: float

    @property
    def images_per_second(self) -> float:
        """Training images a second."""
        return 1 / self.image_seconds


def choose_settings(
    survey: PhotoSurvey,
    processor: Processor,
    weights: StartWeights | None,
    given: Mapping[str, Any],
    folds: int | None = None,
) -> list[Choice]:
    """Choose the settings of a run, or of each of ``folds`` runs; those in ``given`` stay, and the others follow them.

    Raises RequestError if ``given`` has values that no recipe can have.
    """
    share = choose_held_out_share(survey.pictures)
    data = [Choice("data.source", "folder", "pictures in class folders"), Choice("data.path", survey.folder, "")]
    if not survey.held_out_folder and folds is None:
        reason = "of each class, never trained on: they tell how good the model is"
        data.append(Choice("data.val_fraction", share, reason))
    if folds is not None:
        share = 1 / folds
    else:
        share = 0.0 if survey.held_out_folder else float(given.get("data.val_fraction") or share)
    train = max(2, round(survey.pictures * (1 - share)))
    if survey.is_grey:
        data.append(Choice("data.channels", 1, "the pictures have no colours"))
    channels = given.get("data.channels") or (1 if survey.is_grey else 3)
    data += _choose_balance(survey)
    size = _choose_size(survey, processor, weights, given, train, channels)
    chosen = [*data, *size, *_choose_training(survey, weights, given, train)]
    if processor.gpu:
        chosen.append(Choice("train.precision", "bf16", "a GPU computes it twice as fast as fp32, or faster"))
    kept = [_take_given(choice, given) for choice in chosen if _is_wanted(choice, given, weights)]
    return kept + [Choice(key, value, AS_GIVEN) for key, value in given.items() if key not in {c.key for c in kept}]


def choose_held_out_share(pictures: int) -> float:
    """Choose the share that is held out: enough to measure the error, and most left to train on."""
    return 0.2 if pictures < 2_000 else 0.1 if pictures < 20_000 else 0.05


def choose_batch_size(images: int) -> int:
    """Choose the batch size: a power of 2 that gives about ten steps an epoch, from 8 to 64."""
    return int(min(64, max(8, 2 ** round(math.log2(max(images, 1) / 10)))))


def choose_flip(classes: Mapping[str, int]) -> tuple[float, str]:
    """Choose the probability of mirroring, and say why: not where class names are characters or say left and right."""
    if any(word in name.lower() for name in classes for word in MIRROR_WORDS):
        return 0.0, "class names say left or right"
    if all(len(name) == 1 for name in classes):
        return 0.0, "class names are single characters, and mirrored ones are others"
    return 0.5, "a mirrored picture shows the same; --augment.flip 0 where left and right matter"


def estimate_cost(
    recipe: Recipe, survey: PhotoSurvey, processor: Processor, architecture: Architecture, folds: int | None = None
) -> Cost:
    """Estimate time and memory of a run (of one of ``folds``) from multiply-adds, decoded pixels and activations."""
    data, train = recipe.data, recipe.train
    size = data.image_size or 224
    split_off = round(survey.pictures * (1 / folds if folds else data.val_fraction or 0.0))
    held_out = survey.held_out if survey.held_out_folder and not folds else split_off
    images = survey.pictures - (0 if survey.held_out_folder and not folds else held_out)
    forward = complexity(architecture, size)
    load = estimate_load_seconds(survey, data.jpeg_decoder) / processor.cores
    compute = count_training_macs(architecture, size, recipe.init.freeze) / processor.macs_per_second
    image_seconds = max(compute, load) if processor.gpu else compute + load
    rate = processor.macs_per_second
    evaluation = held_out * (forward.macs / rate + estimate_load_seconds(survey, "exact") / processor.cores)
    epochs = train.epochs or (train.steps or 1) * train.batch_size / images
    epoch_seconds = images * image_seconds + EPOCH_SECONDS
    evaluations = 1 if folds else epochs / train.evaluate_every
    seconds = epochs * epoch_seconds + (evaluations + 2) * evaluation
    memory = 4 * (3 * forward.activations * min(train.batch_size, images) + 4 * forward.parameters)
    return Cost(image_seconds, epoch_seconds, seconds, memory + 0.6e9)


def estimate_load_seconds(survey: PhotoSurvey, decoder: str) -> float:
    """Estimate the seconds in which a core reads, decodes and augments a picture."""
    return survey.megapixels * 1e6 / PIXELS_PER_CORE[decoder if survey.is_jpeg else "exact"] + TRANSFORM_SECONDS


def count_training_macs(architecture: Architecture, size: int, freeze: str | None) -> int:
    """Count the multiply-adds of training on an image: a forward pass, and two backward through all that trains."""
    layers = compute_layer_costs(architecture, size)
    frozen = _list_frozen_modules(freeze, len(architecture.stages))
    trained = sum(layer.macs for layer in layers if layer.name.partition(".")[0] not in frozen)
    return sum(layer.macs for layer in layers) + 2 * trained


def list_warnings(survey: PhotoSurvey) -> Iterator[str]:
    """List what makes the result worse, or is not used."""
    yield from list_class_advice(survey.classes, is_balanced=True)  # by _choose_balance
    if survey.loose:
        yield f"{pluralize(survey.loose, 'picture')} beside the class folders are not used"


def _choose_size(
    survey: PhotoSurvey,
    processor: Processor,
    weights: StartWeights | None,
    given: Mapping[str, Any],
    train: int,
    channels: int,
) -> Iterator[Choice]:
    """Choose network, image size, frozen stages and epochs together: the largest that fit into the time."""
    kind = "scratch" if weights is None else "weights"
    decoder, about = choose_decoder(survey, channels)
    load = estimate_load_seconds(survey, given.get("data.jpeg_decoder", decoder)) / processor.cores
    budget = BUDGET_SHARE * (parse_duration(given.get("train.max_time") or "") or BUDGET_SECONDS / BUDGET_SHARE)
    options = [dict(option) for option in _list_options(survey, weights, given)]
    for option in options:
        architecture = _build_architecture(option, weights, given, len(survey.classes), channels)
        macs = count_training_macs(architecture, option["data.image_size"], option.get("init.freeze"))
        seconds = train * (macs / processor.macs_per_second + load) + EPOCH_SECONDS
        fitting = int(budget / seconds)
        if fitting >= FEW_EPOCHS[kind]:
            break
    epochs = min(MOST_EPOCHS[kind], max(LEAST_EPOCHS[kind], fitting))
    if weights is not None:
        yield Choice("init.weights", weights.name, "features learned on 1.3 million photographs need few pictures more")
        freeze = option.get("init.freeze")
        if freeze:
            yield Choice(
                "init.freeze", freeze, "the stages up to it stay as they are, which takes less than half the time"
            )
        else:
            yield Choice("init.layer_decay", 0.8, "early stages, which fit any photograph, learn more slowly")
    for key, value in option.items():
        if key.startswith("model."):
            yield Choice(
                key, value, "a small network, since it learns from these pictures alone" if key == "model.name" else ""
            )
    reason = f"pixels; the pictures' shorter sides have {survey.shorter_side} (median)"
    yield Choice("data.image_size", option["data.image_size"], reason)
    yield Choice("data.jpeg_decoder", decoder, about)
    how = f"about {epochs * seconds / 60:.0f} minutes" if epochs * seconds >= 90 else f"about {epochs * seconds:.0f} s"
    yield Choice("train.epochs", epochs, f"{how} of training; {train:,} pictures an epoch")
    if epochs * seconds < SHORT_SECONDS:
        yield Choice(
            "train.fast", "no", "in so short a run, measuring which kernels are faster takes longer than it saves"
        )


def _choose_balance(survey: PhotoSurvey) -> Iterator[Choice]:
    """Show all classes equally often if the largest has IMBALANCE times the pictures of the smallest."""
    smallest = min(survey.classes, key=survey.classes.__getitem__)
    if max(survey.classes.values()) >= IMBALANCE * survey.classes[smallest]:
        reason = f"all classes are shown equally often, or the model would rarely answer {smallest}"
        yield Choice("data.sampling", "balanced", reason)


def choose_decoder(survey: PhotoSurvey, channels: int) -> tuple[str, str]:
    """Choose how JPEG files are read, and say why."""
    large = survey.is_jpeg and channels == 3 and survey.shorter_side >= SCALE_LIMIT * max(WEIGHTS_SIDES)
    return ("fast", "large JPEG files: only what a crop needs is decoded") if large else ("exact", "")


def _list_options(
    survey: PhotoSurvey, weights: StartWeights | None, given: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """List networks, image sizes and frozen stages, the best first."""
    sides: tuple[int, ...]
    if weights is None:
        is_small = survey.shorter_side < PHOTO_SIDE
        network, sides = (SMALL_NETWORK, SMALL_SIDES) if is_small else (PHOTO_NETWORK, PHOTO_SIDES)
        network = {} if "model.name" in given else network
        freezes: tuple[str | None, ...] = (None,)
    else:
        network, sides, last = {}, WEIGHTS_SIDES, len(weights.architecture.stages)
        freezes = (None, f"conv{last}") if last > 1 else (None,)
        freezes = (given["init.freeze"],) if "init.freeze" in given else freezes
    fitting = tuple(side for side in sides if side <= survey.shorter_side) or sides[-1:]
    if given.get("data.image_size"):
        fitting = (given["data.image_size"],)
    for number, side in enumerate(fitting):
        for freeze in freezes:
            if (
                freeze is not None or number == 0 or len(freezes) == 1
            ):  # smaller images only where freezing does not suffice
                yield network | {"data.image_size": side} | ({"init.freeze": freeze} if freeze else {})


def _choose_training(
    survey: PhotoSurvey, weights: StartWeights | None, given: Mapping[str, Any], train: int
) -> Iterator[Choice]:
    """Choose augmentation, optimizer, schedule and batches."""
    batch = choose_batch_size(train)
    if weights is None and survey.shorter_side < PHOTO_SIDE:
        yield Choice("augment.crop", "pad", "small pictures are shifted by a few pixels")
    else:
        yield Choice("augment.crop", "random_resized", "another part of the picture each time")
        area = 0.4 if weights is None else 0.25
        yield Choice("augment.min_area", area, "most of the picture, since its subject fills it")
    flip, why = choose_flip(survey.classes)
    yield Choice("augment.flip", flip, why)
    if not survey.is_grey:
        yield Choice("augment.color_jitter", 0.2, "light differs from picture to picture")
    size = given.get("train.batch_size") or batch
    adaptive = given.get("optimizer.name", "sgd") != "sgd"
    rate = (0.001 if adaptive else 0.05) if weights is None else (1e-4 if adaptive else 0.005)
    yield Choice("optimizer.lr", round(rate * size / 32, 6), f"for batches of {size}")
    yield Choice("optimizer.weight_decay", 5e-4 if weights is None else 1e-4, "")
    yield Choice("schedule.name", "cosine", "the rate falls to 0 at the end")
    yield Choice("schedule.warmup_epochs", 1, "")
    yield Choice("train.batch_size", batch, "about ten steps an epoch")
    yield Choice("train.label_smoothing", 0.1, "few pictures: less certain answers")
    yield Choice("train.ema_decay", 0.99, "the model is the average of the last hundred steps")


def _is_wanted(choice: Choice, given: Mapping[str, Any], weights: StartWeights | None) -> bool:
    """Whether a choice is of use beside the given settings."""
    if choice.key == "train.epochs":
        return given.get("train.steps") is None
    if choice.key == "augment.min_area":
        return bool(given.get("augment.crop", "random_resized") != "pad")
    if choice.key == "data.sampling":
        return bool(given.get("data.class_weights", "none") == "none")
    if choice.key == "data.jpeg_decoder":
        return bool(choice.value != "exact" and given.get("data.cache") != "memory")
    if choice.key == "init.layer_decay":
        return given.get("init.freeze") is None
    if choice.key == "schedule.warmup_epochs":
        return bool((given.get("train.epochs") or 2) > 1)
    return weights is None or not choice.key.startswith("model.")


def _take_given(choice: Choice, given: Mapping[str, Any]) -> Choice:
    return replace(choice, value=given[choice.key], reason=AS_GIVEN) if choice.key in given else choice


def _build_architecture(
    option: Mapping[str, Any], weights: StartWeights | None, given: Mapping[str, Any], classes: int, channels: int
) -> Architecture:
    """Build the network of an option with the given settings."""
    if weights is not None:
        return weights.architecture
    values = dict(option) | dict(given)
    settings = {key.partition(".")[2]: value for key, value in values.items() if key.startswith("model.")}
    return build_settings(ModelSettings, settings, "model.").architecture(classes, channels)


def _list_frozen_modules(freeze: str | None, stages: int) -> set[str]:
    """List the names of a network's modules that do not train."""
    if freeze is None:
        return set()
    last = {"stem": 0, "features": stages}.get(freeze)
    last = int(freeze.removeprefix("conv")) - 1 if last is None else last
    return {"conv1", "bn1", *(f"layer{number}" for number in range(1, last + 1))}
