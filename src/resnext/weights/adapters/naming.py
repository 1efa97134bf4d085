"""Shared code of the adapters: rename the parameters of another library to torchvision's names, which form (c) has."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from resnext.errors import RequestError
from resnext.model.architecture import Architecture
from resnext.weights.network_spec import RawCheckpoint
from resnext.weights.presets import PREPROCESSINGS

MAX_SHOWN_GROUPS = 5  # groups of ignored weights that a note lists
UNKNOWN_PREPROCESSING = (
    "the file does not contain the preprocessing of images; set it with `resnext convert IN OUT --preprocessing "
    f"{'|'.join(PREPROCESSINGS)}|FILE.json`"
)
# fields of the architecture that torchvision's, timm's and detectron2's ResNet have in common
COMMON_FIELDS: dict[str, Any] = {
    "stem": "imagenet",
    "pre_activation": False,
    "shortcut": "B",
    "bn_eps": 1e-5,
    "output_stride": None,
}


@dataclass(frozen=True, kw_only=True)
class FoundNetwork:
    """The network found in a file, with the parameter names of its library."""

    raw: RawCheckpoint
    state: dict[str, Tensor]  # its weights, without the common prefix
    other_tensors: dict[str, Tensor]  # tensors without that prefix
    root_dict: Mapping[str, object]  # the outermost dict of the file, which may have author and settings
    notes: tuple[str, ...]

    @property
    def path(self) -> str:
        """The path of the file, for error messages."""
        return str(self.raw.path)


def rename_state(found: FoundNetwork, rename: Callable[[str], str | None]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Rename the state to torchvision's names; also return a note on the weights that are not part of the network.

    ``rename`` returns None for a parameter outside the network (a detector's heads), and an unknown name unchanged;
    ``infer_architecture`` then reports it. Raises RequestError if two parameters get the same name.
    """
    state: dict[str, Tensor] = {}
    left = list(found.other_tensors)
    for name, tensor in found.state.items():
        ours = rename(name)
        if ours is None:
            left.append(name)
        elif ours in state:
            raise RequestError(f"{found.path} has two parameters for {ours[:80]}; one of them is {name[:80]!r}")
        else:
            state[ours] = tensor
    return state, (_describe_ignored(left),) if left else ()


def _describe_ignored(names: list[str]) -> str:
    """Make a note that lists the groups of ignored weights, largest first."""
    groups = [".".join(name.split(".", 2)[:2]) if "." in name else name.split("_", 1)[0] for name in names]
    counts = Counter(sorted(group[:60] for group in groups))
    shown = ", ".join(f"{group} ({count})" for group, count in counts.most_common(MAX_SHOWN_GROUPS))
    more = f" and {len(counts) - MAX_SHOWN_GROUPS} more groups" if len(counts) > MAX_SHOWN_GROUPS else ""
    return f"ignored, as not part of the network: {shown}{more}"


def reverse_input_channels(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Reverse the input channels of conv1, to turn a network for BGR images into one for RGB."""
    first = state.get("conv1.weight")
    if first is None or first.dim() != 4 or first.shape[1] != 3:
        return state
    return state | {"conv1.weight": first.flip(1)}


def check_common_fields(library: str, a: Architecture, fields: Mapping[str, object]) -> None:
    """Raise RequestError for the first of ``fields`` and COMMON_FIELDS that the library's ResNet cannot express."""
    if a.stage_cardinalities is not None:
        raise RequestError(f"{library}'s ResNet has one cardinality for all stages; {a.name} has {a.cardinalities}")
    for name, value in (COMMON_FIELDS | dict(fields)).items():
        given = getattr(a, name)
        if not (math.isclose(given, value) if name == "bn_eps" else given == value):
            raise RequestError(f"{library}'s ResNet has {name} {value!r}; {a.name} has {given!r}")
