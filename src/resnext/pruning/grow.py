"""Add paths to a network that start as zero contribution: the function is kept, and training can use them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from resnext.errors import RequestError
from resnext.model.architecture import Architecture
from resnext.model.forms import convert_state, find_path_dimension
from resnext.model.network import Network, create_model, rebuild_network
from resnext.pruning.record import add_record
from resnext.pruning.selection import Counts, change_counts, join_counts, spread_over_stages


def grow(model: Network, cardinality: int | Sequence[int], *, seed: int = 0) -> Network:
    """Add paths to every block. The network computes the same function, exactly but for the order of additions.

    New paths start with the initial weights of a new network (``model/initialise.py``) and new BN, except for their
    columns of the last convolution, which are 0. These have gradients, so training brings the paths into use, first
    the last convolution and then the rest.

    Args:
        model: The network, in any form. It is not changed.
        cardinality: Paths in each stage: one number, or one for each stage.
        seed: Seed of the new weights.

    Returns:
        An ordinary network, with ``provenance["grow"]``.

    Raises:
        RequestError: No stage would get more paths, or one would lose some.
    """
    a = model.architecture
    counts = _resolve_grown_counts(a, cardinality)
    grown = change_counts(a.change(form="grouped"), counts)
    new = create_model(grown, seed=seed).state_dict()
    old = convert_state(model.state_dict(), a, "grouped")
    state = {key: _extend_tensor(key, old[key], fresh, grown) for key, fresh in new.items()}
    result = rebuild_network(model, grown.change(form=a.form), convert_state(state, grown, a.form))
    add_record(result, model, "grow", seed=seed)
    return result


def _extend_tensor(key: str, old: Tensor, fresh: Tensor, grown: Architecture) -> Tensor:
    """Append the new paths' part of ``fresh`` to ``old``; in the last convolution (dimension 1) it is 0."""
    dim = find_path_dimension(key, grown)
    if dim is None or old.dim() == 0 or old.shape == fresh.shape:
        return old
    added = fresh.narrow(dim, old.shape[dim], fresh.shape[dim] - old.shape[dim]).to(old)
    return torch.cat([old, torch.zeros_like(added) if dim == 1 else added], dim)


def _resolve_grown_counts(a: Architecture, cardinality: int | Sequence[int]) -> Counts:
    has, asked = a.cardinalities, spread_over_stages(a, cardinality)
    counts = tuple(map(max, asked, has)) if isinstance(cardinality, int) else asked
    if counts == has or any(count < least for count, least in zip(counts, has, strict=True)):
        raise RequestError(
            f"{a.name} has {join_counts(has)} paths in its stages; growing needs more, not {join_counts(asked)} "
            "(resnext prune takes paths away)"
        )
    return counts
