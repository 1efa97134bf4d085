"""One process or many: the only file that knows which. ``torchrun`` sets RANK, WORLD_SIZE and LOCAL_RANK."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from resnext.device import pick_device


@dataclass(frozen=True)
class World:
    """This process among its peers, and the device it computes on."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes the run directory."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with its gradients averaged over the processes; BN statistics stay a device's own (the paper)."""
        if self.size == 1:
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=ids)

    def sum(self, values: list[float]) -> list[float]:
        """The sums of ``values`` over all processes, in float64."""
        if self.size == 1:
            return values
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        total = torch.tensor(values, dtype=dtype, device=self.device)
        dist.all_reduce(total)
        return [float(value) for value in total]

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is set in any process."""
        return flag if self.size == 1 else self.sum([float(flag)])[0] > 0


@contextmanager
def joined(device: str) -> Iterator[World]:
    """The world this process belongs to: itself alone unless ``torchrun`` started it. Raises RequestError."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(pick_device(device))
        return
    chosen = pick_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield World(chosen, dist.get_rank(), size)
    finally:
        dist.destroy_process_group()
