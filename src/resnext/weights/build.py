"""From Contents to a Network: the one place where foreign tensors become weights, checked first."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from resnext.errors import RequestError, nearest
from resnext.model.network import Network
from resnext.weights.contents import Contents


def build(contents: Contents, origin: str) -> Network:
    """The network, in eval mode on the CPU, with its own contiguous float32 weights.

    Raises RequestError, beginning with ``origin``, for tensors that are missing, unknown, of a wrong shape or type, not
    finite, or variances below 0.
    """
    with torch.device("meta"):
        model = Network(contents.architecture)
    expected = model.state_dict()
    state, notes = _settled(contents, expected, origin)
    check_tensors(state, expected, origin)
    check_values(state, origin)
    model.load_state_dict(state, strict=True, assign=True)
    model.requires_grad_(True)
    _check_classes(contents, origin)
    model.preprocessing, model.classes = contents.preprocessing, contents.classes
    model.provenance = dict(contents.provenance)
    model.provenance.setdefault("format", contents.format)
    model.provenance["notes"] = [*contents.notes, *notes]
    return model.eval()


def check_tensors(given: Mapping[str, Tensor], expected: Mapping[str, Tensor], origin: str) -> None:
    """Raises RequestError listing missing and extra names (with the nearest) and the first tensor of a wrong shape."""
    missing, extra = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
    if missing or extra:
        parts = []
        if missing:
            parts.append(f"{len(missing)} missing ({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''})")
        if extra:
            shown = ", ".join(name[:80] + nearest(name[:80], missing or expected)[:80] for name in extra[:3])
            parts.append(f"{len(extra)} unknown ({shown}{', ...' if len(extra) > 3 else ''})")
        raise RequestError(f"{origin} does not fit the network: {'; '.join(parts)}")
    for name, tensor in expected.items():
        if given[name].shape != tensor.shape:
            raise RequestError(
                f"{origin}: {name} has shape {tuple(given[name].shape)}, the network needs {tuple(tensor.shape)}"
            )
        if given[name].is_floating_point() != tensor.is_floating_point():
            raise RequestError(f"{origin}: {name} is {given[name].dtype}, the network needs {tensor.dtype}")


def check_values(state: Mapping[str, Tensor], origin: str) -> None:
    """Raises RequestError naming the first tensor with a value that is not finite, or a running variance below 0."""
    for name, tensor in state.items():
        if not tensor.is_floating_point():
            continue
        # A finite sum has finite terms and takes no memory; large terms overflow it, so only then is each looked at.
        if not math.isfinite(tensor.sum()) and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise RequestError(f"{origin}: {bad} of {tensor.numel()} values of {name} are not finite numbers")
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise RequestError(f"{origin}: {name} has values below 0, which no variance has")


def _settled(contents: Contents, expected: Mapping[str, Tensor], origin: str) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors as the network keeps them: float32, contiguous, each alone in its memory; and notes on changes."""
    state: dict[str, Tensor] = {}
    kinds: set[str] = set()
    owned: set[int] = set()
    for name, given in contents.state.items():
        tensor = given
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            kinds.add(str(tensor.dtype).removeprefix("torch."))
            tensor = tensor.float()
            _check_range(given, tensor, name, origin)
        memory = tensor.untyped_storage()
        alone = memory.nbytes() == tensor.numel() * tensor.element_size() and memory.data_ptr() not in owned
        state[name] = (
            tensor if alone and tensor.is_contiguous() else tensor.clone(memory_format=torch.contiguous_format)
        )
        owned.add(state[name].untyped_storage().data_ptr())
    for name in expected:
        if name.endswith("num_batches_tracked"):  # no part in the function; old files have none
            state.setdefault(name, torch.zeros((), dtype=torch.long))
    notes = [f"converted from {' and '.join(sorted(kinds))} to float32"] if kinds else []
    return state, notes


def _check_range(given: Tensor, tensor: Tensor, name: str, origin: str) -> None:
    if given.dtype == torch.float64 and bool((torch.isinf(tensor) & torch.isfinite(given)).any()):
        raise RequestError(f"{origin}: {name} has float64 values too large for float32")


def _check_classes(contents: Contents, origin: str) -> None:
    count, classes = contents.architecture.num_classes, contents.classes
    if classes is not None and len(classes) != count:
        raise RequestError(f"{origin}: {len(classes)} class names for {count} outputs")
