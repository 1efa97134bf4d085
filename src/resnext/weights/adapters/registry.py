"""Find the weights in a file and the library whose parameter names they have, and adapt them to our names."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnext.errors import RequestError
from resnext.weights import native
from resnext.weights.adapters import detectron2, pycls, timm, torchvision, transformers
from resnext.weights.adapters.naming import FoundNetwork
from resnext.weights.network_spec import NetworkSpec, RawCheckpoint
from resnext.weights.unsupported import NOT_SUPPORTED, UNSUPPORTED_FAMILIES, find_unsupported

EMA_KEYS = ("model_ema", "state_dict_ema", "ema_state_dict", "ema_state", "ema")  # preferred: evaluated in training
WRAPPER_KEYS: tuple[str, ...] = (*EMA_KEYS, "model_state", "model_state_dict", "state_dict")
WRAPPER_KEYS += ("model", "net", "network", "weights", "blobs")
MAX_WRAPPER_DEPTH = 4  # dicts inside dicts


def _adapt_torchvision_or_timm(found: FoundNetwork) -> NetworkSpec:
    """Choose between two libraries with the same names: a timm folder has timm's config.json."""
    is_timm = isinstance((found.raw.config or {}).get("architecture"), str)
    return timm.adapt(found) if is_timm else torchvision.adapt(found)


# A parameter name that identifies each naming, with or without a prefix, and its adapter. The first match is used.
NAMINGS: dict[str, tuple[str, Callable[[FoundNetwork], NetworkSpec]]] = {
    "torchvision and timm": ("layer1.0.conv1.weight", _adapt_torchvision_or_timm),
    "detectron2": ("res2.0.conv1.weight", detectron2.adapt),
    "Detectron (Caffe2)": ("res2_0_branch2a_w", detectron2.adapt_caffe2),
    "pycls": ("s1.b1.f.a.weight", pycls.adapt),
    "torchvision's layers in an nn.Sequential": ("4.0.conv1.weight", torchvision.adapt_sequential),
    "transformers": ("encoder.stages.0.layers.0.layer.0.convolution.weight", transformers.adapt),
}


def adapt(raw: RawCheckpoint) -> NetworkSpec:
    """Interpret a weights file as one of our networks. Raises RequestError, which begins with the path."""
    if raw.file_format == "torch7":
        from resnext.weights.adapters.torch7 import network

        return network.adapt(raw)
    if "resnext" in raw.metadata:
        return native.adapt(raw)
    if native.is_detector(raw):
        return native.adapt_detector(raw)
    native.check_no_training_state(raw)
    origin = str(raw.path)
    tensors, notes = _find_state(raw.value, origin)
    for sign, adapter in NAMINGS.values():
        prefix = _find_prefix(tensors, sign, origin)
        if prefix is not None:
            state = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
            others = {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix) and tensor.dim()}
            table = raw.value if isinstance(raw.value, Mapping) else {}
            return adapter(FoundNetwork(raw=raw, state=state, other_tensors=others, root_dict=table, notes=notes))
    raise RequestError(_describe_unknown_naming(tensors, origin))


def _find_state(value: object, origin: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Find the dict of tensors by name: ``value`` or a dict inside it, under a key that checkpoints use."""
    notes: tuple[str, ...] = ()
    for _ in range(MAX_WRAPPER_DEPTH):
        if not isinstance(value, Mapping):
            break
        key = next((key for key in WRAPPER_KEYS if _has_tensors(value.get(key))), None)
        if key is None:
            break
        if key in EMA_KEYS:
            notes = (f"the averaged weights {key!r} were used, not those of the last step",)
        value = value[key]
    tensors = _collect_tensors(value, origin) if isinstance(value, Mapping) else {}
    if not tensors:
        raise RequestError(f"{origin} has no dict of weights by name{_describe_value(value)}")
    return tensors, notes


def _has_tensors(value: object, depth: int = MAX_WRAPPER_DEPTH) -> bool:
    """Return whether a dict has tensors by name, directly or under one of WRAPPER_KEYS."""
    if not isinstance(value, Mapping) or not depth:
        return False
    if any(_has_tensors(value.get(key), depth - 1) for key in WRAPPER_KEYS):
        return True
    return any(isinstance(key, str) and isinstance(item, Tensor | np.ndarray) for key, item in value.items())


def _collect_tensors(table: Mapping[Any, Any], origin: str) -> dict[str, Tensor]:
    return {
        name: value.detach() if isinstance(value, Tensor) else _from_numpy(value, name, origin)
        for name, value in table.items()
        if isinstance(name, str) and isinstance(value, Tensor | np.ndarray)
    }


def _from_numpy(array: np.ndarray, name: str, origin: str) -> Tensor:
    """Convert an array to a tensor, without a copy where possible."""
    plain = array.astype(array.dtype.newbyteorder("="), copy=False)
    if not plain.flags.writeable or any(stride < 0 for stride in plain.strides):
        plain = plain.copy()
    try:
        return torch.from_numpy(plain)
    except TypeError:
        raise RequestError(f"{origin}: {name[:80]} is an array of {array.dtype}, expected numbers") from None


def _find_prefix(names: Iterable[str], sign: str, origin: str) -> str | None:
    """Find the prefix of the name ``sign`` (``module.``, ``backbone.bottom_up.``); None if no name ends with it."""
    prefixes = [name[: -len(sign)] for name in names if name == sign or name.endswith(f".{sign}")]
    if len(prefixes) > 1:
        shown = ", ".join(repr(prefix[:60]) for prefix in prefixes[:4])
        raise RequestError(
            f"{origin} has {len(prefixes)} networks, under {shown}; save the one you want to its own file"
        )
    return prefixes[0] if prefixes else None


def _describe_unknown_naming(tensors: Mapping[str, Tensor], origin: str) -> str:
    family = find_unsupported(tensors, UNSUPPORTED_FAMILIES)
    if family is not None:
        return f"{origin} holds {family}, which {NOT_SUPPORTED}; this package has ResNet and ResNeXt"
    shown = ", ".join(name[:60] for name in list(tensors)[:4])
    return f"{origin} has unknown parameter names (such as {shown}); known are those of {', '.join(NAMINGS)}"


def _describe_value(value: object) -> str:
    if not isinstance(value, Mapping):
        return f"; it has a {type(value).__name__}"
    keys = [repr(key[:40]) for key in value if isinstance(key, str)][:5]  # others may be large
    return f"; it has {', '.join(keys)}" if keys else "; it has no names"
