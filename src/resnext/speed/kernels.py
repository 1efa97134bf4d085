"""Compile and load the fused norm + residual + ReLU operator of ``csrc/`` at first use: ``torch.ops.resnext``."""

import os
import platform
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from resnext.speed.cache_folder import get_cache_folder, warn_once
from resnext.speed.compiler import CompileUnit, build_library

SOURCE_FOLDER = Path(__file__).parent / "csrc"
ISA_FLAGS = {  # the loops are compiled once for each instruction set; the best one is chosen when the library is loaded
    "portable": (),
    "avx2": ("-mavx2",),
    "avx512": ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"),
}
DTYPES = (torch.bfloat16, torch.float32, torch.float64)


def is_fast_enabled() -> bool:
    """Return whether fast paths are allowed; ``RESNEXT_FAST=0`` turns all of them off."""
    return os.environ.get("RESNEXT_FAST", "1") not in ("0", "no", "false")


def is_compiled(name: str = "norm_act") -> bool:
    """Return whether the cache folder has the compiled library ``name``, of any release."""
    return any((get_cache_folder() / "lib").glob(f"{name}-*.so"))


@cache
def load() -> bool:
    """Compile (if needed) and load ``torch.ops.resnext``; return False, with a warning, if that is not possible."""
    loops = SOURCE_FOLDER / "norm_act_kernels.cpp"
    isas = ISA_FLAGS if platform.machine() in ("x86_64", "AMD64") else {"portable": ()}
    units = [CompileUnit(loops, (f"-DISA={isa}", "-Wno-psabi", *flags)) for isa, flags in isas.items()]
    operators, headers = CompileUnit(SOURCE_FOLDER / "norm_act_ops.cpp"), (SOURCE_FOLDER / "norm_act.h",)
    path = build_library("norm_act", [operators, *units], headers=headers)
    if path is None:
        return False
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        warn_once(f"{path} cannot be loaded, so norm_act runs as plain PyTorch: {error.__cause__ or error}")
        return False
    _register_fake_ops()
    return True


def supports(x: Tensor, residual: Tensor | None) -> bool:
    """Return whether the kernels support these inputs.

    They take images [B, C, H, W] on the CPU in NHWC, of a type in ``DTYPES``, with more than one pixel; a residual must
    have the same shape, type and layout.
    """
    if x.device.type != "cpu" or x.dtype not in DTYPES or x.dim() != 4 or x.numel() <= x.shape[1]:
        return False
    given = (x,) if residual is None else (x, residual)
    return all(
        t.shape == x.shape and t.dtype == x.dtype and t.is_contiguous(memory_format=torch.channels_last) for t in given
    )


def _register_fake_ops() -> None:
    """Register fake versions of the operators, which give torch.compile and torch.export shapes, types and layouts."""

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
