"""Compare the fused operator with its definition in float64, for every type, shape and instruction set."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from resnext.model.layers import FUSED, NormAct
from resnext.speed import kernels

TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 1e-2}


@pytest.fixture(autouse=True)
def ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNEXT_FAST", "1")
    if not kernels.load():
        pytest.skip("no C++ compiler here: the fused operator runs as plain PyTorch")


def nhwc(value: Tensor) -> Tensor:
    return value.contiguous(memory_format=torch.channels_last)


def pair(channels: int, act: bool, dtype: torch.dtype, seed: int = 0) -> tuple[NormAct, NormAct]:
    """Build a fused layer, and a plain float64 layer with the same parameters."""
    generator = torch.Generator().manual_seed(seed)
    fused, plain = NormAct(channels, act=act), NormAct(channels, act=act).double()
    with torch.no_grad():
        fused.weight.copy_(torch.rand(channels, generator=generator) + 0.5)
        fused.bias.copy_(torch.randn(channels, generator=generator))
    fused = fused.double() if dtype == torch.float64 else fused
    plain.load_state_dict({name: value.double() for name, value in fused.state_dict().items()})
    fused.algorithm = FUSED
    return fused, plain


def compare(fused: NormAct, plain: NormAct, x: Tensor, residual: Tensor | None, tolerance: float) -> None:
    """Compare y, statistics and all gradients."""
    inputs = [value for value in (x, residual) if value is not None]
    mine = [value.detach().clone(memory_format=torch.preserve_format).requires_grad_() for value in inputs]
    exact = [value.detach().double().requires_grad_() for value in inputs]
    assert kernels.supports(mine[0], mine[1] if residual is not None else None)
    y, expected = fused(*mine), plain(*exact)
    assert y.dtype == x.dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    scale = 1 + float(expected.detach().abs().max())
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=tolerance * scale)
    sure = (y.double() > 0) == (expected > 0) if fused.act else torch.ones_like(expected, dtype=torch.bool)
    generator = torch.Generator().manual_seed(7)
    gradient = torch.where(sure, torch.randn(x.shape, generator=generator).double(), 0.0).to(x.dtype)
    y.backward(nhwc(gradient))
    expected.backward(gradient.double())
    count = x.numel() // x.shape[1]
    found = [*(value.grad for value in mine), fused.weight.grad, fused.bias.grad]
    true = [*(value.grad for value in exact), plain.weight.grad, plain.bias.grad]
    for mine_one, true_one in zip(found, true, strict=True):
        assert mine_one is not None
        assert true_one is not None
        size = 1 + float(true_one.abs().max())
        torch.testing.assert_close(
            mine_one.double(), true_one, rtol=0, atol=5 * tolerance * size * max(1, count**0.5 / 8)
        )
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(getattr(fused, name).double(), getattr(plain, name).double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("act", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
@settings(max_examples=12)
@given(
    channels=st.sampled_from([1, 2, 3, 5, 8, 12, 16, 20, 24, 31, 64, 96, 130]),
    batch=st.integers(1, 5),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_it_is_its_definition(
    dtype: torch.dtype, act: bool, with_residual: bool, channels: int, batch: int, height: int, width: int, seed: int
) -> None:
    if batch * height * width < 2:
        height += 1
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, channels, height, width)
    x = nhwc((torch.randn(shape, generator=generator) * 2 + 1).to(dtype))
    residual = nhwc(torch.randn(shape, generator=generator).to(dtype)) if with_residual else None
    compare(*pair(channels, act, dtype, seed), x, residual, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_many_blocks_of_pixels_add_up(dtype: torch.dtype) -> None:
    x = nhwc(torch.randn(9, 40, 33, 31, generator=torch.Generator().manual_seed(0)).to(dtype))
    residual = nhwc(torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(dtype))
    compare(*pair(40, True, dtype), x, residual, TOLERANCE[dtype])


@pytest.mark.parametrize("ratio", [1e2, 1e4, 1e6])
def test_a_mean_far_above_the_deviation_loses_no_digits(ratio: float) -> None:
    """Test fp32 data whose mean is ``ratio`` deviations: the only error is the rounding of the data."""
    generator = torch.Generator().manual_seed(3)
    x = nhwc((torch.randn(8, 24, 16, 16, generator=generator).double() + ratio).float())  # deviation 1
    fused, plain = pair(24, False, torch.float32)
    mean, variance = x.double().mean((0, 2, 3)), x.double().var((0, 2, 3), unbiased=False)
    _, got_mean, got_variance = kernels.norm_act(x, None, fused.weight, fused.bias, 1e-5, False)
    torch.testing.assert_close(got_mean, mean, rtol=0, atol=1e-6)  # deviations
    torch.testing.assert_close(got_variance, variance, rtol=2e-5, atol=0)
    torch.testing.assert_close(fused(x).double(), plain(x.double()), rtol=0, atol=3e-5)


def test_finite_differences_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    x, residual = (nhwc(torch.randn(2, 3, 3, 2, generator=generator).double()).requires_grad_() for _ in range(2))
    weight = (torch.rand(3, generator=generator).double() + 0.5).requires_grad_()
    bias = torch.randn(3, generator=generator).double().requires_grad_()

    def y(*inputs: Tensor) -> Tensor:
        x, residual, weight, bias = inputs
        return kernels.norm_act(nhwc(x), nhwc(residual), weight, bias, 1e-5, True)[0]

    assert torch.autograd.gradcheck(y, (x, residual, weight, bias))


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    x = nhwc(torch.randn(2, 3, 4, 4)).requires_grad_()
    fused, _ = pair(3, True, torch.float32)
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(fused(x).sum(), x, create_graph=True)


def test_nan_and_infinity_pass_as_in_torch() -> None:
    for bad in (float("nan"), float("inf")):
        x = nhwc(torch.randn(2, 3, 4, 4))
        x[0, 1, 0, 0] = bad
        fused, plain = pair(3, True, torch.float32)
        assert torch.equal(fused(x).isnan(), plain(x.double()).isnan())


def test_results_do_not_depend_on_threads() -> None:
    x = nhwc(torch.randn(8, 48, 28, 28, generator=torch.Generator().manual_seed(0)).bfloat16()).requires_grad_()
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            fused, _ = pair(48, True, torch.bfloat16)
            y = fused(x)
            results.append((y.detach(), *torch.autograd.grad(y.float().square().sum(), [x, fused.weight, fused.bias])))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for one in results[1:] for a, b in zip(results[0], one, strict=True))


SCRIPT = """
import torch
from resnext.speed import kernels
assert kernels.load()
bits = []
for dtype in (torch.bfloat16, torch.float32, torch.float64):
    for channels in (7, 16, 72):
        g = torch.Generator().manual_seed(0)
        x, r = (torch.randn(3, channels, 9, 11, generator=g).to(dtype)
                .contiguous(memory_format=torch.channels_last).requires_grad_() for _ in range(2))
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        w, b = (torch.randn(channels, generator=g, dtype=wide).requires_grad_() for _ in range(2))
        for residual in (None, r):
            y, mean, variance = kernels.norm_act(x, residual, w, b, 1e-5, True)
            inputs = [x, w, b] + ([] if residual is None else [r])
            bits += [y, mean, variance, *torch.autograd.grad(y.sum() * 3, inputs)]
import hashlib
data = b"".join(t.detach().double().contiguous().numpy().tobytes() for t in bits)
print(torch.ops.resnext.isa(), hashlib.sha256(data).hexdigest())
"""


def test_every_instruction_set_gives_the_same_bits() -> None:
    seen = {}
    for isa in kernels.ISA_FLAGS:
        environment = os.environ | {"RESNEXT_ISA": isa}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment, timeout=120
        )
        assert done.returncode == 0, done.stderr
        name, digest = done.stdout.split()
        seen[name] = digest
    assert "portable" in seen
    assert len(set(seen.values())) == 1, seen


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(2, 3, 4, 4),  # NCHW
        nhwc(torch.randn(2, 3, 8, 8))[:, :, ::2],  # a view with holes
        nhwc(torch.randn(2, 3, 4, 4).half()),  # a type the kernels do not know
    ],
    ids=["NCHW", "view", "fp16"],
)
def test_what_the_kernels_do_not_take_is_computed_by_torch(x: Tensor) -> None:
    fused, plain = pair(3, True, torch.float32)
    assert not kernels.supports(x, None)
    if x.dtype != torch.half:
        torch.testing.assert_close(fused(x).double(), plain(x.double()), rtol=1e-4, atol=1e-4)
    else:
        assert torch.equal(fused(x), F.relu(F.batch_norm(x, None, None, fused.weight, fused.bias, True)))


def test_empty_batches_and_single_pixels_are_answered_as_torch_answers() -> None:
    fused, plain = pair(3, True, torch.float32)
    for shape in ((0, 3, 4, 4), (1, 3, 1, 1)):
        said = []
        for layer in (fused, plain.float()):
            try:
                said.append(str(layer(nhwc(torch.zeros(shape))).shape))
            except ValueError as error:
                said.append(str(error))
        assert said[0] == said[1]


def test_a_residual_that_does_not_match_is_not_fused() -> None:
    fused, plain = pair(3, True, torch.float32)
    x, one = nhwc(torch.randn(2, 3, 4, 4)), torch.randn(1, 3, 1, 1)
    torch.testing.assert_close(fused(x, one).double(), plain(x.double(), one.double()), rtol=1e-4, atol=1e-4)


def test_the_operator_names_what_it_does_not_take() -> None:
    weight = torch.ones(3)
    with pytest.raises(RuntimeError, match="channels_last"):
        kernels.norm_act(torch.randn(2, 3, 4, 4), None, weight, weight, 1e-5, True)
    with pytest.raises(RuntimeError, match="weight and bias of 3 channels"):
        kernels.norm_act(nhwc(torch.randn(2, 3, 4, 4)), None, torch.ones(2), weight, 1e-5, True)
    with pytest.raises(RuntimeError, match="same shape"):
        kernels.norm_act(nhwc(torch.randn(2, 3, 4, 4)), nhwc(torch.randn(2, 3, 4, 2)), weight, weight, 1e-5, True)


def test_shapes_are_known_without_computing() -> None:
    arguments = (
        nhwc(torch.randn(2, 3, 4, 5)),
        nhwc(torch.randn(2, 3, 4, 5)),
        torch.ones(3),
        torch.zeros(3),
        1e-5,
        True,
    )
    checks = ("test_schema", "test_faketensor")
    y, mean, variance, mask = torch.ops.resnext.norm_act_forward(*arguments)
    torch.library.opcheck(torch.ops.resnext.norm_act_forward.default, arguments, test_utils=checks)
    x, _, weight, bias = arguments[:4]
    remade = torch.ops.resnext.norm_act_apply(*arguments[:4], mean, variance, 1e-5, True)
    assert torch.equal(remade, y)
    back = (nhwc(torch.randn(y.shape)), x, weight, bias, mean, variance, mask, 1e-5, True, True)
    torch.library.opcheck(torch.ops.resnext.norm_act_backward.default, back, test_utils=checks)
