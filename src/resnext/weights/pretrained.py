"""Create a network with new weights, or with public ones."""

from typing import Any, Unpack

from resnext.errors import RequestError, did_you_mean
from resnext.model import network
from resnext.model.architecture import Architecture, ArchitectureChanges
from resnext.weights import load, released

CHANGES = ("num_classes", "in_channels", "form", "output_stride")  # that keep the weights


def create_model(
    name_or_architecture: str | Architecture,
    *,
    pretrained: bool = False,
    seed: int | None = None,
    **changes: Unpack[ArchitectureChanges],
) -> network.Network:
    """Create a network with newly initialised weights, or with public ones.

    Args:
        name_or_architecture: a name such as ``resnext50_32x4d``, or an Architecture. With ``pretrained``, a name, also
            of certain weights (``resnext50_32x4d.a1_in1k``; ``resnext models --pretrained`` lists them).
        pretrained: download public weights, with their preprocessing and classes. The network is in eval mode.
        seed: determines new weights, equally in all forms and on all devices, without using the global random state.
            None draws from torch's global generator.
        changes: fields of Architecture to override (``num_classes=10``, ``form="branched"``, ...); with ``pretrained``
            ``num_classes``, ``in_channels``, ``form`` and ``output_stride``, see ``load``.

    Raises:
        RequestError: a name, field or value is unknown, or there are no such weights.
        WorkError: the download failed.
    """
    if not isinstance(pretrained, bool):
        raise RequestError(f"pretrained is True or False, not {pretrained!r}; resnext.load takes the name of weights")
    if not pretrained:
        return network.create_model(name_or_architecture, seed=seed, **changes)
    known = {name for entry in released.load_released() for name in (entry.architecture, entry.short_name) if name}
    if not isinstance(name_or_architecture, str) or released.find_pretrained(name_or_architecture) is None:
        hint = did_you_mean(str(name_or_architecture), sorted(known))
        raise RequestError(f"there are no public weights for {name_or_architecture}{hint}")
    unfit = next((key for key in changes if key not in CHANGES), None)
    if unfit is not None:
        raise RequestError(f"public weights cannot be used with another {unfit}; what can change: {', '.join(CHANGES)}")
    kept: dict[str, Any] = dict(changes)
    return load(name_or_architecture, seed=seed or 0, **kept)
