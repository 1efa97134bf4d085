"""The fused norm + residual + ReLU operator of ``csrc/``, loaded at first use, and its gradient."""

import os
import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resnext.speed.compiler import CompileUnit, Library
from resnext.speed.prebuilt import load_library

SOURCE_FOLDER = Path(__file__).parent / "csrc"
ISA_FLAGS = {  # the loops are compiled once for each instruction set; the best one is chosen when the library is loaded
    "portable": (),
    "avx2": ("-mavx2",),
    "avx512": ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"),
}
DTYPES = (torch.bfloat16, torch.float32, torch.float64)


def is_fast_enabled() -> bool:
    """Return whether fast paths are allowed; ``RESNEXT_FAST=0`` turns all of them off."""
    return os.environ.get("RESNEXT_FAST", "1").lower() not in ("0", "no", "false", "off")


def list_isa_flags() -> dict[str, tuple[str, ...]]:
    """Return the compiler flags of each instruction set that this kind of processor may have, later ones last."""
    return ISA_FLAGS if platform.machine() in ("x86_64", "AMD64") else {"portable": ()}


def describe_norm_act_library() -> Library:
    """Return what the library of the operator is compiled from."""
    loops = SOURCE_FOLDER / "norm_act_kernels.cpp"
    units = [CompileUnit(loops, (f"-DISA={isa}", "-Wno-psabi", *flags)) for isa, flags in list_isa_flags().items()]
    return Library(
        "norm_act",
        (CompileUnit(SOURCE_FOLDER / "norm_act_ops.cpp"), *units),
        headers=(SOURCE_FOLDER / "norm_act.h", SOURCE_FOLDER / "torch_api.h"),
        uses_torch=True,
        fallback="so norm_act runs as plain PyTorch",
    )


@cache
def load() -> bool:
    """Load ``torch.ops.resnext``, compiled if need be; return False, with a warning, if that is not possible."""
    if load_library(describe_norm_act_library(), lambda path: torch.ops.load_library(str(path)) or path) is None:
        return False
    _register_fake_ops()
    return True


class _NormAct(torch.autograd.Function):
    """The operator as a differentiable function; in Python, as the stable ABI has no part for that."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, eps: float, act: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, mean, variance, mask = torch.ops.resnext.norm_act_forward(x, residual, weight, bias, eps, act)
        ctx.save_for_backward(x, weight, bias, mean, variance, mask)
        ctx.eps, ctx.act, ctx.has_residual = eps, act, residual is not None
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("norm_act has no second derivative; RESNEXT_FAST=0 computes without it")
        x, *saved = ctx.saved_tensors
        gradient = gradients[0].to(x.dtype).contiguous(memory_format=torch.channels_last)
        flags = (ctx.eps, ctx.act, ctx.has_residual)
        dx, dresidual, dweight, dbias = torch.ops.resnext.norm_act_backward(gradient, x, *saved, *flags)
        if not ctx.has_residual:
            dresidual = None
        elif not ctx.act:
            dresidual = gradient
        return dx, dresidual, dweight, dbias, None, None


def norm_act(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, eps: float, act: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute ReLU(BN(x) + residual) with the statistics of the batch; differentiable once. ``load`` comes first.

    ``supports`` tells which x and residual it takes. ``weight`` and ``bias`` [C] are fp32, or fp64 with fp64. Without
    ``act`` there is no ReLU. Returns y, like x, and mean and biased variance of the batch, [C] in fp64.
    """
    y: tuple[Tensor, Tensor, Tensor] = _NormAct.apply(x, residual, weight, bias, eps, act)
    return y


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

    @torch.library.register_fake("resnext::norm_act_forward")
    def _(x, residual, weight, bias, eps, act):  # type: ignore[no-untyped-def]  # noqa: ARG001
        bits = (x.numel() + 15) // 16 if act and residual is not None else 0
        return torch.empty_like(x), *statistics(x), x.new_empty(bits, dtype=torch.int16)

    @torch.library.register_fake("resnext::norm_act_apply")
    def _(x, residual, weight, bias, mean, variance, eps, act):  # type: ignore[no-untyped-def]  # noqa: ARG001
        return torch.empty_like(x)

    @torch.library.register_fake("resnext::norm_act_backward")
    def _(gradient, x, weight, bias, mean, variance, mask, eps, act, has_residual):  # type: ignore[no-untyped-def]  # noqa: ARG001
        residual = torch.empty_like(x) if has_residual and act else x.new_empty(0)
        return torch.empty_like(x), residual, torch.empty_like(weight), torch.empty_like(bias)
