"""Choose the fastest algorithm for each layer of a network on this machine (autotuning).

``create_model`` gives plain PyTorch layers. ``autotune`` times the algorithms of each distinct layer and input once
(``speed/tuning_cache.py`` stores the times) and returns a ``Plan``; ``Plan.apply`` sets it. Results differ by rounding
only. A run saves its plan as JSON, so that it can be resumed bit for bit on a machine that would choose otherwise.
"""

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resnext.choices import Precision
from resnext.device import AUTOCAST_DTYPES, autocast
from resnext.errors import RequestError
from resnext.model.blocks import Block
from resnext.model.layers import FUSED, Conv2d, NormAct
from resnext.speed import convolution, kernels
from resnext.speed.cache_folder import warn_once
from resnext.speed.convolution import PLAIN, ConvAlgorithms, list_algorithms
from resnext.speed.tuning_cache import TuningCache, select_fastest

MAX_FILE_BYTES = 1 << 22  # bytes of a plan file
Candidates = Mapping[str, Callable[[], object]]


@dataclass(frozen=True)
class Plan:
    """The algorithms of a network's layers, by layer name; layers without an entry run as plain PyTorch."""

    convolutions: dict[str, ConvAlgorithms] = field(default_factory=dict)
    norms: tuple[str, ...] = ()  # names of the fused norms

    def apply(self, model: nn.Module) -> None:
        """Set the algorithm of every layer of ``model``; with ``RESNEXT_FAST=0`` all layers become plain.

        Raises RequestError if the model lacks a named layer, or a layer does not support its algorithm.
        """
        if not kernels.is_fast_enabled() and self != Plan():
            warn_once("RESNEXT_FAST=0: the tuning plan is ignored; results differ by rounding from those with it")
            Plan().apply(model)
            return
        layers = dict(model.named_modules())
        fused = self.norms if self.norms and kernels.load() else ()
        for name in (*self.convolutions, *self.norms):
            kind = Conv2d if name in self.convolutions else NormAct
            if not isinstance(layers.get(name), kind):
                raise RequestError(f"the plan names {name!r}, but the network has no such {kind.__name__}")
        for name, layer in layers.items():
            if isinstance(layer, Conv2d):
                layer.algorithms = self.convolutions.get(name, ConvAlgorithms())
                known = list_algorithms(layer.shape, layer.weight.shape)
                for algorithm in asdict(layer.algorithms).values():
                    if algorithm not in known:
                        raise RequestError(f"the plan sets {algorithm!r} for {name}, which supports {', '.join(known)}")
            elif isinstance(layer, NormAct):
                layer.algorithm = FUSED if name in fused else PLAIN

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for JSON."""
        return {"convolutions": {k: asdict(w) for k, w in self.convolutions.items()}, "norms": list(self.norms)}

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """Read a plan file (written by ``resnext bench tune --save``). Raises RequestError if it is not one."""
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise RequestError(f"{path} is larger than {MAX_FILE_BYTES:,} bytes, so it is not a tuning plan")
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError) as error:
            raise RequestError(f"{path} is not a tuning plan (resnext bench tune --save writes one): {error}") from None

    @classmethod
    def from_dict(cls, value: Any) -> "Plan":
        """Build a plan from the values of ``to_dict``. Raises RequestError for other values."""
        try:
            convolutions = {str(name): ConvAlgorithms(**passes) for name, passes in value["convolutions"].items()}
            norms = tuple(str(name) for name in value["norms"])
        except (TypeError, KeyError, AttributeError):
            raise RequestError("this is not a tuning plan: it needs the keys convolutions and norms") from None
        return cls(convolutions, norms)


@dataclass(frozen=True)
class LayerInput:
    """The input of a layer in a forward pass: size, type and layout of x, and whether there is a residual."""

    size: tuple[int, ...]
    dtype: torch.dtype
    nhwc: bool
    residual: bool = False

    def make_random(self, device: torch.device, size: Iterable[int] | None = None) -> Tensor:
        """Return random numbers of this type and layout, of this or another size."""
        layout = torch.channels_last if self.nhwc else torch.contiguous_format
        return torch.randn(*(size or self.size), device=device).to(self.dtype).contiguous(memory_format=layout)

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        return f"{'x'.join(map(str, self.size))} {kind} {'NHWC' if self.nhwc else 'NCHW'}"


def autotune(
    model: nn.Module,
    images: Tensor,
    precision: Precision = "fp32",
    *,
    cache: TuningCache | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Plan:
    """Find the fastest plan for training ``model`` on batches like ``images`` [B, C, H, W], in their layout and device.

    Times that this machine's cache lacks are measured and stored; ``progress`` is called with the name of each
    measurement. The model is not changed. With ``RESNEXT_FAST=0`` the plan is empty.
    """
    if not kernels.is_fast_enabled():
        return Plan()
    device = images.device
    cache = cache or TuningCache.load(device)
    convolutions: dict[str, ConvAlgorithms] = {}
    norms: list[str] = []
    for name, layer, seen in _record_layer_inputs(model, images, precision):
        if isinstance(layer, Conv2d):
            algorithms = _autotune_conv(layer, seen, cache, device, progress)
            if not algorithms.is_plain:
                convolutions[name] = algorithms
        elif _is_fused_faster(layer, seen, cache, device, progress):
            norms.append(name)
    cache.save()
    return Plan(convolutions, tuple(norms))


def tune(model: nn.Module, batch_size: int, image_size: int = 224, precision: Precision = "fp32") -> Plan:
    """Convert ``model`` to channels_last (NHWC), autotune it for training on this machine, and apply the plan.

    For your own training loop; ``resnext train`` does this by itself. Results differ by rounding only.

    Args:
        model: a network of this package, on the device it is trained on.
        batch_size: images in a training batch.
        image_size: side of the images in pixels.
        precision: "fp32" or "bf16".

    Returns:
        The plan, which is already applied.
    """
    parameter = next(model.parameters())
    channels = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d)).in_channels
    images = torch.zeros(batch_size, channels, image_size, image_size, device=parameter.device)
    model.to(memory_format=torch.channels_last)
    plan = autotune(model, images.contiguous(memory_format=torch.channels_last), precision)
    plan.apply(model)
    return plan


def set_activation_checkpointing(model: nn.Module, level: str) -> None:
    """Set what the backward pass recomputes instead of saving it (the setting ``train.activation_checkpointing``)."""
    for module in model.modules():
        if isinstance(module, Block):
            module.recompute_level = level
        elif isinstance(module, NormAct):
            module.allow_recompute = level in ("activations", "expansions")


def fuse_all(model: nn.Module, plan: Plan) -> Plan:
    """Fuse every norm in the plan, as recomputing activations needs. Raises RequestError without compiled kernels."""
    if not (kernels.is_fast_enabled() and kernels.load()):
        raise RequestError(
            "train.activation_checkpointing activations and expansions need compiled kernels (a C++ compiler, "
            "RESNEXT_FAST not 0); blocks does not"
        )
    names = tuple(name for name, layer in model.named_modules() if isinstance(layer, NormAct))
    return Plan(plan.convolutions, names)


def _record_layer_inputs(
    model: nn.Module, images: Tensor, precision: Precision
) -> list[tuple[str, Conv2d | NormAct, LayerInput]]:
    """Run a copy of the model on ``images`` and list its layers in the order they run, each with its input."""
    clone = copy.deepcopy(model)
    met: list[tuple[str, Conv2d | NormAct, LayerInput]] = []

    def note(name: str, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0]
        nhwc = x.is_contiguous(memory_format=torch.channels_last)
        residual = len(inputs) > 1 and inputs[1] is not None
        dtype = AUTOCAST_DTYPES.get(precision, x.dtype) if isinstance(layer, Conv2d) else x.dtype
        met.append((name, layer, LayerInput(tuple(x.shape), dtype, nhwc, residual)))  # type: ignore[arg-type]

    Plan().apply(clone)
    for name, layer in clone.named_modules():
        if isinstance(layer, Conv2d | NormAct):
            layer.register_forward_pre_hook(partial(note, name))
    with torch.no_grad(), autocast(images.device, precision):
        clone(images)
    return met


def _autotune_conv(
    layer: Conv2d, seen: LayerInput, choices: TuningCache, device: torch.device, progress: Callable[[str], None]
) -> ConvAlgorithms:
    """Find the fastest algorithm for each pass of a convolution."""
    possible = list_algorithms(layer.shape, layer.weight.shape)
    if len(possible) == 1 or layer.bias is not None:
        return ConvAlgorithms()
    shape, size = layer.shape, tuple(layer.weight.shape)

    def works(which: str) -> Candidates:
        x = seen.make_random(device)
        weight = torch.randn(size, device=device).to(seen.dtype)
        gradient = convolution.compute_output(x, weight, shape, PLAIN)
        if which == "forward":
            return {name: partial(convolution.compute_output, x, weight, shape, name) for name in possible}
        of_x = which == "input_gradient"
        function = convolution.compute_input_gradient if of_x else convolution.compute_weight_gradient
        return {name: partial(function, gradient, x, weight, shape, name) for name in possible}

    kernel = "x".join(map(str, size[2:]))
    work = f"convolution {kernel} {layer.in_channels}->{layer.out_channels} /{shape.stride[0]} groups {shape.groups}"
    if shape.dilation != (1, 1):
        work += f" dilation {shape.dilation[0]}"
    best = {}
    for which in convolution.PASSES:
        key = f"{work} of {seen}, {which}"
        progress(key)
        best[which] = select_fastest(choices.measure_or_load(key, partial(works, which), device, possible), PLAIN)
    return ConvAlgorithms(**best)


def _is_fused_faster(
    layer: NormAct, seen: LayerInput, choices: TuningCache, device: torch.device, progress: Callable[[str], None]
) -> bool:
    def works() -> Candidates:
        x = seen.make_random(device).requires_grad_()
        residual = seen.make_random(device).requires_grad_() if seen.residual else None
        gradient = seen.make_random(device)
        plain, fused = (NormAct(layer.num_features, act=layer.act).to(device) for _ in range(2))
        fused.algorithm = FUSED

        def step(norm: NormAct) -> None:
            norm(x, residual).backward(gradient)
            x.grad = None

        return {PLAIN: partial(step, plain), FUSED: partial(step, fused)}

    x = torch.empty(seen.size, dtype=seen.dtype, device="meta")
    possible = device.type == "cpu" and seen.nhwc and seen.dtype in kernels.DTYPES and x.numel() > layer.num_features
    if not layer.training or not possible or not kernels.load():
        return False
    key = f"norm{' + residual' if seen.residual else ''}{' + ReLU' if layer.act else ''} of {seen}"
    progress(key)
    return select_fastest(choices.measure_or_load(key, works, device, (PLAIN, FUSED)), PLAIN) == FUSED
