"""Algorithms for the three passes of a convolution: PyTorch's own ("plain"), packed groups, or a matrix product.

Packing: a convolution in C groups of g channels equals one in C/p groups of p*g channels whose weight is
block-diagonal. This costs more arithmetic, but in shapes that processors compute faster. Product: a 1x1 convolution in
NHWC layout is a matrix product over pixels. The parameter stays the unpacked weight; its gradient is read from the
blocks on the diagonal.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PLAIN, PRODUCT = "plain", "product"
PASSES = ("forward", "input_gradient", "weight_gradient")


@dataclass(frozen=True)
class ConvAlgorithms:
    """The algorithm of each pass of a convolution: ``plain``, ``pack2``, ``pack4``, ... or ``product``."""

    forward: str = PLAIN
    input_gradient: str = PLAIN
    weight_gradient: str = PLAIN

    @property
    def is_plain(self) -> bool:
        """Whether all passes are PyTorch's own."""
        return self == ConvAlgorithms()


@dataclass(frozen=True)
class ConvShape:
    """Parameters of a convolution; ``stride``, ``padding`` and ``dilation`` are (height, width)."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


def list_algorithms(shape: ConvShape, weight: Sequence[int]) -> tuple[str, ...]:
    """List the algorithms for a convolution with a weight of this size [out, in / groups, height, width]."""
    if tuple(weight[2:]) == (1, 1) and shape.groups == 1 and shape.padding == (0, 0):
        return PLAIN, PRODUCT
    factors = (p for p in range(2, shape.groups + 1) if shape.groups % p == 0)
    return PLAIN, *(f"pack{p}" for p in factors)


def convolve(
    x: Tensor, weight: Tensor, shape: ConvShape, algorithms: ConvAlgorithms, bias: Tensor | None = None
) -> Tensor:
    """Compute ``F.conv2d`` of x [B, in, H, W] and weight [out, in / groups, h, w] with an algorithm for each pass.

    A ``bias`` [out] is treated as a constant without gradient.
    """
    if algorithms.is_plain:
        return _convolve_plain(x, weight, shape, bias)
    y: Tensor = _Convolution.apply(x, weight, shape, algorithms, bias)
    return y


def compute_output(x: Tensor, weight: Tensor, shape: ConvShape, algorithm: str, bias: Tensor | None = None) -> Tensor:
    """Compute the output. With a bias PRODUCT falls back to plain: the output may be changed in place, so no view."""
    if algorithm == PRODUCT and bias is None:
        return _to_images(_to_rows(_subsample(x, shape.stride)) @ weight.flatten(1).t(), x, shape.stride)
    packed, wide = _pack_operands(weight, shape, PLAIN if algorithm == PRODUCT else algorithm)
    return _convolve_plain(x, packed, wide, bias)


def compute_input_gradient(gradient: Tensor, x: Tensor, weight: Tensor, shape: ConvShape, algorithm: str) -> Tensor:
    """Compute the gradient of x."""
    if algorithm == PRODUCT:
        small = _to_images(_to_rows(gradient) @ weight.flatten(1), gradient, (1, 1))
        if shape.stride == (1, 1):
            return small
        whole = torch.zeros_like(x, memory_format=torch.channels_last)
        whole[:, :, :: shape.stride[0], :: shape.stride[1]] = small
        return whole
    packed, wide = _pack_operands(weight, shape, algorithm)
    return _compute_gradients(gradient, x, packed, wide, (True, False))[0]


def compute_weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor, shape: ConvShape, algorithm: str) -> Tensor:
    """Compute the gradient of the unpacked weight."""
    if algorithm == PRODUCT:
        return (_to_rows(gradient).t() @ _to_rows(_subsample(x, shape.stride))).view_as(weight)
    factor = _parse_factor(algorithm)
    packed = weight if factor == 1 else weight.new_empty(weight.shape[0], factor * weight.shape[1], *weight.shape[2:])
    wide_shape = replace(shape, groups=shape.groups // factor)
    wide = _compute_gradients(gradient, x, packed, wide_shape, (False, True))[1]
    return wide if factor == 1 else unpack_weight(wide, shape.groups, factor)


def pack_weight(weight: Tensor, groups: int, factor: int) -> Tensor:
    """Pack ``factor`` groups into one, with zeros between: [out, in, h, w] becomes [out, factor * in, h, w]."""
    out, inner, *kernel = weight.shape
    wide = weight.new_zeros(groups // factor, factor, out // groups, factor, inner, *kernel)
    blocks = weight.view(groups // factor, factor, out // groups, inner, *kernel)
    wide.diagonal(dim1=1, dim2=3).copy_(blocks.movedim(1, -1))  # a diagonal's own axis comes last
    return wide.view(out, factor * inner, *kernel)


def unpack_weight(wide: Tensor, groups: int, factor: int) -> Tensor:
    """Extract the blocks on the diagonal of a packed weight: the inverse of ``pack_weight``."""
    out, inner, *kernel = wide.shape
    blocks = wide.reshape(groups // factor, factor, out // groups, factor, inner // factor, *kernel)
    diagonal = blocks.diagonal(dim1=1, dim2=3).movedim(-1, 1)
    return diagonal.reshape(out, inner // factor, *kernel)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, shape: ConvShape, algorithms: ConvAlgorithms, bias: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.shape, ctx.algorithms = shape, algorithms
        return compute_output(x, weight, shape, algorithms.forward, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x, weight = ctx.saved_tensors
        shape, algorithms = ctx.shape, ctx.algorithms
        need_x, need_weight = ctx.needs_input_grad[:2]
        return (
            compute_input_gradient(gradient, x, weight, shape, algorithms.input_gradient) if need_x else None,
            compute_weight_gradient(gradient, x, weight, shape, algorithms.weight_gradient) if need_weight else None,
            None,
            None,
            None,
        )


def _convolve_plain(x: Tensor, weight: Tensor, shape: ConvShape, bias: Tensor | None = None) -> Tensor:
    return F.conv2d(x, weight, bias, shape.stride, shape.padding, shape.dilation, shape.groups)


def _compute_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, shape: ConvShape, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of x and weight; ``wanted`` says which of them."""
    stride, padding, dilation = list(shape.stride), list(shape.padding), list(shape.dilation)
    of_x, of_weight, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, stride, padding, dilation, False, [0, 0], shape.groups, [*wanted, False]
    )
    return of_x, of_weight


def _parse_factor(algorithm: str) -> int:
    return 1 if algorithm == PLAIN else int(algorithm.removeprefix("pack"))


def _pack_operands(weight: Tensor, shape: ConvShape, algorithm: str) -> tuple[Tensor, ConvShape]:
    factor = _parse_factor(algorithm)
    if factor == 1:
        return weight, shape
    return pack_weight(weight, shape.groups, factor), replace(shape, groups=shape.groups // factor)


def _to_rows(x: Tensor) -> Tensor:
    """Flatten [B, C, H, W] to [B*H*W, C]; no copy if x is NHWC."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _subsample(x: Tensor, stride: tuple[int, int]) -> Tensor:
    return x if stride == (1, 1) else x[:, :, :: stride[0], :: stride[1]]


def _to_images(rows: Tensor, x: Tensor, stride: tuple[int, int]) -> Tensor:
    """Reshape [B*h*w, C] to [B, C, h, w] in NHWC, with the B of x and its size divided by the stride."""
    height, width = (-(-size // step) for size, step in zip(x.shape[2:], stride, strict=True))
    return rows.view(x.shape[0], height, width, rows.shape[1]).permute(0, 3, 1, 2)
