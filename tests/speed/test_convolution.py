"""Compare outputs and gradients of every convolution algorithm with PyTorch's own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from resnext.speed.convolution import ConvAlgorithms, ConvShape, convolve, list_algorithms, pack_weight, unpack_weight


def inputs(
    shape: ConvShape, inner: int, outer: int, kernel: int, size: tuple[int, int], dtype: torch.dtype
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, shape.groups * inner, *size, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(shape.groups * outer, inner, kernel, kernel, generator=generator, dtype=torch.float64).to(
        dtype
    )
    return [x.requires_grad_(), weight.requires_grad_()]


def reference(x: Tensor, weight: Tensor, shape: ConvShape) -> Tensor:
    return F.conv2d(x, weight, None, shape.stride, shape.padding, shape.dilation, shape.groups)


@settings(max_examples=60)
@given(
    groups=st.sampled_from([1, 2, 3, 4, 6, 8, 32]),
    inner=st.integers(1, 4),
    outer=st.integers(1, 4),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    nhwc=st.booleans(),
)
def test_every_way_of_every_pass_is_the_convolution(
    groups: int, inner: int, outer: int, kernel: int, stride: int, dilation: int, height: int, width: int, nhwc: bool
) -> None:
    padding = dilation * (kernel // 2)
    shape = ConvShape((stride, stride), (padding, padding), (dilation, dilation), groups)
    x, weight = inputs(shape, inner, outer, kernel, (height, width), torch.float64)
    expected = reference(x, weight, shape)
    gradient = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    true = torch.autograd.grad(expected, [x, weight], gradient)
    layout = torch.channels_last if nhwc else torch.contiguous_format
    x = x.detach().contiguous(memory_format=layout).requires_grad_()
    for way in list_algorithms(shape, weight.shape):
        y = convolve(x, weight, shape, ConvAlgorithms(way, way, way))
        torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10, msg=way)
        for found, wanted in zip(torch.autograd.grad(y, [x, weight], gradient), true, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10, msg=way)


@pytest.mark.parametrize(
    ("groups", "inner", "kernel", "stride"), [(32, 4, 3, 1), (8, 2, 3, 2), (1, 16, 1, 1), (1, 8, 1, 2)]
)
def test_bf16_ways_are_as_near_to_float64_as_the_plain_one(groups: int, inner: int, kernel: int, stride: int) -> None:
    shape = ConvShape((stride, stride), (kernel // 2, kernel // 2), (1, 1), groups)
    exact = inputs(shape, inner, inner, kernel, (14, 14), torch.float64)
    low = [value.detach().bfloat16().requires_grad_() for value in exact]
    low[0] = low[0].detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    exact = [value.detach().double().requires_grad_() for value in low]  # the same numbers
    y = reference(exact[0], exact[1], shape)
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    true = [y, *torch.autograd.grad(y, exact, gradient.double())]

    def errors(way: str) -> list[float]:
        out = convolve(low[0], low[1], shape, ConvAlgorithms(way, way, way))
        found = [out, *torch.autograd.grad(out, low, gradient)]
        return [float(((a.double() - b).norm() / b.norm()).detach()) for a, b in zip(found, true, strict=True)]

    plain = errors("plain")
    for way in list_algorithms(shape, exact[1].shape)[1:]:
        assert all(mine < 1.2 * torchs + 1e-3 for mine, torchs in zip(errors(way), plain, strict=True)), way


@given(
    count=st.integers(1, 4),
    factor=st.integers(1, 4),
    outer=st.integers(1, 3),
    inner=st.integers(1, 3),
    size=st.integers(1, 3),
)
def test_unpacking_undoes_packing_and_zeros_stand_between(
    count: int, factor: int, outer: int, inner: int, size: int
) -> None:
    groups = count * factor
    weight = torch.arange(1.0, 1 + groups * outer * inner * size * size).view(groups * outer, inner, size, size)
    wide = pack_weight(weight, groups, factor)
    assert wide.shape == (groups * outer, factor * inner, size, size)
    assert torch.equal(unpack_weight(wide, groups, factor), weight)
    assert int((wide != 0).sum()) == weight.numel()


def test_ways_follow_what_a_convolution_is() -> None:
    def shape(groups: int, padding: int = 0) -> ConvShape:
        return ConvShape((1, 1), (padding, padding), (1, 1), groups)

    assert list_algorithms(shape(6, 1), (6, 1, 3, 3)) == ("plain", "pack2", "pack3", "pack6")
    assert list_algorithms(shape(1), (8, 4, 1, 1)) == ("plain", "product")
    assert list_algorithms(shape(1, 1), (8, 4, 1, 1)) == ("plain",)
    assert list_algorithms(shape(1, 1), (8, 4, 3, 3)) == ("plain",)


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    shape = ConvShape((1, 1), (1, 1), (1, 1), 4)
    x, weight = inputs(shape, 1, 1, 3, (4, 4), torch.float32)
    y = convolve(x, weight, shape, ConvAlgorithms("pack2", "pack2", "pack2"))
    (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        first.sum().backward()
