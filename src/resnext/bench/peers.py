"""Build the same network with other libraries and the same weights; ``plain`` is ours without fast paths."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from resnext.errors import RequestError, did_you_mean
from resnext.model.architecture import Architecture
from resnext.model.blocks import Block
from resnext.model.layers import NormAct
from resnext.model.network import Network, create_model
from resnext.weights.adapters import timm as timm_names
from resnext.weights.adapters import torchvision as torchvision_names

OURS = "resnext"
LIBRARIES = ("torchvision", "timm", "plain")


def choose_peers(asked: Sequence[str] | None, architecture: Architecture) -> list[str]:
    """Choose the libraries to compare with.

    These are the ones asked for, else those of torchvision and timm that can build ``architecture``, else plain. Raises
    RequestError for a library that is unknown, not installed, or cannot build ``architecture``.
    """
    if asked is not None:
        names = [name for name in asked if name != "none"]
        for name in names:
            _check_library(name, architecture)
        return list(dict.fromkeys(names))
    able = [name for name in LIBRARIES[:2] if _is_installed(name) and _can_build(name, architecture)]
    return able or ["plain"]


def build_network(library: str, architecture: Architecture) -> nn.Module:
    """Build the network in training mode; all libraries get the same weights for the same architecture."""
    ours = stabilize_weights(create_model(architecture, seed=0))
    if library in (OURS, "plain"):
        return ours.train()
    theirs, state = _BUILDERS[library](ours)
    theirs.load_state_dict(state, strict=True)
    return theirs.train()


def build_peer(library: str, network: Network) -> nn.Module | None:
    """Build the network of another library with the same weights, in evaluation mode; None if it has none."""
    if not _is_installed(library) or not _can_build(library, network.architecture):
        return None
    theirs, state = _BUILDERS[library](network)
    theirs.load_state_dict(state, strict=True)
    return theirs.eval()


def stabilize_weights(model: Network) -> Network:
    """Change the weights so that rounding errors stay small and gradients can be compared.

    With fresh weights half of all ReLU inputs are negative, and each block doubles earlier rounding errors: in bf16 the
    first layer's gradient is lost. So all BN biases are set to 2, and the last BN of each block is scaled by 0.2.
    """
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, NormAct):
                module.bias.fill_(2.0)
            if isinstance(module, Block) and not module.pre_activation:
                module.last_norm.weight.fill_(0.2)
    return model


def _build_torchvision(model: Network) -> tuple[nn.Module, dict[str, Tensor]]:
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

    a = model.architecture
    if a.block == "basic":
        theirs = ResNet(BasicBlock, a.blocks, a.num_classes)
    else:
        theirs = ResNet(Bottleneck, a.blocks, a.num_classes, groups=a.cardinality, width_per_group=a.width)
    return theirs, torchvision_names.to_torchvision(model)


def _build_timm(model: Network) -> tuple[nn.Module, dict[str, Tensor]]:
    import timm

    state, config = timm_names.to_timm(model)
    theirs = timm.create_model(config["architecture"], num_classes=config["num_classes"], **config["model_args"])
    return theirs, state


_BUILDERS: dict[str, Callable[[Network], tuple[nn.Module, dict[str, Tensor]]]] = {
    "torchvision": _build_torchvision,
    "timm": _build_timm,
}


def _check_library(name: str, architecture: Architecture) -> None:
    if name not in LIBRARIES:
        raise RequestError(f"--peers {name!r} is not a known library{did_you_mean(name, (*LIBRARIES, 'none'))}")
    if not _is_installed(name):
        raise RequestError("--peers timm: timm is not installed; pip install 'resnext[modern]'")
    try:
        _check_expressible(name, architecture)
    except RequestError as error:
        raise RequestError(f"--peers {name}: {error}; use plain to measure PyTorch's own layers") from None


def _can_build(name: str, architecture: Architecture) -> bool:
    try:
        _check_expressible(name, architecture)
    except RequestError:
        return False
    return True


def _check_expressible(name: str, architecture: Architecture) -> None:
    if name == "torchvision":
        torchvision_names.check_expressible(architecture)
        if architecture.block == "basic" and architecture.cardinality > 1:
            raise RequestError("torchvision's basic blocks have one group")
    elif name == "timm":
        timm_names.check_expressible(architecture)


def _is_installed(name: str) -> bool:
    return name == "plain" or find_spec(name) is not None
