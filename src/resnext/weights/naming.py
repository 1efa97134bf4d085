"""What every adapter starts from, and the renaming of foreign parameters to ours.

Form (c) has torchvision's names, so an adapter is a function from a foreign name to torchvision's, applied here.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from resnext.errors import RequestError
from resnext.model.architecture import Architecture
from resnext.weights.contents import Raw
from resnext.weights.known import PREPROCESSINGS

SHOWN = 5  # groups of left-out weights that a note names
UNKNOWN_PREPROCESSING = (
    "the file does not say how pictures were prepared; `resnext convert IN OUT --preprocessing "
    f"{'|'.join(PREPROCESSINGS)}|FILE.json` tells the network"
)
# what torchvision's, timm's and detectron2's ResNet all have
USUAL: dict[str, Any] = {"stem": "imagenet", "pre_activation": False, "shortcut": "B", "bn_eps": 1e-5}


@dataclass(frozen=True, kw_only=True)
class Found:
    """The one network found in a file, under the names of its format."""

    raw: Raw
    state: dict[str, Tensor]  # its weights, the common prefix taken off
    others: dict[str, Tensor]  # what stood outside that prefix
    table: Mapping[str, Any]  # the file's outermost table, where formats keep author and settings
    notes: tuple[str, ...]

    @property
    def path(self) -> str:
        return str(self.raw.path)


def renamed(found: Found, rename: Callable[[str], str | None]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The state under torchvision's names, and a note about the weights that are no part of the network.

    ``rename`` gives None for what belongs to something around the network (a detector's heads). A name it does not know
    comes back as it was, and ``infer`` will name it. Raises RequestError where two parameters get the same name.
    """
    state: dict[str, Tensor] = {}
    left = list(found.others)
    for name, tensor in found.state.items():
        ours = rename(name)
        if ours is None:
            left.append(name)
        elif ours in state:
            raise RequestError(f"{found.path} has two parameters for {ours[:80]}; one of them is {name[:80]!r}")
        else:
            state[ours] = tensor
    return state, left_out(left)


def left_out(names: Iterable[str]) -> tuple[str, ...]:
    """A note that names the groups of weights left out, biggest first; none where there are none."""
    groups: dict[str, int] = {}
    for name in names:
        group = ".".join(name.split(".", 2)[:2]) if "." in name else name.split("_", 1)[0]
        groups[group[:60]] = groups.get(group[:60], 0) + 1
    if not groups:
        return ()
    ranked = sorted(groups, key=lambda group: (-groups[group], group))
    shown = ", ".join(f"{group} ({groups[group]})" for group in ranked[:SHOWN])
    more = f" and {len(ranked) - SHOWN} more groups" if len(ranked) > SHOWN else ""
    return (f"left out, as no part of the network: {shown}{more}",)


def reversed_colours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of a network that takes BGR, as one that takes RGB: conv1's input channels reversed."""
    first = state.get("conv1.weight")
    if first is None or first.dim() != 4 or first.shape[1] != 3:
        return state
    return state | {"conv1.weight": first.flip(1)}


def check_same(library: str, a: Architecture, fields: Mapping[str, Any]) -> None:
    """Raises RequestError naming the first of ``USUAL`` and ``fields`` in which the library's ResNet is another."""
    for name, value in (USUAL | dict(fields)).items():
        given = getattr(a, name)
        if not (math.isclose(given, value) if name == "bn_eps" else given == value):
            raise RequestError(f"{library}'s ResNet has {name} {value!r}; {a.name} has {given!r}")
