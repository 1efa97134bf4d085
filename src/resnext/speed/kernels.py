"""The fused operator of ``csrc/``, compiled and loaded at first use: ``torch.ops.resnext``."""

import os
import platform
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from resnext.speed.build import Unit, library
from resnext.speed.cache import say_once

FOLDER = Path(__file__).parent / "csrc"
ISA_FLAGS = {  # of the three copies of the loops; what is used is chosen when the library is loaded
    "portable": (),
    "avx2": ("-mavx2",),
    "avx512": ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"),
}
ISAS = tuple(ISA_FLAGS)
DTYPES = (torch.bfloat16, torch.float32, torch.float64)


def switched_on() -> bool:
    """Whether fast paths may be used at all: ``RESNEXT_FAST=0`` turns every one of them off."""
    return os.environ.get("RESNEXT_FAST", "1") not in ("0", "no", "false")


@cache
def load() -> bool:
    """Make ``torch.ops.resnext`` ready; False, with the reason said once, where it cannot be."""
    loops = FOLDER / "norm_act_kernels.cpp"
    x86 = platform.machine() in ("x86_64", "AMD64")
    isas = ISA_FLAGS if x86 else {"portable": ()}
    units = [Unit(loops, (f"-DISA={isa}", "-Wno-psabi", *flags)) for isa, flags in isas.items()]
    path = library(
        "norm_act", [Unit(FOLDER / "norm_act_ops.cpp"), *units], includes=(FOLDER / "norm_act.h",), torch_headers=True
    )
    if path is None:
        return False
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        say_once(f"{path} does not load, so norm_act runs as plain PyTorch: {error.__cause__ or error}")
        return False
    _register_shapes()
    return True


def isa() -> str:
    """The instruction set in use: avx512, avx2 or portable; ``RESNEXT_ISA`` caps it before the first use."""
    return str(torch.ops.resnext.isa())


def takes(x: Tensor, residual: Tensor | None) -> bool:
    """Whether the kernels compute this: images [B, C, H, W] on the CPU in NHWC, of a type they know, more than one
    pixel, and a residual that matches."""
    if x.device.type != "cpu" or x.dtype not in DTYPES or x.dim() != 4 or x.numel() <= x.shape[1]:
        return False
    if not x.is_contiguous(memory_format=torch.channels_last):
        return False
    return residual is None or (
        residual.shape == x.shape
        and residual.dtype == x.dtype
        and residual.is_contiguous(memory_format=torch.channels_last)
    )


def _register_shapes() -> None:
    """What torch.compile and torch.export must know of the operators: shapes, types and layouts."""

    def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.new_empty(x.shape[1], dtype=torch.float64), x.new_empty(x.shape[1], dtype=torch.float64)

    @torch.library.register_fake("resnext::norm_act")
    def _(x, residual, weight, bias, eps, act):  # type: ignore[no-untyped-def]  # noqa: ARG001
        return torch.empty_like(x), *statistics(x)

    @torch.library.register_fake("resnext::norm_act_forward")
    def _(x, residual, weight, bias, eps, act):  # type: ignore[no-untyped-def]  # noqa: ARG001
        bits = (x.numel() + 15) // 16 if act and residual is not None else 0
        return torch.empty_like(x), *statistics(x), x.new_empty(bits, dtype=torch.int16)

    @torch.library.register_fake("resnext::norm_act_apply")
    def _(x, residual, weight, bias, mean, variance, eps, act):  # type: ignore[no-untyped-def]  # noqa: ARG001
        return torch.empty_like(x)

    @torch.library.register_fake("resnext::norm_act_backward")
    def _(gradient, x, weight, bias, mean, variance, mask, eps, act, has_residual):  # type: ignore[no-untyped-def]  # noqa: ARG001
        residual = torch.empty_like(x) if has_residual else x.new_empty(0)
        return torch.empty_like(x), residual, torch.empty_like(weight), torch.empty_like(bias)
