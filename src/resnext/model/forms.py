"""Convert tensors between the three forms of Figure 3; ``network.convert_form`` converts a whole network.

Every tensor of a path is a slice of the corresponding tensor of form (c), which concatenates them:

    path i of ...                  form (c)                        slice
    conv1, conv2, bn1, bn2         [C*d, ...]                      rows [i*d, (i+1)*d)
    the last convolution           [out, C*d, k, k]                columns [i*d, (i+1)*d)

(footnote 3 of the paper: A1*B1 + A2*B2 = [A1, A2] * [B1; B2]). Slicing and concatenation commute with elementwise
optimizers, so gradients, momentum buffers and weight averages are converted in the same way.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from resnext.errors import RequestError
from resnext.model.architecture import CONVOLUTIONS_PER_BLOCK, Architecture, Form

KEY_PATTERN = re.compile(
    r"(?P<block>layer(?P<stage>\d{1,3})\.\d+\.)(?:paths\.(?P<path>\d+)\.)?(?P<layer>(?:conv|bn)\d)(?P<rest>\..+)"
)


def convert_state(state: Mapping[str, Tensor], architecture: Architecture, form: Form) -> dict[str, Tensor]:
    """Convert a state dict from the form of ``architecture`` to ``form``.

    A subset of the keys is enough, so gradients and momentum buffers by parameter name can be converted too. Results
    may share memory with ``state``. Raises RequestError if weights of some paths are missing or have the wrong size.
    """
    target = architecture.change(form=form).form  # raises RequestError for an unknown form
    grouped = _convert_to_grouped(state, architecture)
    if target == "grouped":
        return grouped
    converted: dict[str, Tensor] = {}
    for key, tensor in grouped.items():
        dim = find_path_dimension(key, architecture)
        if dim is None or (dim == 1 and target == "concatenated"):
            converted[key] = tensor
            continue
        match = KEY_PATTERN.fullmatch(key)
        assert match is not None
        for i, part in enumerate(_split_paths(key, tensor, dim, _get_cardinality(key, architecture))):
            converted[f"{match['block']}paths.{i}.{match['layer']}{match['rest']}"] = part
    return converted


def _convert_to_grouped(state: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """Convert a state dict of any form to form (c)."""
    grouped: dict[str, Tensor] = {}
    paths: dict[str, dict[int, Tensor]] = {}
    for key, tensor in state.items():
        match = KEY_PATTERN.fullmatch(key)
        if match is None or match["path"] is None:
            grouped[key] = tensor
        else:
            whole = f"{match['block']}{match['layer']}{match['rest']}"
            paths.setdefault(whole, {})[int(match["path"])] = tensor
    for key, parts in paths.items():
        cardinality = _get_cardinality(key, architecture)
        if sorted(parts) != list(range(cardinality)):
            raise RequestError(
                f"the weights hold {len(parts)} paths of {key}, but {architecture.name} has {cardinality}"
            )
        tensors = [parts[i] for i in range(cardinality)]
        dim = find_path_dimension(key, architecture)
        if dim is None:
            raise RequestError(f"{key} is not a layer of a path of {architecture.name}")
        # A scalar is num_batches_tracked, which is equal in all paths.
        grouped[key] = tensors[0] if tensors[0].dim() == 0 else torch.cat(tensors, dim)
    return grouped


def _get_cardinality(key: str, architecture: Architecture) -> int:
    """Return C of the stage that ``key``, the name of a path's tensor, belongs to."""
    match = KEY_PATTERN.fullmatch(key)
    number = int(match["stage"]) if match is not None else 0
    if not 1 <= number <= len(architecture.cardinalities):
        raise RequestError(f"{key} belongs to no stage of {architecture.name}")
    return architecture.cardinalities[number - 1]


def find_path_dimension(key: str, architecture: Architecture) -> int | None:
    """Return the dimension along which form (c)'s tensor holds the paths; None for a tensor that all paths share."""
    match = KEY_PATTERN.fullmatch(key)
    if match is None:
        return None
    last = CONVOLUTIONS_PER_BLOCK[architecture.block]
    kind, number = match["layer"][:-1], int(match["layer"][-1])
    if 1 <= number < last:
        return 0
    return 1 if kind == "conv" and number == last else None


def _split_paths(key: str, tensor: Tensor, dim: int, cardinality: int) -> list[Tensor]:
    if tensor.dim() == 0:
        return [tensor] * cardinality
    if dim >= tensor.dim() or tensor.shape[dim] % cardinality:
        raise RequestError(f"{key} of shape {list(tensor.shape)} cannot be split into {cardinality} paths")
    return list(tensor.split(tensor.shape[dim] // cardinality, dim))
