"""The vocabulary every block is written in: convolution, batch norm with what follows it, shortcut."""

import torch.nn.functional as F
from torch import Tensor, nn


class GroupedConv2d(nn.Conv2d):
    """A convolution in groups: the split, transform and concatenation of Figure 3 (c) in one layer."""


class NormAct(nn.BatchNorm2d):
    """Batch norm and what follows it in a residual network: ``ReLU(BN(x) + residual)``.

    Without ``act`` the ReLU is left out. Parameters and buffers are those of ``nn.BatchNorm2d``
    (eps 1e-5, momentum 0.1, as in Torch7).
    """

    def __init__(self, channels: int, *, act: bool = True) -> None:
        super().__init__(channels)
        self.act = act

    def forward(self, x: Tensor, residual: Tensor | None = None, drop: float = 0.0) -> Tensor:
        """x and residual: [B, C, H, W]; returns the same shape. In training BN(x) of an image is 0 with p ``drop``."""
        y = drop_path(self.normalise(x), drop if self.training else 0.0)
        if residual is not None:
            y += residual  # in place: neither BN nor the sum needs its output for the gradient
        return F.relu(y, inplace=True) if self.act else y

    def normalise(self, x: Tensor) -> Tensor:
        """BN(x)."""
        return super().forward(x)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, act={self.act}"


def drop_path(x: Tensor, p: float) -> Tensor:
    """Stochastic depth (Huang et al. 2016): an image's part of x [B, ...] is 0 with probability p, else x / (1 - p)."""
    if not p:
        return x
    from torchvision.ops import stochastic_depth  # not before: a second of importing

    return stochastic_depth(x, p, mode="row")


class PadShortcut(nn.Module):
    """Shortcut A where shapes change: every ``stride``-th pixel, and zeros for the new channels.

    The release's average pool of 1x1 with a stride is this subsampling.
    """

    def __init__(self, extra_channels: int, stride: int) -> None:
        super().__init__()
        self.extra_channels, self.stride = extra_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C + extra, ceil(H / stride), ceil(W / stride)]."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.extra_channels))


def conv2d(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without bias (BN follows) whose padding keeps the map: H -> ceil(H / stride)."""
    layer = nn.Conv2d if groups == 1 else GroupedConv2d
    return layer(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)


def shortcut(kind: str, in_channels: int, out_channels: int, stride: int, *, norm: bool = True) -> nn.Module | None:
    """The way round a block (Section 4): A pads, B projects where shapes change, C always projects.

    ``none`` gives None, the paper's ablation without residual. The release projects where channels change; with
    free stage channels a block of stride 2 may keep them, and is projected too. Pre-activation blocks project
    without BN (``norm=False``).
    """
    changes = in_channels != out_channels or stride != 1
    if kind == "none":
        return None
    if kind == "C" or (kind == "B" and changes):
        project = conv2d(in_channels, out_channels, 1, stride)
        return nn.Sequential(project, NormAct(out_channels, act=False)) if norm else nn.Sequential(project)
    return PadShortcut(out_channels - in_channels, stride) if changes else nn.Identity()
