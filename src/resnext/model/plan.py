"""The plan of a network's fast paths: layer by layer the way that was measured to be fastest here.

``create_model`` gives plain PyTorch layers. ``settle`` measures each different piece of work once (``speed/choices.py``
keeps it), and ``apply`` sets the ways; the function stays the same to rounding. A plan is plain JSON: a run keeps its
own, so it goes on bit for bit on a machine that would have chosen otherwise.
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

from resnext.device import LOW, autocast
from resnext.errors import RequestError
from resnext.model.blocks import Block
from resnext.model.layers import FUSED, Conv2d, NormAct
from resnext.speed import kernels
from resnext.speed.cache import say_once
from resnext.speed.choices import Choices, fastest
from resnext.speed.convolution import (
    PASSES,
    PLAIN,
    Ways,
    forward_pass,
    input_gradient,
    ways_for,
    weight_gradient,
)

LARGEST = 1 << 22  # bytes of a file with a plan
Works = Mapping[str, Callable[[], object]]


@dataclass(frozen=True)
class Plan:
    """The ways of a network's layers by their names; layers that are not named are plain."""

    convolutions: dict[str, Ways] = field(default_factory=dict)
    norms: tuple[str, ...] = ()  # that are fused

    def apply(self, model: nn.Module) -> None:
        """Set the ways of every layer of ``model``; all plain where ``RESNEXT_FAST=0``.

        Raises RequestError for a layer or a way that is not there.
        """
        if not kernels.switched_on() and self != Plan():
            say_once("RESNEXT_FAST=0: a plan of fast paths is not followed; results differ from it by rounding")
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
                layer.ways = self.convolutions.get(name, Ways())
                known = ways_for(layer.shape, layer.weight.shape)
                for way in asdict(layer.ways).values():
                    if way not in known:
                        raise RequestError(f"the plan computes {name} by {way!r}; it can be {', '.join(known)}")
            elif isinstance(layer, NormAct):
                layer.way = FUSED if name in fused else PLAIN

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"convolutions": {k: asdict(w) for k, w in self.convolutions.items()}, "norms": list(self.norms)}

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """A plan from a file (``resnext bench tune --save``). Raises RequestError naming it."""
        try:
            if path.stat().st_size > LARGEST:
                raise RequestError(f"{path} is larger than {LARGEST:,} bytes, so no plan of fast paths")
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError) as error:
            raise RequestError(f"{path} holds no plan of fast paths (resnext bench tune --save): {error}") from None

    @classmethod
    def from_json(cls, value: Any) -> "Plan":
        """The inverse of ``as_json``. Raises RequestError for anything else."""
        try:
            convolutions = {str(name): Ways(**ways) for name, ways in value["convolutions"].items()}
            norms = tuple(str(name) for name in value["norms"])
        except (TypeError, KeyError, AttributeError):
            raise RequestError("this is not a plan of fast paths: convolutions and norms were expected") from None
        return cls(convolutions, norms)


@dataclass(frozen=True)
class Seen:
    """What a layer met in a forward pass: size, type and memory layout of x, and whether a residual came with it."""

    size: tuple[int, ...]
    dtype: torch.dtype
    nhwc: bool
    residual: bool = False

    def images(self, device: torch.device, size: Iterable[int] | None = None) -> Tensor:
        """Random numbers of this kind."""
        layout = torch.channels_last if self.nhwc else torch.contiguous_format
        return torch.randn(*(size or self.size), device=device).to(self.dtype).contiguous(memory_format=layout)

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        return f"{'x'.join(map(str, self.size))} {kind} {'NHWC' if self.nhwc else 'NCHW'}"


def settle(
    model: nn.Module,
    images: Tensor,
    precision: str = "fp32",
    *,
    choices: Choices | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Plan:
    """The plan for training ``model`` on batches like ``images`` [B, C, H, W], in their memory layout and device.

    What was not measured before on this machine is measured now, and kept; ``progress`` hears of each piece of work.
    The model is left as it was. The plan is empty where fast paths are switched off (``RESNEXT_FAST=0``).
    """
    if not kernels.switched_on():
        return Plan()
    device = images.device
    choices = choices or Choices.here(device)
    convolutions: dict[str, Ways] = {}
    norms: list[str] = []
    for name, layer, seen in _seen(model, images, precision):
        if isinstance(layer, Conv2d):
            ways = _ways(layer, seen, choices, device, progress)
            if not ways.plain:
                convolutions[name] = ways
        elif _fused_is_faster(layer, seen, choices, device, progress):
            norms.append(name)
    choices.save()
    return Plan(convolutions, tuple(norms))


def tune(model: nn.Module, batch_size: int, image_size: int = 224, precision: str = "fp32") -> Plan:
    """Turn ``model`` to NHWC and set the ways that were measured to train it fastest here; returns the plan.

    For training loops of one's own: ``resnext train`` does this by itself. The function stays the same to rounding.
    """
    parameter = next(model.parameters())
    channels = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d)).in_channels
    images = torch.zeros(batch_size, channels, image_size, image_size, device=parameter.device)
    model.to(memory_format=torch.channels_last)
    plan = settle(model, images.contiguous(memory_format=torch.channels_last), precision)
    plan.apply(model)
    return plan


def set_recompute(model: nn.Module, level: str) -> None:
    """What the backward pass computes again instead of keeping it (``train.recompute``)."""
    for module in model.modules():
        if isinstance(module, Block):
            module.recompute = level
        elif isinstance(module, NormAct):
            module.recomputed = level in ("activations", "expansions")


def fuse_all(model: nn.Module, plan: Plan) -> Plan:
    """The plan with every norm fused: recomputing activations needs that. Raises RequestError where it cannot be."""
    if not (kernels.switched_on() and kernels.load()):
        raise RequestError(
            "train.recompute activations and expansions need compiled kernels (a C++ compiler, RESNEXT_FAST not 0); "
            "blocks does not"
        )
    names = tuple(name for name, layer in model.named_modules() if isinstance(layer, NormAct))
    return Plan(plan.convolutions, names)


def _seen(model: nn.Module, images: Tensor, precision: str) -> list[tuple[str, Conv2d | NormAct, Seen]]:
    """The layers in the order they are used, with what they meet; found by a forward pass of a copy."""
    twin = copy.deepcopy(model)
    met: list[tuple[str, Conv2d | NormAct, Seen]] = []
    dtype = LOW.get(precision)

    def note(name: str, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0]
        nhwc = x.is_contiguous(memory_format=torch.channels_last)
        residual = len(inputs) > 1 and inputs[1] is not None
        kind = dtype or x.dtype if isinstance(layer, Conv2d) else x.dtype
        met.append((name, layer, Seen(tuple(x.shape), kind, nhwc, residual)))  # type: ignore[arg-type]

    Plan().apply(twin)
    for name, layer in twin.named_modules():
        if isinstance(layer, Conv2d | NormAct):
            layer.register_forward_pre_hook(partial(lambda n, layer, inputs: note(n, layer, inputs), name))
    with torch.no_grad(), autocast(images.device, precision):
        twin(images)
    return met


def _ways(layer: Conv2d, seen: Seen, choices: Choices, device: torch.device, progress: Callable[[str], None]) -> Ways:
    """The fastest way of each pass."""
    possible = ways_for(layer.shape, layer.weight.shape)
    if len(possible) == 1 or layer.bias is not None:
        return Ways()
    shape, size = layer.shape, tuple(layer.weight.shape)

    def works(which: str) -> Works:
        x = seen.images(device)
        weight = torch.randn(size, device=device).to(seen.dtype)
        gradient = forward_pass(x, weight, shape, PLAIN)
        if which == "forward":
            return {way: partial(forward_pass, x, weight, shape, way) for way in possible}
        function = input_gradient if which == "input_gradient" else weight_gradient
        return {way: partial(function, gradient, x, weight, shape, way) for way in possible}

    kernel = "x".join(map(str, size[2:]))
    work = f"convolution {kernel} {layer.in_channels}->{layer.out_channels} /{shape.stride[0]} groups {shape.groups}"
    best = {}
    for which in PASSES:
        key = f"{work} of {seen}, {which}"
        progress(key)
        best[which] = fastest(choices.take(key, partial(works, which), device, possible), PLAIN)
    return Ways(**best)


def _fused_is_faster(
    layer: NormAct, seen: Seen, choices: Choices, device: torch.device, progress: Callable[[str], None]
) -> bool:
    def works() -> Works:
        x = seen.images(device).requires_grad_()
        residual = seen.images(device).requires_grad_() if seen.residual else None
        gradient = seen.images(device)
        plain, fused = (NormAct(layer.num_features, act=layer.act).to(device) for _ in range(2))
        fused.way = FUSED

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
    return fastest(choices.take(key, works, device, (PLAIN, FUSED)), PLAIN) == FUSED
