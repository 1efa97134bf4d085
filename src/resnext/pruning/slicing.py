"""Take paths out of a network: the network that is left computes what the whole one does with those paths at zero.

In form (c) a path is a slice of each tensor (``model/forms.py``): rows of conv1, bn1, conv2 and bn2, and columns of the
last convolution, which sums the paths. The shortcut and the BN after the sum stay whole.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from resnext.errors import RequestError
from resnext.model.architecture import CONVOLUTIONS_PER_BLOCK, Architecture, Stage
from resnext.model.forms import KEY_PATTERN, convert_state, find_path_dimension
from resnext.model.network import Network, rebuild_network

NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")
KeptChannels = Mapping[str, Tensor]  # convolution, such as layer1.0.conv2 -> int64 [C, d'] of its input channels
KeptPaths = Mapping[str, Sequence[int]]  # block, such as layer1.0 -> indices of its paths that stay, in order


def list_blocks(architecture: Architecture) -> Iterator[tuple[str, int, Stage]]:
    """Iterate over the blocks: name, number of the stage from 0, and the stage."""
    for number, stage in enumerate(architecture.stages):
        for block in range(stage.blocks):
            yield f"layer{number + 1}.{block}", number, stage


def keep_paths(model: Network, kept: KeptPaths) -> Network:
    """Return a network that has only the paths ``kept`` of each block, in the form of ``model``.

    Args:
        model: The network, in any form.
        kept: Indices of the paths to keep of each block, without repetition; the blocks of a stage keep equally many.

    Raises:
        RequestError: A block is missing or unknown, keeps no path or one it lacks, or the blocks of a stage differ.
    """
    a = model.architecture
    counts = _count_kept(a, kept)
    widths = tuple(count * stage.width for count, stage in zip(counts, a.stages, strict=True))
    grouped = a.change(form="grouped")
    pruned = grouped.change(stage_cardinalities=counts, stage_widths=widths)
    state = {
        key: _slice_tensor(key, tensor, grouped, kept)
        for key, tensor in convert_state(model.state_dict(), a, "grouped").items()
    }
    return rebuild_network(model, pruned.change(form=a.form), convert_state(state, pruned, a.form))


def keep_channels(model: Network, kept: KeptChannels) -> Network:
    """Return a network that has only the channels ``kept`` of each path, in the form of ``model``.

    Args:
        model: The network, in any form.
        kept: For each convolution that reads channels of paths (conv2 and conv3 of a bottleneck, conv2 of a basic
            block): int64 [C, d'], the channels to keep of each path, in order. d' is the same in a stage.
    """
    a = model.architecture
    grouped = a.change(form="grouped")
    state = convert_state(model.state_dict(), a, "grouped")
    widths = list(a.stage_widths or ())
    for block, number, stage in list_blocks(a):
        for reader in (1, 2)[: CONVOLUTIONS_PER_BLOCK[a.block] - 1]:
            inside = kept[f"{block}.conv{reader + 1}"].to(state[f"{block}.conv1.weight"].device)
            offsets = torch.arange(stage.cardinality, device=inside.device)[:, None] * stage.width
            channels = (offsets + inside).flatten()
            widths[number] = len(channels)
            for name in (f"{block}.conv{reader}.weight", *(f"{block}.bn{reader}.{rest}" for rest in NORM_TENSORS)):
                state[name] = state[name].index_select(0, channels)
            state[f"{block}.conv{reader + 1}.weight"] = _keep_inputs(
                state[f"{block}.conv{reader + 1}.weight"], channels, inside, stage.width
            )
    narrow = grouped.change(stage_cardinalities=a.cardinalities, stage_widths=tuple(widths))
    return rebuild_network(model, narrow.change(form=a.form), convert_state(state, narrow, a.form))


def _keep_inputs(weight: Tensor, channels: Tensor, inside: Tensor, width: int) -> Tensor:
    """Keep input channels of a convolution, whose groups, if it has any, are the paths."""
    if weight.shape[1] != width or len(inside) == 1:
        return weight.index_select(1, channels)
    by_path = zip(weight.unflatten(0, (len(inside), -1)), inside, strict=True)
    return torch.cat([rows.index_select(1, columns) for rows, columns in by_path])


def _slice_tensor(key: str, tensor: Tensor, grouped: Architecture, kept: KeptPaths) -> Tensor:
    dim = find_path_dimension(key, grouped)
    if dim is None or tensor.dim() == 0:
        return tensor
    match = KEY_PATTERN.fullmatch(key)
    assert match is not None
    width = grouped.stages[int(match["stage"]) - 1].width
    paths = torch.tensor(kept[match["block"].rstrip(".")], device=tensor.device)
    channels = (paths[:, None] * width + torch.arange(width, device=tensor.device)).flatten()
    return tensor.index_select(dim, channels)


def _count_kept(a: Architecture, kept: KeptPaths) -> tuple[int, ...]:
    """Count the paths that each stage keeps."""
    names = [name for name, _, _ in list_blocks(a)]
    if sorted(kept) != sorted(names):
        raise RequestError(f"the paths to keep must be given for each block of {a.name}: {', '.join(names)}")
    counts: dict[int, int] = {}
    for name, number, stage in list_blocks(a):
        paths = kept[name]
        if not paths or len(set(paths)) < len(paths) or not all(0 <= path < stage.cardinality for path in paths):
            raise RequestError(
                f"{name} has the paths 0 to {stage.cardinality - 1}; it cannot keep {sorted(paths) or 'none'}"
            )
        if counts.setdefault(number, len(paths)) != len(paths):
            raise RequestError(f"the blocks of a stage keep equally many paths, but {name} keeps {len(paths)}")
    return tuple(counts[number] for number in range(len(a.stages)))
