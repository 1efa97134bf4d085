"""Adapter for ResNetForImageClassification of Hugging Face transformers, such as microsoft/resnet-50."""

import re
from collections.abc import Mapping
from typing import Any

from resnext.errors import RequestError
from resnext.weights.contents import Contents
from resnext.weights.infer import infer
from resnext.weights.naming import UNKNOWN_PREPROCESSING, Found, renamed
from resnext.weights.refused import SORRY

LAYER = re.compile(
    r"encoder\.stages\.(?P<stage>\d{1,3})\.layers\.(?P<block>\d{1,4})\."
    r"(?:shortcut|layer\.(?P<layer>\d))\.(?P<kind>convolution|normalization)\.(?P<rest>\w+)"
)
STEM = {"embedder.embedder.convolution": "conv1", "embedder.embedder.normalization": "bn1", "classifier.1": "fc"}


def adapt(found: Found) -> Contents:
    """Adapt a state dict with transformers' names, and its config.json if there is one."""
    config: Mapping[str, Any] = found.raw.config or {}
    _check_config(config, found.path)
    head = {name: tensor for name, tensor in found.others.items() if name.startswith("classifier.")}
    others = {name: tensor for name, tensor in found.others.items() if name not in head}
    whole = Found(raw=found.raw, state=found.state | head, others=others, table=found.table, notes=found.notes)
    state, notes = renamed(whole, rename)
    architecture = infer(state, found.path, stride_in_1x1=config.get("downsample_in_bottleneck") is True)
    names = config.get("id2label")
    classes = [names.get(str(index)) for index in range(len(names))] if isinstance(names, Mapping) else []
    named = len(classes) == architecture.num_classes > 0 and all(isinstance(name, str) for name in classes)
    return Contents(
        architecture=architecture,
        state=state,
        format="transformers",
        classes=tuple(map(str, classes)) if named else None,
        notes=(*found.notes, *notes, UNKNOWN_PREPROCESSING),
    )


def rename(name: str) -> str | None:
    """Convert a name of transformers to torchvision's."""
    match = LAYER.fullmatch(name)
    if match is None:
        layer, _, rest = name.rpartition(".")
        return f"{STEM[layer]}.{rest}" if layer in STEM else name
    block = f"layer{int(match['stage']) + 1}.{match['block']}"
    convolution = match["kind"] == "convolution"
    if match["layer"] is None:
        return f"{block}.downsample.{0 if convolution else 1}.{match['rest']}"
    return f"{block}.{'conv' if convolution else 'bn'}{int(match['layer']) + 1}.{match['rest']}"


def _check_config(config: Mapping[str, Any], origin: str) -> None:
    activation = config.get("hidden_act", "relu")
    if activation != "relu":
        raise RequestError(f"{origin}: its config.json has hidden_act {str(activation)[:40]!r}, which {SORRY}")
    if config.get("downsample_in_first_stage") is True:
        raise RequestError(f"{origin}: its config.json has downsample_in_first_stage, which {SORRY}")
