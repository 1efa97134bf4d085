"""Synchronised BN: statistics over the global batch, for many devices with few images each.

PyTorch's SyncBatchNorm needs a GPU and does not support NormAct's residual; this one runs on any device and backend.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from resnext.model.layers import NormAct


class SyncNormAct(NormAct):
    """NormAct with mean and variance over all processes in training mode."""

    def normalise(self, x: Tensor) -> Tensor:
        """Normalise ``x`` [B, C, H, W] by the statistics of all processes' x; in evaluation mode as NormAct."""
        if not self.training or not dist.is_initialized():
            return super().normalise(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        wide = x.float()
        count = all_reduce(torch.tensor([x.numel() // x.shape[1]], dtype=torch.float32, device=x.device))
        mean = all_reduce(wide.sum((0, 2, 3))) / count
        centred = wide - mean[:, None, None]
        variance = all_reduce(centred.square().sum((0, 2, 3))) / count  # second pass: avoids cancellation
        with torch.no_grad():
            momentum = self.momentum or 0.0
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * count / (count - 1), momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
        scale = self.weight * torch.rsqrt(variance + self.eps)
        normalised: Tensor = centred * scale[:, None, None] + self.bias[:, None, None]
        return normalised.to(x.dtype)


def convert_to_sync_bn(model: nn.Module) -> None:
    """Replace every trainable NormAct of ``model`` by a SyncNormAct with the same parameters and buffers."""
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is NormAct and child.weight.requires_grad:
                setattr(module, name, _convert_norm(child))


def _convert_norm(norm: NormAct) -> SyncNormAct:
    with torch.device("meta"):
        twin = SyncNormAct(norm.num_features, act=norm.act)
    twin.eps, twin.momentum, twin.training = norm.eps, norm.momentum, norm.training
    for store in ("_parameters", "_buffers"):
        getattr(twin, store).update(getattr(norm, store))
    return twin
