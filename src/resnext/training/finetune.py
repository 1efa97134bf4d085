"""Fine-tuning: load initial weights, freeze stages and BN, set learning rates by stage.

``requires_grad`` alone marks what is frozen: optimizer, BN mode and parameter counts follow from it.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import nn

from resnext.data.dataset import Source
from resnext.data.preprocessing import Preprocessing
from resnext.errors import RequestError
from resnext.model.architecture import Architecture
from resnext.model.network import Network
from resnext.settings import Recipe
from resnext.settings_shared import InitSettings, ModelSettings
from resnext.weights import load

WEIGHTS_SEED_TAG = 0x3E16  # tag for derive_seed: initial weights have their own random stream
RUN_PROVENANCE = ("init", "distill")  # what the provenance of a run's model says of the run
FUNCTION_PRESERVING = ("form", "initialisation")  # model settings that do not change the function
NAME_FIELDS = (
    "depth",
    "cardinality",
    "stage_cardinalities",
    "width",
    "stem",
    "block",
)  # settings that a model name implies


class HasProvenance(Protocol):
    """A model that says where its weights come from, in JSON values."""

    provenance: dict[str, Any]


LoadedT = TypeVar("LoadedT", bound=HasProvenance)


def load_initial_network(recipe: Recipe, source: Source) -> Network:
    """Load ``init.weights`` and adapt head and stem to the classes and channels of ``source``.

    The model gets the preprocessing of the run, and ``provenance["init"]`` with notes on what was kept and what was
    newly initialised (``weights/modify.py``). Raises RequestError if the weights cannot be read or are of another
    network than the recipe's.
    """
    weights = recipe.init.weights
    assert weights is not None
    model = load(
        weights,
        classes=source.train.classes,
        in_channels=source.train.channels,
        form=recipe.model.form,
        seed=recipe.train.seed,
        detector_backbone=True,
    )
    check_architecture(recipe.model, model.architecture, weights)
    theirs, mine = model.preprocessing, Preprocessing.from_settings(recipe.data, source, model.preprocessing)
    if theirs is not None and theirs.exif != mine.exif:
        model.provenance["notes"].append(f"photographs are opened with data.exif {mine.exif}, no longer {theirs.exif}")
    model.preprocessing = mine
    model.provenance = {"init": model.provenance | {"weights": weights}}
    return model


def load_checkpoint_model(data: bytes, load: Callable[[Path], LoadedT]) -> LoadedT:
    """Load the model of a resumed run from its checkpoint's bytes with the reader ``load``, without initial weights.

    Of its provenance, what belongs to the run is kept, and not what belongs to the checkpoint.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(data)
        model = load(path)
    model.provenance = {key: value for key, value in model.provenance.items() if key in RUN_PROVENANCE}
    return model


def check_architecture(settings: ModelSettings, architecture: Architecture, weights: str) -> None:
    """Raise RequestError if a model setting in the recipe contradicts the weights."""
    said: dict[str, Any] = settings.get_changes()
    if settings.name is not None:
        named = settings.architecture(architecture.num_classes, architecture.in_channels)
        said = {key: _get_field(named, key) for key in (*NAME_FIELDS, *said)}
    says_null = ", or give --model.name null where a recipe says it" if settings.name is not None else ""
    for key, value in said.items():
        theirs = _get_field(architecture, key)
        if key not in FUNCTION_PRESERVING and value != theirs:
            by = "" if getattr(settings, key) is not None else f" (by model.name {settings.name})"
            raise RequestError(
                f"model.{key} {_format_value(value)}{by} contradicts {weights}, {architecture.name}, which has "
                f"{_format_value(theirs)}; leave it out to use the network of the weights{says_null}"
            )


def group_modules_by_stage(model: Network) -> dict[str, list[str]]:
    """Map the paper's stages, input to output (``stem``, ``conv2`` ..., ``head``), to names of the network's modules.

    With pre-activation the final BN belongs to the last stage.
    """
    pre_activation = model.architecture.pre_activation
    stages = {"stem": ["conv1"] if pre_activation else ["conv1", "bn1"]}
    for number, _ in enumerate(model.architecture.stages, start=1):
        stages[f"conv{number + 1}"] = [f"layer{number}"]
    if pre_activation:
        stages[f"conv{len(stages)}"].append("bn")
    return stages | {"head": ["fc"]}


def freeze(model: Network, init: InitSettings) -> None:
    """Set ``requires_grad`` by ``init``. Raises RequestError for a stage the network does not have."""
    names = group_modules_by_stage(model)
    stages = {stage: [model.get_submodule(part) for part in parts] for stage, parts in names.items()}
    freeze_stages(stages, find_bn_layers(model), init, model.architecture.name)


def freeze_stages(
    stages: dict[str, list[nn.Module]], bns: list[nn.BatchNorm2d], init: InitSettings, network: str
) -> None:
    """Freeze stages and BN layers. ``stages`` are in network order, the head last; ``network`` is for errors."""
    if init.freeze is not None:
        names = list(stages)[:-1]
        last = names[-1] if init.freeze == "features" else init.freeze
        if last not in names:
            raise RequestError(
                f"init.freeze {init.freeze}: {network} has no such stage; choose from {', '.join(names)}, features"
            )
        for name in names[: names.index(last) + 1]:
            for module in stages[name]:
                module.requires_grad_(False)
    if init.frozen_bn:
        for bn in bns:
            bn.requires_grad_(False)


def set_training_mode(model: nn.Module) -> None:
    """Set training mode, but keep frozen BN layers in evaluation mode, so that they use their loaded statistics."""
    model.train()
    for module in find_bn_layers(model):
        module.train(module.weight.requires_grad)


def lr_multipliers(model: Network, layer_decay: float) -> dict[str, float]:
    """Return a learning-rate multiplier for each module: 1 for the head, times ``layer_decay`` per stage before it."""
    stages = reversed(group_modules_by_stage(model).values())
    return {part: layer_decay**distance for distance, parts in enumerate(stages) for part in parts}


def count_trainable_and_frozen(model: nn.Module) -> tuple[int, int]:
    """Count the trainable and the frozen parameters."""
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return trainable, sum(parameter.numel() for parameter in model.parameters()) - trainable


def find_bn_layers(model: nn.Module) -> list[nn.BatchNorm2d]:
    """Return the BN layers of ``model``."""
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def _get_field(architecture: Architecture, key: str) -> Any:
    """Get a field of the architecture; ``stage_cardinalities`` also where it is None, as all stages have the same C."""
    return architecture.cardinalities if key == "stage_cardinalities" else getattr(architecture, key)


def _format_value(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)
