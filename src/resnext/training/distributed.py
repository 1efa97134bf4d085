"""Distributed training: process group, collectives, DDP. With one process every operation is a no-op.

``torchrun`` sets RANK, WORLD_SIZE and LOCAL_RANK.
"""

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from inspect import signature
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn

from resnext.device import pick_device
from resnext.errors import WorkError

PEER_LOST_PATTERN = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe|timed? ?out", re.IGNORECASE)
MAX_CLOCK_SKEW = 5.0  # seconds; torchrun's c10d rendezvous treats a host whose clock is 15 s off as dead


@dataclass(frozen=True)
class World:
    """Rank and device of this process, number of processes, and the collective operations between them."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the process that writes the run directory."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is no other process, so that nothing is communicated."""
        return self.size == 1

    def wrap_ddp(self, model: nn.Module) -> nn.Module:
        """Wrap the model in DDP, which averages gradients over the processes.

        Buffers are not synchronised in training, which does not read running statistics; ``broadcast_model`` does it.
        """
        if self.is_alone:
            return model
        ddp = nn.parallel.DistributedDataParallel
        names = ("forward_sync_buffers", "broadcast_buffers")  # the second is its name up to PyTorch 2.13
        name = next(name for name in names if name in signature(ddp.__init__).parameters)
        ids = [self.device.index] if self.device.type == "cuda" else None
        options: dict[str, Any] = {name: False}
        return ddp(model, device_ids=ids, **options)

    def no_sync(self, model: nn.Module) -> AbstractContextManager[None]:
        """Return a context in which gradients are accumulated locally; the next backward outside reduces them."""
        if self.is_alone:
            return nullcontext()
        return cast(AbstractContextManager[None], cast(nn.parallel.DistributedDataParallel, model).no_sync())

    def all_reduce_sum(self, values: Sequence[float | torch.Tensor]) -> list[float]:
        """Sum each of ``values`` over all processes, in float64; scalar tensors are read from the device at once."""
        if self.is_alone:
            tensors = [value.detach().to(self.sum_dtype) for value in values if isinstance(value, torch.Tensor)]
            numbers = iter(torch.stack(tensors).tolist() if tensors else ())
            return [next(numbers) if isinstance(value, torch.Tensor) else float(value) for value in values]
        total = torch.stack([self._to_scalar(value) for value in values])
        dist.all_reduce(total)
        return cast(list[float], total.tolist())

    @property
    def sum_dtype(self) -> torch.dtype:
        """The type in which sums are exact enough: float64 where the device has it."""
        return torch.float32 if self.device.type == "mps" else torch.float64

    def _to_scalar(self, value: float | torch.Tensor) -> torch.Tensor:
        """Convert to a scalar tensor on the device. A number is filled in there: a copy would wait for the device."""
        if isinstance(value, torch.Tensor):
            return value.detach().to(self.device, self.sum_dtype)
        return torch.full((), float(value), dtype=self.sum_dtype, device=self.device)

    def all_reduce_any(self, flag: bool) -> bool:
        """Return whether ``flag`` is true in any process."""
        return flag if self.is_alone else self.all_reduce_sum([float(flag)])[0] > 0

    def broadcast_model(self, model: nn.Module) -> None:
        """Copy the weights and buffers of rank 0 to all processes, whatever their memory layouts."""
        if not self.is_alone:
            for tensor in model.state_dict().values():
                value = tensor.contiguous()
                dist.broadcast(value, 0)
                tensor.copy_(value)

    def broadcast_bytes(self, data: bytes) -> bytes:
        """Send ``data`` from rank 0 to all processes and return it."""
        if self.is_alone:
            return data
        length = torch.tensor([len(data)], dtype=torch.int64, device=self.device)
        dist.broadcast(length, 0)
        content = torch.zeros(int(length), dtype=torch.uint8)
        if self.is_main and data:
            content = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        content = content.to(self.device)
        dist.broadcast(content, 0)
        return content.cpu().numpy().tobytes()

    def all_gather_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Concatenate the rows [n, columns] of all processes in rank order; n may differ between processes."""
        if self.is_alone:
            return rows
        counts = [torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(self.size)]
        dist.all_gather(counts, torch.tensor([len(rows)], device=self.device))
        most = max(int(count) for count in counts)
        padded = torch.zeros((most, rows.shape[1]), dtype=rows.dtype, device=self.device)
        padded[: len(rows)] = rows.to(self.device)
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)]).cpu()

    def clock_skew(self) -> float:
        """Estimate the largest difference in seconds between the clocks of the processes."""
        if self.is_alone:
            return 0.0
        self.all_reduce_any(False)  # a barrier, so that all read their clocks at about the same time
        clocks = self.all_gather_rows(torch.tensor([[time.time()]], dtype=torch.float64))
        return float(clocks.max() - clocks.min())


@contextmanager
def init_distributed(device: str, timeout: float = 600.0) -> Iterator[World]:
    """Join the process group if ``torchrun`` started this process, and leave it at the end.

    A process that does not answer for ``timeout`` seconds counts as lost. Raises RequestError for an unavailable device
    and WorkError if another process is lost.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(pick_device(device))
        return
    chosen = pick_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    with _convert_peer_errors():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=timedelta(seconds=timeout))
        try:
            yield World(chosen, dist.get_rank(), size)
        finally:
            dist.destroy_process_group()


@contextmanager
def _convert_peer_errors() -> Iterator[None]:
    """Convert torch's errors about a lost process into a WorkError that says how to continue."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, WorkError) or not (
            isinstance(error, dist.DistError) or PEER_LOST_PATTERN.search(str(error))
        ):
            raise
        hint = ""
        if "refused" in str(error):  # torchrun of PyTorch 2.14 keeps one store, with addresses of dead processes
            hint = "; if only restarted processes are refused, set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun"
        raise WorkError(
            f"another process of this run is lost or out of reach: {' '.join(str(error).split())[:300]}; the last "
            f"checkpoint is good: start all processes again with --continue (torchrun --max-restarts does it by "
            f"itself){hint}"
        ) from error
