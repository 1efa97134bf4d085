"""Memory for time: tensors that are computed again in the backward pass instead of being kept (``train.recompute``).

A layer that knows how its output can be made again says so (``remember``); the layer that reads it keeps that recipe
in place of the tensor (``forgetting``). No function changes: what is made again has the same bits.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def remember(tensor: Tensor, remake: Callable[[], Tensor] | None) -> None:
    """Note on ``tensor`` how to make it again; None takes the note away."""
    tensor.remake = remake  # type: ignore[attr-defined]


def forgetting(tensor: Tensor) -> AbstractContextManager[Any]:
    """Within, what autograd would keep of ``tensor`` is the recipe to make it again, where it has one."""
    remake = getattr(tensor, "remake", None)
    if remake is None or not torch.is_grad_enabled():
        return nullcontext()

    identity = _identity(tensor)  # not the tensor: the hook lives as long as what it saves

    def pack(saved: Tensor) -> Any:
        return remake if _identity(saved) == identity else saved

    return saved_tensors_hooks(pack, lambda kept: kept() if callable(kept) else kept)


def _identity(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.dtype


def recomputed(module: nn.Module, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(x), of which only x is kept; it is run again in the backward pass, without moving BN's statistics."""
    return checkpoint(function, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _buffers_kept(module)))


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Within, what moves running statistics is undone at the end (what autograd saves must be the same both times)."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)


@contextmanager
def statistics_kept(model: nn.Module, kept: bool) -> Iterator[None]:
    """Within, BN's running statistics move only where ``kept``."""
    norms = [] if kept else [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    before = [norm.track_running_stats for norm in norms]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm, tracked in zip(norms, before, strict=True):
            norm.track_running_stats = tracked
