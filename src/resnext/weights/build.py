"""Build a Network from a NetworkSpec. Every tensor that was read from a file is checked here."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from resnext.errors import RequestError, did_you_mean
from resnext.model.architecture import CONVOLUTIONS_PER_BLOCK, Architecture
from resnext.model.network import Network
from resnext.weights.network_spec import NetworkSpec

MAX_UNCHECKED_TENSORS = 8192  # a network with more tensors is built only if the file has as many
SHARING_ALLOWANCE = 2**24  # bytes


def build_network(spec: NetworkSpec, origin: str) -> Network:
    """Build the network in eval mode on the CPU, with its own contiguous float32 weights.

    Raises RequestError, which begins with ``origin``, if the tensors do not fit or hold impossible values.
    """
    model = build_on_meta(spec.architecture, len(spec.state), origin)
    expected = model.state_dict()
    given = add_missing_counters(spec.state, expected)
    check_tensors(given, expected, origin)
    state, notes = _convert_tensors(given, origin)
    check_values(state, origin)
    _assign_tensors(model, state)
    if spec.classes is not None and len(spec.classes) != spec.architecture.num_classes:
        raise RequestError(f"{origin}: {len(spec.classes)} class names for {spec.architecture.num_classes} outputs")
    model.preprocessing, model.classes = spec.preprocessing, spec.classes
    model.provenance = dict(spec.provenance)
    model.provenance.setdefault("format", spec.format)
    model.provenance["notes"] = [*spec.notes, *notes]
    return model.eval()


def build_on_meta(architecture: Architecture, tensors: int, origin: str) -> Network:
    """Build the network on the meta device. Raises RequestError if it needs far more than the file's ``tensors``."""
    a = architecture
    paths = sum(stage.blocks * (1 if a.form == "grouped" else stage.cardinality) for stage in a.stages)
    within = CONVOLUTIONS_PER_BLOCK[a.block] - (a.form != "grouped")  # convolutions in a path, at least; each has a BN
    needed = 5 * within * paths
    if needed > max(tensors, MAX_UNCHECKED_TENSORS):
        raise RequestError(f"{origin} has {tensors:,} tensors; {a.name} needs at least {needed:,}")
    with torch.device("meta"):
        return Network(a)


def add_missing_counters(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add the ``num_batches_tracked`` counters that old files lack, as 0. They do not affect the outputs."""
    counters = (name for name in expected if name.endswith("num_batches_tracked"))
    return dict.fromkeys(counters, torch.tensor(0)) | dict(state)


def check_tensors(given: Mapping[str, Tensor], expected: Mapping[str, Tensor], origin: str) -> None:
    """Raise RequestError that names the missing and unknown tensors, or the first of a wrong shape or type."""
    missing, extra = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
    if missing or extra:
        parts = []
        if missing:
            parts.append(f"{len(missing)} missing ({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''})")
        if extra:
            shown = ", ".join(name[:80] + did_you_mean(name[:80], missing or expected)[:80] for name in extra[:3])
            parts.append(f"{len(extra)} unknown ({shown}{', ...' if len(extra) > 3 else ''})")
        raise RequestError(f"{origin} does not fit the network: {'; '.join(parts)}")
    for name, wanted in expected.items():
        tensor = given[name]
        if tensor.shape != wanted.shape:
            shapes = f"has shape {tuple(tensor.shape)}, the network needs {tuple(wanted.shape)}"
            raise RequestError(f"{origin}: {name} {shapes}")
        if tensor.is_complex() or tensor.is_floating_point() != wanted.is_floating_point():
            raise RequestError(f"{origin}: {name} is {tensor.dtype}, the network needs {wanted.dtype}")


def check_values(state: Mapping[str, Tensor], origin: str) -> None:
    """Raise RequestError for the first tensor with a value that is not finite, or a running variance below 0."""
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            continue
        # If the sum is finite, so is every term, and the sum needs no memory. Each value is checked only if it is not.
        if not math.isfinite(tensor.sum()) and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise RequestError(f"{origin}: {bad} of {tensor.numel()} values of {name} are not finite numbers")
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise RequestError(f"{origin}: {name} has values below 0, but a variance cannot be negative")


def _convert_tensors(given: Mapping[str, Tensor], origin: str) -> tuple[dict[str, Tensor], list[str]]:
    """Convert the tensors to contiguous float32, each with its own memory; also return notes on conversions."""
    state: dict[str, Tensor] = {}
    kinds: set[str] = set()
    owned: set[int] = set()
    check_sharing(given.values(), origin)
    for name, tensor in given.items():
        converted = tensor.to(torch.float32 if tensor.is_floating_point() else torch.int64)
        if converted.is_floating_point() and converted is not tensor:
            kinds.add(str(tensor.dtype).removeprefix("torch."))
            if tensor.dtype == torch.float64 and bool((converted.isinf() & tensor.isfinite()).any()):
                raise RequestError(f"{origin}: {name} has float64 values too large for float32")
        memory = converted.untyped_storage()
        alone = memory.nbytes() == converted.nbytes and memory.data_ptr() not in owned
        if not (alone and converted.is_contiguous()):
            converted = converted.clone(memory_format=torch.contiguous_format)
        state[name] = converted
        owned.add(converted.untyped_storage().data_ptr())
    notes = [f"converted from {' and '.join(sorted(kinds))} to float32"] if kinds else []
    return state, notes


def check_sharing(tensors: Iterable[Tensor], origin: str) -> None:
    """Raise RequestError if copies of the tensors would need many times the memory that they share."""
    memories: dict[int, int] = {}
    needed = 0
    for tensor in tensors:
        memory = tensor.untyped_storage()
        memories[memory.data_ptr()] = memory.nbytes()
        needed += tensor.numel() * torch.float32.itemsize
    if needed > 4 * sum(memories.values()) + SHARING_ALLOWANCE:
        raise RequestError(
            f"{origin}: its tensors share memory; as separate tensors they would be far larger than the file"
        )


def _assign_tensors(model: Network, state: Mapping[str, Tensor]) -> None:
    """Do what ``load_state_dict(assign=True)`` does, which takes quadratic time: it scans all names for each block."""
    for prefix, module in model.named_modules():
        for name, _ in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(state[f"{prefix}.{name}".lstrip(".")]))
        for name, _ in list(module.named_buffers(recurse=False)):
            setattr(module, name, state[f"{prefix}.{name}".lstrip(".")])
