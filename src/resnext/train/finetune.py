"""Fine-tuning: a network that starts from loaded weights, what of it stays as loaded, and rates by stage.

What is frozen is said once, by ``requires_grad``: the optimizer, the mode of BN layers and the counts follow from it.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from resnext.data.preprocessing import Preprocessing
from resnext.data.source import Source
from resnext.errors import RequestError
from resnext.model.architecture import Architecture
from resnext.model.network import Network
from resnext.settings import InitSettings, ModelSettings, Recipe
from resnext.weights import load

FREE = ("form", "initialisation")  # settings of the network that change no function
NAMED = ("depth", "cardinality", "width", "stem", "block")  # what a network's name says


def network_from_weights(recipe: Recipe, source: Source) -> Network:
    """The network of ``init.weights``, with a head for the classes of ``source`` and a stem for its channels.

    Its preprocessing is what the run will use, and ``provenance["init"]`` says where it started, with the notes on what
    was kept and what starts anew (``weights/surgery.py``).
    Raises RequestError for weights that cannot be read, or that are another network than the recipe says.
    """
    weights = recipe.init.weights
    assert weights is not None
    model = load(
        weights,
        classes=source.train.classes,
        in_channels=source.train.channels,
        form=recipe.model.form,
        seed=recipe.train.seed,
        below_detector=True,
    )
    check_architecture(recipe.model, model.architecture, weights)
    theirs, mine = model.preprocessing, Preprocessing.of(recipe.data, source, model.preprocessing)
    if theirs is not None and theirs.exif != mine.exif:
        model.provenance["notes"].append(f"photographs are opened with data.exif {mine.exif}, no longer {theirs.exif}")
    model.preprocessing = mine
    model.provenance = {"init": model.provenance | {"weights": weights}}
    return model


def model_from_checkpoint(data: bytes, load: Callable[[Path], Any]) -> Any:
    """The model of a run that goes on, by its reader ``load``.

    Its checkpoint has everything, and the weights it began with may be gone.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(data)
        model = load(path)
    model.provenance = {key: value for key, value in model.provenance.items() if key == "init"}
    return model


def check_architecture(settings: ModelSettings, architecture: Architecture, weights: str) -> None:
    """Raises RequestError where a given setting of the network is not what the weights have."""
    said: dict[str, Any] = settings.said()
    if settings.name is not None:
        named = settings.architecture(architecture.num_classes, architecture.in_channels)
        said = {key: getattr(named, key) for key in (*NAMED, *said)}
    for key, value in said.items():
        theirs = getattr(architecture, key)
        if key not in FREE and value != theirs:
            by = "" if getattr(settings, key) is not None else f" (by model.name {settings.name})"
            raise RequestError(
                f"model.{key} {_spelled(value)}{by} contradicts {weights}, {architecture.name}, which has "
                f"{_spelled(theirs)}; leave it out to take the network of the weights"
            )


def stages_of(model: Network) -> dict[str, list[str]]:
    """The paper's stages and the network's parts in each: ``stem``, ``conv2`` ..., ``head``, from the images on.

    With pre-activation the final BN belongs to the last stage.
    """
    pre_activation = model.architecture.pre_activation
    stages = {"stem": ["conv1"] if pre_activation else ["conv1", "bn1"]}
    for number, _ in enumerate(model.architecture.stages, start=1):
        stages[f"conv{number + 1}"] = [f"layer{number}"]
    if pre_activation:
        stages[list(stages)[-1]].append("bn")
    return stages | {"head": ["fc"]}


def freeze(model: Network, init: InitSettings) -> None:
    """Set ``requires_grad`` as ``init`` says. Raises RequestError for a stage the network does not have."""
    stages = {name: [model.get_submodule(part) for part in parts] for name, parts in stages_of(model).items()}
    freeze_stages(stages, norms(model), init, model.architecture.name)


def freeze_stages(
    stages: dict[str, list[nn.Module]], bns: list[nn.BatchNorm2d], init: InitSettings, network: str
) -> None:
    """``freeze`` for the modules of each stage (``stages_of``, the head last) and the BN layers of ``network``."""
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


def training_mode(model: nn.Module) -> None:
    """Training mode; a frozen BN stays in evaluation mode: its loaded statistics and eps are part of its function."""
    model.train()
    for module in norms(model):
        module.train(module.weight.requires_grad)


def rate_scales(model: Network, layer_decay: float) -> dict[str, float]:
    """The share of the learning rate of each part of the network: 1 for the head, ``layer_decay`` less a stage down."""
    stages = reversed(stages_of(model).values())
    return {part: layer_decay**distance for distance, parts in enumerate(stages) for part in parts}


def trained_and_frozen(model: nn.Module) -> tuple[int, int]:
    """How many parameters train, and how many are frozen."""
    counts = {True: 0, False: 0}
    for parameter in model.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    return counts[True], counts[False]


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    """The BN layers."""
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def _spelled(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)
