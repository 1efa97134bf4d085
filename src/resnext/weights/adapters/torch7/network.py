"""Convert a Torch7 module tree, of the paper's release or of fb.resnet.torch, to one of our networks."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resnext.data.preprocessing import Preprocessing
from resnext.errors import RequestError, prefix_errors
from resnext.model.architecture import Architecture, Shortcut, Stem
from resnext.weights.adapters.torch7 import modules as m
from resnext.weights.adapters.torch7.blocks import ConvNorm, LayerCursor, Torch7Block, take_block
from resnext.weights.adapters.torch7.modules import Convolution, ModuleNode, ModuleTree
from resnext.weights.network_spec import NetworkSpec, RawCheckpoint
from resnext.weights.presets import CLASS_NAMES, PREPROCESSINGS
from resnext.weights.readers.torch7 import T7Object, read_t7, release_pages

STEM_BY_KERNEL: dict[tuple[int, int], Stem] = {
    (7, 2): "imagenet",
    (3, 1): "cifar",
}  # by kernel and stride of the first convolution
# by stem, classes and input channels: the data, its preprocessing and class names in presets.py, and its image size
DATA_BY_SHAPE = {
    ("imagenet", 1000, 3): ("ImageNet", "paper", "imagenet", 224),
    ("cifar", 10, 3): ("CIFAR-10", "cifar10", "cifar10", 32),
    ("cifar", 100, 3): ("CIFAR-100", "cifar100", "cifar100", 32),
}
RELEASE_PAGES_EVERY = 2**23  # bytes copied
COPY_ALLOWANCE = 2**22  # bytes that copies may take beyond four times the file's size
TENSOR_OVERHEAD = 512  # bytes of every tensor besides its data


@dataclass(frozen=True, eq=False)
class ParsedNetwork:
    """The whole network, checked; its tensors are not copied yet."""

    root: ModuleNode
    stem: ConvNorm
    stem_kind: Stem
    stages: tuple[tuple[Torch7Block, ...], ...]
    window: int | None  # the average pool's side; None for a global pool
    weight: np.ndarray  # of the linear layer
    bias: np.ndarray | None
    softmax: str

    @property
    def blocks(self) -> list[Torch7Block]:
        """The blocks of all stages."""
        return [block for stage in self.stages for block in stage]

    @property
    def conv_norms(self) -> list[ConvNorm]:
        """All convolutions with their batch norms."""
        return [self.stem, *(unit for block in self.blocks for unit in block.conv_norms)]


def adapt(raw: RawCheckpoint) -> NetworkSpec:
    """Convert a Torch7 file: a module tree, a table with one as ``model``, or a ``latest.t7`` that names a file.

    Raises RequestError that names the first module that does not fit our networks.
    """
    file, module, provenance = _find_module(raw)
    parsed = _parse_network(ModuleNode(ModuleTree(file), module))
    architecture = _infer_architecture(file, parsed)
    preprocessing, classes, notes = _find_preset(parsed, architecture)
    if any(unit.convolution.bias is not None for unit in parsed.conv_norms):
        notes.append("biases of convolutions were folded into the running means of the batch norms after them")
    if any(unit.norm.has_inverse_std for unit in parsed.conv_norms):
        notes.append("running_std of old batch norms was converted to running_var")
    if any(unit.norm.weight is None for unit in parsed.conv_norms):
        notes.append("batch norms without weights got weight 1 and bias 0")
    if parsed.bias is None:
        notes.append("the last layer has no bias; it got zeros")
    if parsed.softmax:
        notes.append(f"the {parsed.softmax} at the end was removed: the outputs are logits")
    return NetworkSpec(
        architecture=architecture,
        state=_copy_state(file, parsed),
        format="torch7",
        preprocessing=preprocessing,
        classes=classes,
        notes=tuple(notes),
        provenance=provenance,
    )


def _find_module(raw: RawCheckpoint) -> tuple[Path, T7Object, dict[str, Any]]:
    """Find the network: return its file, its outermost module, and the provenance from a ``latest.t7``."""
    if isinstance(raw.value, dict) and isinstance(raw.value.get("modelFile"), str):
        name = raw.value["modelFile"].replace("\\", "/").rpartition("/")[2]
        file = raw.path.parent / name
        if not os.path.isfile(file):  # also False for invalid names
            raise RequestError(f"{raw.path} refers to the network {name[:80]!r}, which is not in its folder")
        module = _unwrap_module(file, read_t7(file))
        epoch = raw.value.get("epoch")
        epochs = {"epoch": int(epoch)} if isinstance(epoch, float) and epoch.is_integer() else {}
        return file, module, {"model_file": name} | epochs
    return raw.path, _unwrap_module(raw.path, raw.value), {}


def _unwrap_module(path: Path, value: object) -> T7Object:
    if isinstance(value, dict) and isinstance(value.get("model"), T7Object):
        value = value["model"]
    if isinstance(value, T7Object):
        return value
    if isinstance(value, dict) and {"dfdx", "learningRate", "evalCounter"} & value.keys():
        raise RequestError(f"{path} is the state of an optimizer (optimState_N.t7); the network is in model_N.t7")
    what = "a table" if isinstance(value, dict) else f"a {type(value).__name__}"
    keys = [repr(key)[:40] for key in list(value)[:5]] if isinstance(value, dict) else []
    raise RequestError(f"{path} has no network, but {what}{' with the keys ' + ', '.join(keys) if keys else ''}")


def _parse_network(root: ModuleNode) -> ParsedNetwork:
    network = LayerCursor.from_node(root)
    stem = network.take_conv_norm()
    network.take_relu()
    c = stem.convolution
    kind = STEM_BY_KERNEL.get((c.kernel, c.stride))
    if kind is None or c.groups != 1:
        raise c.node.make_error(
            f"is not a stem: {c.kernel}x{c.kernel} at stride {c.stride}; expected 7x7 at stride 2 or 3x3 at stride 1"
        )
    if kind == "imagenet":
        m.check_max_pool(network.take(m.MAX_POOL))
    blocks = [take_block(network, c.out_channels)]
    while network.peek_kind() == m.BRANCHES:
        blocks.append(take_block(network, blocks[-1].out_channels))
    channels = blocks[-1].out_channels
    pool = network.take(m.AVERAGE_POOL, m.GLOBAL_POOL)
    window = m.read_pool_window(pool) if pool.kind == m.AVERAGE_POOL else None
    if window is None and (pool.read_integer("W"), pool.read_integer("H")) != (1, 1):
        raise pool.make_error("should average the whole feature map")
    m.check_flattening(network.take(m.FLATTEN), channels)
    linear = network.take(m.LINEAR)
    weight = linear.module.fields.get("weight")
    classes = weight.shape[0] if isinstance(weight, np.ndarray) and weight.ndim else 0
    weight, bias = linear.read_tensor("weight", (classes, channels)), linear.read_optional_tensor("bias", (classes,))
    softmax = network.take(m.SOFTMAX).module.class_name if network.peek_kind() == m.SOFTMAX else ""
    network.check_end()
    return ParsedNetwork(root, stem, kind, tuple(_split_into_stages(blocks)), window, weight, bias, softmax)


def _split_into_stages(blocks: list[Torch7Block]) -> Iterator[tuple[Torch7Block, ...]]:
    """Split the blocks into stages: a stage begins at a stride of 2, and all blocks in it have the same widths."""
    starts = [number for number, block in enumerate(blocks) if block.stride == 2 or number == 0]
    if blocks[0].stride != 1:
        raise blocks[0].node.make_error("is the first block and has stride 2; expected 1")
    for start, end in zip(starts, [*starts[1:], len(blocks)], strict=True):
        stage = blocks[start:end]
        _check_alike(stage, ("width", "out_channels"), "the first in its stage")
        yield tuple(stage)
    _check_alike(blocks, ("kind", "concatenated", "cardinality"), "the first block")


def _check_alike(blocks: list[Torch7Block], names: tuple[str, ...], first: str) -> None:
    """Raise RequestError for the first block that differs from ``first`` in one of the attributes ``names``."""
    for block in blocks:
        for name in names:
            found, expected = getattr(block, name), getattr(blocks[0], name)
            if found != expected:
                raise block.node.make_error(f"has {name} {found}, but {first} has {expected}")


def _infer_architecture(file: Path, parsed: ParsedNetwork) -> Architecture:
    first = parsed.blocks[0]
    eps = parsed.stem.norm.eps
    for norm in (unit.norm for unit in parsed.conv_norms):
        if norm.eps != eps:
            raise norm.node.make_error(f"has eps {norm.eps}, but the first batch norm has {eps}; all must be equal")
    with prefix_errors(file):
        return Architecture(
            cardinality=first.cardinality,
            stem=parsed.stem_kind,
            block=first.kind,
            form="concatenated" if first.concatenated else "grouped",
            shortcut=_infer_shortcut(parsed),
            num_classes=parsed.weight.shape[0],
            in_channels=parsed.stem.convolution.in_channels,
            base_channels=parsed.stem.convolution.out_channels,
            blocks=tuple(len(stage) for stage in parsed.stages),
            stage_widths=tuple(stage[0].width for stage in parsed.stages),
            stage_channels=tuple(stage[0].out_channels for stage in parsed.stages),
            stride_in_1x1=_infer_stride_in_1x1(parsed),
            bn_eps=eps,
        )


def _infer_shortcut(parsed: ParsedNetwork) -> Shortcut:
    """Infer the shortcut, A, B or C, and check that all blocks have it."""
    found: Shortcut = "B"
    for block in parsed.blocks:
        if block.shortcut == "pad":
            found = "A"
        elif block.shortcut != "identity" and not block.changes_shape:
            found = "C"
    for block in parsed.blocks:
        projects = found == "C" or (found == "B" and block.changes_shape)
        if isinstance(block.shortcut, ConvNorm) != projects:
            raise block.node.make_error(f"has a shortcut that does not match the shortcuts {found} of other blocks")
    return found


def _infer_stride_in_1x1(parsed: ParsedNetwork) -> bool:
    strided = [block for block in parsed.blocks if block.stride == 2]
    for block in strided:
        if block.stride_in_1x1 != strided[0].stride_in_1x1:
            raise block.node.make_error("has its stride in another convolution than the other blocks")
    return bool(strided) and strided[0].stride_in_1x1


def _find_preset(
    parsed: ParsedNetwork, a: Architecture
) -> tuple[Preprocessing | None, tuple[str, ...] | None, list[str]]:
    """Find preprocessing and classes if stem and number of classes show the training data."""
    size = None if parsed.window is None else parsed.window * a.stride
    what, preset, classes, side = DATA_BY_SHAPE.get((a.stem, a.num_classes, a.in_channels), ("", "", "", 0))
    if not what or size not in (None, side):
        about = "" if size is None else f"; its average pool needs images of {size}x{size}"
        lacking = f"its preprocessing and the names of its {a.num_classes} classes"
        return None, None, [f"the file does not contain {lacking}{about}"]
    note = f"preprocessing and class names were assumed to be those of the release for {what}"
    return PREPROCESSINGS[preset], CLASS_NAMES[classes](), [note]


def _copy_state(file: Path, parsed: ParsedNetwork) -> dict[str, Tensor]:
    """Copy all tensors out of the file one by one, under our names."""
    copy = _Copier(file)
    state: dict[str, Tensor] = {}
    for name, item in _name_layers(parsed):
        if isinstance(item, Convolution):
            state[f"{name}.weight"] = copy(item.weight).reshape(item.shape)
        else:
            state |= {f"{name}.{key}": tensor for key, tensor in _copy_norm(copy, item).items()}
    state["fc.weight"] = copy(parsed.weight)
    state["fc.bias"] = torch.zeros_like(state["fc.weight"][:, 0]) if parsed.bias is None else copy(parsed.bias)
    return state


def _name_layers(parsed: ParsedNetwork) -> "Iterator[tuple[str, Convolution | ConvNorm]]":
    """Iterate over the layers with their names in our network; a batch norm is given with its convolution."""

    def pair(where: str, number: int, unit: ConvNorm) -> "Iterator[tuple[str, Convolution | ConvNorm]]":
        yield f"{where}conv{number}", unit.convolution
        yield f"{where}bn{number}", unit

    yield from pair("", 1, parsed.stem)
    for stage_number, stage in enumerate(parsed.stages, start=1):
        for block_number, block in enumerate(stage):
            where = f"layer{stage_number}.{block_number}."
            for path_number, path in enumerate(block.paths):
                inside = f"{where}paths.{path_number}." if block.concatenated else where
                for number, unit in enumerate(path, start=1):
                    yield from pair(inside, number, unit)
            yield from pair(where, len(block.paths[0]) + 1, block.last)
            if isinstance(block.shortcut, ConvNorm):
                yield f"{where}downsample.0", block.shortcut.convolution
                yield f"{where}downsample.1", block.shortcut


def _copy_norm(copy: "_Copier", unit: ConvNorm) -> dict[str, Tensor]:
    norm, bias = unit.norm, unit.convolution.bias
    mean, spread = copy(norm.mean), copy(norm.variance_or_inverse_std)
    if bias is not None:  # BN(x + b) with mean m is BN(x) with mean m - b
        mean = (mean.double() - copy(bias).double()).to(mean.dtype)
    if norm.has_inverse_std:
        if not bool((spread > 0).all()):
            raise norm.node.make_error("has a running_std that is not above 0")
        variance = spread.double() ** -2 - norm.eps
        variance[(variance < 0) & (variance > -norm.eps / 1000)] = 0  # rounding; larger negative values fail later
        spread = variance.to(spread.dtype)
    return {
        "weight": torch.ones_like(mean) if norm.weight is None else copy(norm.weight),
        "bias": torch.zeros_like(mean) if norm.bias is None else copy(norm.bias),
        "running_mean": mean,
        "running_var": spread,
        "num_batches_tracked": torch.tensor(0),
    }


class _Copier:
    """Copies arrays of a mapped file to tensors, and releases its pages, so that little of it stays in memory."""

    def __init__(self, file: Path) -> None:
        self.file = file
        # modules may share tensors, but a hostile file could share too many
        self.max_bytes = 4 * file.stat().st_size + COPY_ALLOWANCE
        self.copied = self.bytes_since_release = 0

    def __call__(self, array: np.ndarray) -> Tensor:
        self.copied += array.nbytes + TENSOR_OVERHEAD
        self.bytes_since_release += array.nbytes
        if self.copied > self.max_bytes:
            message = "its modules share tensors; copied, they would be far larger than the file"
            raise RequestError(f"{self.file}: {message}")
        tensor = torch.from_numpy(np.array(array, array.dtype.newbyteorder("="), order="C"))
        if self.bytes_since_release >= RELEASE_PAGES_EVERY:
            self.bytes_since_release = 0
            release_pages(array)
        return tensor
