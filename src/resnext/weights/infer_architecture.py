"""Infer the architecture of a form (c) state dict from its parameter names and shapes.

What tensors do not show is assumed, unless the caller says otherwise: BN's eps is 1e-5, a bottleneck has its stride in
the 3x3, a 7x7 stem is followed by the max pool, and a 3x3 stem has no pool.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from resnext.errors import RequestError, prefix_errors
from resnext.model.architecture import Architecture, Stem
from resnext.weights.build import add_missing_counters, build_on_meta, check_tensors
from resnext.weights.unsupported import NOT_SUPPORTED, UNSUPPORTED_PARTS, find_unsupported

BLOCK_PATTERN = re.compile(r"layer(?P<stage>\d{1,3})\.(?P<block>\d{1,4})\.")
STEM_BY_KERNEL: dict[int, Stem] = {7: "imagenet", 3: "cifar"}


def infer_architecture(state: Mapping[str, Tensor], origin: str, **known: Any) -> Architecture:
    """Find the architecture whose network has exactly the parameters of ``state``, each of the same shape.

    ``known`` are fields that the caller knows (``stride_in_1x1``, ``bn_eps``). ``num_batches_tracked`` may be missing.
    Raises RequestError, which begins with ``origin``, if there is no such architecture.
    """
    part = find_unsupported(state, UNSUPPORTED_PARTS)
    if part is not None:
        raise RequestError(f"{origin}: {part} {NOT_SUPPORTED}")
    _check_running_stats(state, origin)
    fields = _infer_fields(state, origin)
    if "shortcut" not in known:
        fields["shortcut"] = _infer_shortcut(state, fields["blocks"], origin)
    with prefix_errors(origin):
        architecture = Architecture(**fields | known)
    expected = build_on_meta(architecture, len(state), origin).state_dict()
    check_tensors(add_missing_counters(state, expected), expected, origin)
    return architecture


def _infer_fields(state: Mapping[str, Tensor], origin: str) -> dict[str, Any]:
    stem = _get_shape(state, "conv1.weight", 4, origin)
    if stem[2] not in STEM_BY_KERNEL or stem[3] != stem[2]:
        raise RequestError(
            f"{origin}: conv1.weight is a {stem[2]}x{stem[3]} convolution; expected 7x7 (ImageNet) or 3x3 (CIFAR)"
        )
    blocks = _count_blocks(state, origin)
    firsts = [f"layer{stage}.0." for stage in range(1, len(blocks) + 1)]
    bottleneck = "layer1.0.conv3.weight" in state
    last = "conv3.weight" if bottleneck else "conv2.weight"
    return {
        "stem": STEM_BY_KERNEL[stem[2]],
        "base_channels": stem[0],
        "in_channels": stem[1],
        "block": "bottleneck" if bottleneck else "basic",
        "blocks": blocks,
        "stage_cardinalities": _infer_cardinalities(state, firsts, origin) if bottleneck else None,
        "stage_widths": tuple(_get_shape(state, f"{first}conv1.weight", 4, origin)[0] for first in firsts),
        "stage_channels": tuple(_get_shape(state, first + last, 4, origin)[0] for first in firsts),
        "num_classes": _get_shape(state, "fc.weight", 2, origin)[0] if "fc.weight" in state else 0,
        "pre_activation": "layer1.0.bn0.weight" in state,
    }


def _count_blocks(state: Mapping[str, Tensor], origin: str) -> tuple[int, ...]:
    """Count the blocks of each stage; their numbers must have no gap."""
    numbers: dict[int, set[int]] = {}
    for name in state:
        if match := BLOCK_PATTERN.match(name):
            numbers.setdefault(int(match["stage"]), set()).add(int(match["block"]))
    if not numbers:
        raise RequestError(f"{origin} has no block parameters such as layer1.0.conv1.weight")
    for stage in range(1, max(numbers) + 1):
        present = numbers.get(stage, set())
        gap = next((block for block in range(max(present, default=0) + 1) if block not in present), None)
        if gap is not None:
            raise RequestError(f"{origin} has no parameters of layer{stage}.{gap}, but has parameters of later blocks")
    return tuple(len(numbers[stage]) for stage in range(1, max(numbers) + 1))


def _infer_cardinalities(state: Mapping[str, Tensor], firsts: list[str], origin: str) -> tuple[int, ...]:
    """Infer C of each stage: the channels of its 3x3 divided by the input channels of each filter."""
    found = []
    for first in firsts:
        rows, width = _get_shape(state, f"{first}conv2.weight", 4, origin)[:2]
        if rows % width:
            raise RequestError(
                f"{origin}: {first}conv2.weight has {rows} filters, not a multiple of their {width} input channels"
            )
        found.append(rows // width)
    return tuple(found)


def _infer_shortcut(state: Mapping[str, Tensor], blocks: tuple[int, ...], origin: str) -> str:
    """Infer the shortcut: B has projections where shapes change, C has projections everywhere."""
    projected = {name.rsplit(".downsample.", 1)[0] for name in state if ".downsample." in name}
    if len(projected) == sum(blocks) and max(blocks) > 1:
        return "C"
    for stage in range(2, len(blocks) + 1):
        if f"layer{stage}.0" not in projected:
            raise RequestError(
                f"{origin} has no projection layer{stage}.0.downsample where the feature map halves; shortcuts without "
                "weights (zero padding, pooling, none) cannot be told apart"
            )
    return "B"


def _check_running_stats(state: Mapping[str, Tensor], origin: str) -> None:
    """Refuse norms without running statistics, such as GroupNorm."""
    for norm in ("bn1", "layer1.0.bn1"):
        if f"{norm}.weight" in state and f"{norm}.running_mean" not in state:
            raise RequestError(
                f"{origin}: {norm} has weights but no running mean: GroupNorm, or another norm of that kind, "
                f"{NOT_SUPPORTED}"
            )


def _get_shape(state: Mapping[str, Tensor], name: str, dimensions: int, origin: str) -> tuple[int, ...]:
    """Get the shape of a required parameter; no size may be 0."""
    if name not in state:
        raise RequestError(f"{origin} has no {name}, which every ResNet and ResNeXt has")
    shape = tuple(state[name].shape)
    if len(shape) != dimensions or 0 in shape:
        raise RequestError(f"{origin}: {name} has shape {shape}, expected {dimensions} sizes above 0")
    return shape
