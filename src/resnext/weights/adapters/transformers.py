"""Adapter for ResNetForImageClassification of Hugging Face transformers, such as microsoft/resnet-50."""

import re
from collections.abc import Mapping
from dataclasses import replace

from resnext.errors import RequestError
from resnext.weights.adapters.naming import UNKNOWN_PREPROCESSING, FoundNetwork, rename_state
from resnext.weights.infer_architecture import infer_architecture
from resnext.weights.network_spec import NetworkSpec
from resnext.weights.unsupported import NOT_SUPPORTED

LAYER_PATTERN = re.compile(
    r"encoder\.stages\.(?P<stage>\d{1,3})\.layers\.(?P<block>\d{1,4})\."
    r"(?:shortcut|layer\.(?P<layer>\d))\.(?P<kind>convolution|normalization)\.(?P<rest>\w+)"
)
OUTER_NAMES = {"embedder.embedder.convolution": "conv1", "embedder.embedder.normalization": "bn1", "classifier.1": "fc"}


def adapt(found: FoundNetwork) -> NetworkSpec:
    """Adapt a state dict with transformers' names, and its config.json if there is one."""
    config: Mapping[str, object] = found.raw.config or {}
    _check_config(config, found.path)
    head = {name: tensor for name, tensor in found.other_tensors.items() if name.startswith("classifier.")}
    others = {name: tensor for name, tensor in found.other_tensors.items() if name not in head}
    state, notes = rename_state(replace(found, state=found.state | head, other_tensors=others), rename)
    architecture = infer_architecture(state, found.path, stride_in_1x1=config.get("downsample_in_bottleneck") is True)
    names = config.get("id2label")
    classes = [names.get(str(index)) for index in range(len(names))] if isinstance(names, Mapping) else []
    named = len(classes) == architecture.num_classes > 0 and all(isinstance(name, str) for name in classes)
    return NetworkSpec(
        architecture=architecture,
        state=state,
        format="transformers",
        classes=tuple(map(str, classes)) if named else None,
        notes=(*found.notes, *notes, UNKNOWN_PREPROCESSING),
    )


def rename(name: str) -> str | None:
    """Convert a name of transformers to torchvision's."""
    match = LAYER_PATTERN.fullmatch(name)
    if match is None:
        layer, _, rest = name.rpartition(".")
        return f"{OUTER_NAMES[layer]}.{rest}" if layer in OUTER_NAMES else name
    block = f"layer{int(match['stage']) + 1}.{match['block']}"
    convolution = match["kind"] == "convolution"
    if match["layer"] is None:
        return f"{block}.downsample.{0 if convolution else 1}.{match['rest']}"
    return f"{block}.{'conv' if convolution else 'bn'}{int(match['layer']) + 1}.{match['rest']}"


def _check_config(config: Mapping[str, object], origin: str) -> None:
    activation = config.get("hidden_act", "relu")
    if activation != "relu":
        raise RequestError(f"{origin}: its config.json has hidden_act {str(activation)[:40]!r}, which {NOT_SUPPORTED}")
    if config.get("downsample_in_first_stage") is True:
        raise RequestError(f"{origin}: its config.json has downsample_in_first_stage, which {NOT_SUPPORTED}")
