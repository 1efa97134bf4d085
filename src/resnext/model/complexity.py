"""Count parameters, multiply-adds and activations of a network by running it on the meta device.

The paper's "FLOPs" are multiply-adds (MACs; 1 MAC = 2 FLOPs) of the convolutions and the classifier. Its parameter
counts leave out the scales and shifts of BN.
"""

from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from resnext.errors import RequestError
from resnext.model.architecture import Architecture
from resnext.model.network import Network

ImageSize = int | tuple[int, int] | None
CountedLayer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear


@dataclass(frozen=True)
class Complexity:
    """Cost of a network for one image. All values are exact counts."""

    parameters: int  # all learned values, including BN's scale and shift
    macs: int  # multiply-adds of convolutions and linear layers
    activations: int  # output elements of convolutions
    parameters_without_bn: int  # as the paper counts


@dataclass(frozen=True)
class LayerCost:
    """Cost of one layer for one image."""

    name: str
    kind: str  # class name of the layer
    output: tuple[int, ...]  # [C, H, W], or [C] for a linear layer
    parameters: int
    macs: int
    activations: int
    groups: int = 1  # 1 for other layers than convolutions


def complexity(model: str | Architecture | nn.Module, image_size: ImageSize = None) -> Complexity:
    """Count parameters, multiply-adds and activations of a network for one image.

    Args:
        model: a name, an Architecture, or a model of any library. Weights are neither read nor copied.
        image_size: the side, or (height, width), in pixels. Default 224, or 32 for a CIFAR stem.

    Raises:
        RequestError: the name is unknown, the size is too small, or the model cannot run on the meta device.
    """
    if isinstance(model, nn.Module) and not isinstance(model, Network):
        return _sum_costs(compute_layer_costs(model, image_size), model)
    a = _resolve_architecture(model)
    return _compute_complexity(a, _resolve_image_size(image_size, a))


def compute_layer_costs(model: str | Architecture | nn.Module, image_size: ImageSize = None) -> list[LayerCost]:
    """Count the cost of each convolution, BN and linear layer, in the order they run. Arguments as ``complexity``."""
    if isinstance(model, nn.Module) and not isinstance(model, Network):
        return _trace_layers(model, _find_input_channels(model), _resolve_image_size(image_size, None))
    a = _resolve_architecture(model)
    return _trace_layers(_build_on_meta(a), a.in_channels, _resolve_image_size(image_size, a))


def get_default_image_size(architecture: Architecture) -> int:
    """Return the paper's image side in pixels: 224, or 32 for a CIFAR stem."""
    return 224 if architecture.stem == "imagenet" else 32


@lru_cache(maxsize=1024)
def _compute_complexity(a: Architecture, size: tuple[int, int]) -> Complexity:
    model = _build_on_meta(a)
    return _sum_costs(_trace_layers(model, a.in_channels, size), model)


def _resolve_architecture(model: str | Architecture | nn.Module) -> Architecture:
    if isinstance(model, Network):
        return model.architecture
    if isinstance(model, str):
        return Architecture.parse(model)
    if isinstance(model, Architecture):
        return model
    raise RequestError(f"complexity takes a name, an Architecture or a model, not a {type(model).__name__}")


def _resolve_image_size(image_size: ImageSize, a: Architecture | None) -> tuple[int, int]:
    """Return (height, width); raise RequestError if it is not a size, or is too small for the strides."""
    if image_size is None:
        image_size = get_default_image_size(a) if a else 224
    pair = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(pair) != 2 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in pair):
        raise RequestError(f"image_size must be one side or (height, width), in pixels, not {image_size!r}")
    if a:
        a.check_image_size(*pair)
    return pair


def _build_on_meta(a: Architecture) -> Network:
    with torch.device("meta"):
        return Network(a).eval()


def _find_input_channels(model: nn.Module) -> int:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    raise RequestError(f"{type(model).__name__} has no 2-d convolution, so it is not an image network")


def _trace_layers(model: nn.Module, in_channels: int, size: tuple[int, int]) -> list[LayerCost]:
    """Run one forward pass on the meta device (shapes only); the model's own tensors are not touched."""
    tensors = chain(model.named_parameters(), model.named_buffers())
    meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    dtype = next((t.dtype for t in meta.values() if t.is_floating_point()), torch.float32)
    images = torch.empty(2, in_channels, *size, device="meta", dtype=dtype)  # BN in training needs two values a channel
    rows: list[LayerCost] = []

    def record(name: str, module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        rows.append(_count_layer(name, module, output))

    handles = [
        module.register_forward_hook(partial(record, name))
        for name, module in model.named_modules()
        if isinstance(module, CountedLayer | _BatchNorm)
    ]
    try:
        with torch.no_grad():
            torch.func.functional_call(model, meta, (images,))
    except RequestError:
        raise
    except (RuntimeError, NotImplementedError, ValueError) as error:
        raise RequestError(f"{type(model).__name__} does not run on the meta device: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
    return rows


def _count_layer(name: str, layer: nn.Module, output: Tensor) -> LayerCost:
    elements = output[0].numel()
    return LayerCost(
        name=name,
        kind=type(layer).__name__,
        output=tuple(output.shape[1:]),
        parameters=sum(p.numel() for p in layer.parameters()),
        macs=layer.weight[0].numel() * elements if isinstance(layer, CountedLayer) else 0,
        activations=elements if isinstance(layer, CountedLayer) and not isinstance(layer, nn.Linear) else 0,
        groups=getattr(layer, "groups", 1),
    )


def _sum_costs(rows: list[LayerCost], model: nn.Module) -> Complexity:
    parameters = sum(p.numel() for p in model.parameters())
    norms = {p for m in model.modules() if isinstance(m, _BatchNorm) for p in m.parameters()}
    return Complexity(
        parameters=parameters,
        macs=sum(row.macs for row in rows),
        activations=sum(row.activations for row in rows),
        parameters_without_bn=parameters - sum(p.numel() for p in norms),
    )
