"""Layers of the networks: convolution, batch norm with residual and ReLU, shortcut."""

# Attributes that other modules set on layers and tensors. They select how the same function is computed, except
# drop_path. None of them is in a state dict.
#   Conv2d.algorithms        the algorithm of each pass (plan.Plan.apply)
#   Conv2d.folded_norm       (norm,) of the frozen norm that this convolution computes, or () (frozen_norm.py)
#   NormAct.algorithm        "plain", "fused" (plan.Plan.apply) or "folded" (frozen_norm.py)
#   NormAct.allow_recompute  whether the next layer may recompute y instead of saving it (plan.py)
#   Block.recompute_level    level of activation checkpointing (plan.set_activation_checkpointing)
#   Block.drop_path          probability of stochastic depth (training/classification.py)
#   Tensor.recompute_fn      function that computes this tensor again in the backward pass (activation_checkpointing.py)

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Proxy

from resnext.model.activation_checkpointing import attach_recompute, save_recompute_only
from resnext.speed import kernels
from resnext.speed.convolution import ConvAlgorithms, ConvShape, compute_output, convolve

FUSED, FOLDED = "fused", "folded"


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` with a choice of algorithm for each pass in training (``algorithms``, measured by model/plan.py).

    If ``folded_norm`` holds the frozen norm that follows, this layer computes that norm too (model/frozen_norm.py).
    """

    algorithms = ConvAlgorithms()
    folded_norm: "tuple[NormAct, ...]" = ()  # in a tuple, so that it is not registered as a submodule

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        own = bias
        for norm in self.folded_norm:
            if norm.is_folded:
                weight, bias = norm.fold_into(weight)
        with save_recompute_only(x):
            is_plain = self.algorithms.is_plain or not self.training or own is not None
            if is_plain or isinstance(x, Proxy) or x.dim() != 4 or not x.numel():  # torch.fx: no shape is known yet
                plain: Tensor = super()._conv_forward(x, weight, bias)
                return plain
            if torch.is_autocast_enabled(x.device.type):
                dtype = torch.get_autocast_dtype(x.device.type)
                x, weight = x.to(dtype), weight.to(dtype)
            return convolve(x, weight, self.shape, self.algorithms, None if bias is None else bias.to(x.dtype))

    def recompute_output(self, x: Tensor) -> Tensor:
        """Compute the same output again, bit for bit, without gradients; the weight is cast to the type of x."""
        with torch.no_grad():
            return compute_output(x, self.weight.to(x.dtype), self.shape, self.algorithms.forward)

    @property
    def shape(self) -> ConvShape:
        """Stride, padding, dilation and groups."""
        return ConvShape(self.stride, self.padding, self.dilation, self.groups)  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        """Name the algorithms in ``repr`` where they are not PyTorch's."""
        plain: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return plain if self.algorithms.is_plain else f"{plain}, {self.algorithms}"


class GroupedConv2d(Conv2d):
    """A grouped convolution: the split, transform and concatenation of Figure 3 (c) in one layer.

    A plan may pack its groups: p groups are computed as one, with zeros in the weight between them.
    """


class NormAct(nn.BatchNorm2d):
    """Batch norm, residual sum and ReLU in one layer: ``ReLU(BN(x) + residual)``; no ReLU with ``act=False``.

    Parameters and buffers are those of ``nn.BatchNorm2d`` (eps 1e-5, momentum 0.1, as in Torch7). With ``algorithm``
    "fused", training uses one compiled operator for inputs it supports, and PyTorch otherwise. With "folded", while
    the layer is frozen, the convolution before it has computed BN, and the rest is done in place in its output.
    """

    algorithm = "plain"
    allow_recompute = False  # whether the convolution that reads y may recompute y instead of saving it

    def __init__(self, channels: int, *, act: bool = True) -> None:
        super().__init__(channels)
        self.act = act

    def forward(self, x: Tensor, residual: Tensor | None = None, drop: float = 0.0) -> Tensor:
        """Compute the layer: x, residual and result are [B, C, H, W].

        ``drop`` is the probability that an image's BN(x) is 0 in training (stochastic depth).
        """
        if self.is_folded:
            return self._add_and_activate(x, residual)
        with save_recompute_only(x):
            if self.algorithm == FUSED and self.training and not drop and self._can_fuse(x, residual):
                return self._forward_fused(x, residual)
            y = drop_path(self.normalise(x), drop if self.training else 0.0)
            if residual is not None:
                y += residual  # in place: neither BN nor the sum needs its output in the backward pass
            return F.relu(y, inplace=True) if self.act else y

    def normalise(self, x: Tensor) -> Tensor:
        """Compute BN(x)."""
        if isinstance(x, Proxy):  # torch.fx: nn.BatchNorm2d checks the shape, which is not known yet
            statistics = (self.running_mean, self.running_var)
            momentum = 0.0 if self.momentum is None else self.momentum
            return F.batch_norm(x, *statistics, self.weight, self.bias, self.training, momentum, self.eps)
        return super().forward(x)

    @property
    def is_folded(self) -> bool:
        """Whether the convolution before this layer computes BN, which holds only while the layer is frozen."""
        return self.algorithm == FOLDED and not self.training and is_frozen(self)

    def fold_into(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Fold BN into a convolution's ``weight``; return the new weight [out, in / groups, h, w] and bias [out]."""
        scale, shift = self.compute_scale_and_shift()
        return (weight * scale.view(-1, 1, 1, 1)).to(weight.dtype), shift.to(weight.dtype)

    @torch.no_grad()
    def compute_scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Return scale and shift [C] of evaluation, in float32 or wider: BN(x) = scale * x + shift."""
        assert self.running_mean is not None
        assert self.running_var is not None
        weight, bias, mean, variance = (
            value.to(torch.promote_types(value.dtype, torch.float32))
            for value in (self.weight, self.bias, self.running_mean, self.running_var)
        )
        scale = weight * torch.rsqrt(variance + self.eps)
        return scale, bias - mean * scale

    def _add_and_activate(self, x: Tensor, residual: Tensor | None) -> Tensor:
        if getattr(x, "recompute_fn", None) is not None:
            attach_recompute(x, None)  # x is changed in place below
        if residual is not None:
            x += residual  # the convolution does not need its output in the backward pass
        return F.relu(x, inplace=True) if self.act else x

    def _can_fuse(self, x: Tensor, residual: Tensor | None) -> bool:
        if isinstance(x, Proxy):
            return False
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32  # parameter type of the kernels
        same = self.weight.dtype == wide and self.momentum is not None
        return same and kernels.supports(x, residual)

    def _forward_fused(self, x: Tensor, residual: Tensor | None) -> Tensor:
        y, mean, variance = kernels.norm_act(x, residual, self.weight, self.bias, self.eps, self.act)
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            count = x.numel() // x.shape[1]
            momentum = self.momentum or 0.0
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var.dtype), momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        if self.allow_recompute and residual is None:
            held = (x.detach(), None, self.weight.detach(), self.bias.detach(), mean, variance, self.eps, self.act)
            attach_recompute(y, partial(torch.ops.resnext.norm_act_apply, *held))
        return y

    def extra_repr(self) -> str:
        """Name ``act`` and the algorithm in ``repr``."""
        plain = f"{super().extra_repr()}, act={self.act}"  # type: ignore[no-untyped-call]
        return plain if self.algorithm == "plain" else f"{plain}, {self.algorithm}"


def is_frozen(norm: nn.BatchNorm2d) -> bool:
    """Return whether scale and shift of ``norm`` take no gradient."""
    return not norm.weight.requires_grad and not norm.bias.requires_grad


def drop_path(x: Tensor, p: float) -> Tensor:
    """Apply stochastic depth (Huang et al. 2016): an image of x [B, ...] is 0 with probability p, else x / (1 - p)."""
    if not p:
        return x
    from torchvision.ops import stochastic_depth  # imported here because it takes a second

    kept: Tensor = stochastic_depth(x, p, mode="row")
    return kept


class PadShortcut(nn.Module):
    """Shortcut A where shapes change: take every ``stride``-th pixel and add channels of zeros.

    The release writes the same subsampling as an average pool of 1x1 with a stride.
    """

    def __init__(self, extra_channels: int, stride: int) -> None:
        super().__init__()
        self.extra_channels, self.stride = extra_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C + extra, ceil(H / stride), ceil(W / stride)]."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.extra_channels))


def conv2d(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1, dilation: int = 1
) -> nn.Conv2d:
    """Build a convolution without bias (BN follows), padded so that H becomes ceil(H / stride)."""
    layer = Conv2d if groups == 1 else GroupedConv2d
    padding = dilation * (kernel // 2)
    return layer(in_channels, out_channels, kernel, stride, padding, dilation, groups, bias=False)


def build_shortcut(
    kind: str, in_channels: int, out_channels: int, stride: int, *, norm: bool = True
) -> nn.Module | None:
    """Build the shortcut of a block (Section 4): A pads, B projects where shapes change, C always projects.

    ``none`` gives None, the paper's ablation without residual. The release projects only where the number of channels
    changes; here a block of stride 2 that keeps it is projected too. Pre-activation blocks project without BN
    (``norm=False``).
    """
    changes = in_channels != out_channels or stride != 1
    if kind == "none":
        return None
    if kind == "C" or (kind == "B" and changes):
        project = conv2d(in_channels, out_channels, 1, stride)
        return nn.Sequential(project, NormAct(out_channels, act=False)) if norm else nn.Sequential(project)
    return PadShortcut(out_channels - in_channels, stride) if changes else nn.Identity()
