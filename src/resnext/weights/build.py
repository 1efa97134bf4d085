"""From Contents to a Network: the one place where foreign tensors become weights, checked first."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from resnext.errors import RequestError, nearest
from resnext.model.architecture import CONVOLUTIONS, Architecture
from resnext.model.network import Network
from resnext.weights.contents import Contents

MOST_UNASKED = 8192  # tensors of a network that is built without asking whether the file has as many
SPARE = 2**24  # bytes


def build(contents: Contents, origin: str) -> Network:
    """The network, in eval mode on the CPU, with its own contiguous float32 weights.

    Raises RequestError, beginning with ``origin``, for tensors that are missing, unknown, of a wrong shape or type, not
    finite, or variances below 0.
    """
    model = on_paper(contents.architecture, len(contents.state), origin)
    expected = model.state_dict()
    given = with_counters(contents.state, expected)
    check_tensors(given, expected, origin)
    state, notes = _settled(given, origin)
    check_values(state, origin)
    _fill(model, state)
    _check_classes(contents, origin)
    model.preprocessing, model.classes = contents.preprocessing, contents.classes
    model.provenance = dict(contents.provenance)
    model.provenance.setdefault("format", contents.format)
    model.provenance["notes"] = [*contents.notes, *notes]
    return model.eval()


def on_paper(architecture: Architecture, tensors: int, origin: str) -> Network:
    """The network without numbers, for a file of so many ``tensors``.

    Raises RequestError where a large network needs more than those: a few bytes can ask for one that takes minutes.
    """
    a = architecture
    paths = 1 if a.form == "grouped" else a.cardinality
    within = CONVOLUTIONS[a.block] - (a.form != "grouped")  # convolutions of a path, at least, each with its BN
    needed = 5 * within * paths * sum(a.blocks or ())
    if needed > max(tensors, MOST_UNASKED):
        raise RequestError(f"{origin} has {tensors:,} tensors; {a.name} needs more than {needed:,}")
    with torch.device("meta"):
        return Network(a)


def with_counters(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` with BN's batch counters at 0 where it lacks them: old files have none, and they compute nothing."""
    counters = (name for name in expected if name.endswith("num_batches_tracked"))
    return dict.fromkeys(counters, torch.tensor(0)) | dict(state)


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
        if given[name].is_complex() or given[name].is_floating_point() != tensor.is_floating_point():
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


def _settled(given: Mapping[str, Tensor], origin: str) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors as the network keeps them: float32, contiguous, each alone in its memory; and notes on changes."""
    state: dict[str, Tensor] = {}
    kinds: set[str] = set()
    owned: set[int] = set()
    check_sharing(given.values(), origin)
    for name, tensor in given.items():
        settled = tensor.to(torch.float32 if tensor.is_floating_point() else torch.int64)
        if settled.is_floating_point() and settled is not tensor:
            kinds.add(str(tensor.dtype).removeprefix("torch."))
            _check_range(tensor, settled, name, origin)
        memory = settled.untyped_storage()
        alone = memory.nbytes() == settled.nbytes and memory.data_ptr() not in owned
        if not (alone and settled.is_contiguous()):
            settled = settled.clone(memory_format=torch.contiguous_format)
        state[name] = settled
        owned.add(settled.untyped_storage().data_ptr())
    notes = [f"converted from {' and '.join(sorted(kinds))} to float32"] if kinds else []
    return state, notes


def check_sharing(tensors: Iterable[Tensor], origin: str) -> None:
    """Raises RequestError where tensors share their memory so often that each alone would need many times as much."""
    memories: dict[int, int] = {}
    needed = 0
    for tensor in tensors:
        memory = tensor.untyped_storage()
        memories[memory.data_ptr()] = memory.nbytes()
        needed += tensor.numel() * torch.float32.itemsize
    if needed > 4 * sum(memories.values()) + SPARE:
        raise RequestError(f"{origin}: its tensors share their numbers so often that the network outgrows the file")


def _check_range(given: Tensor, tensor: Tensor, name: str, origin: str) -> None:
    if given.dtype == torch.float64 and bool((torch.isinf(tensor) & torch.isfinite(given)).any()):
        raise RequestError(f"{origin}: {name} has float64 values too large for float32")


def _fill(model: Network, state: Mapping[str, Tensor]) -> None:
    """Like ``load_state_dict(assign=True)``, which takes quadratic time: for each block it looks at all names."""
    for prefix, module in model.named_modules():
        for name, _ in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(state[f"{prefix}.{name}".lstrip(".")]))
        for name, _ in list(module.named_buffers(recurse=False)):
            setattr(module, name, state[f"{prefix}.{name}".lstrip(".")])


def _check_classes(contents: Contents, origin: str) -> None:
    count, classes = contents.architecture.num_classes, contents.classes
    if classes is not None and len(classes) != count:
        raise RequestError(f"{origin}: {len(classes)} class names for {count} outputs")
