"""Activation checkpointing: recompute tensors in the backward pass instead of saving them, to use less memory.

A layer that can recompute its output attaches a function for that to the tensor (``attach_recompute``). The layer that
reads the tensor saves this function in its place (``save_recompute_only``). Recomputed tensors have the same bits.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def attach_recompute(tensor: Tensor, recompute_fn: Callable[[], Tensor] | None) -> None:
    """Attach to ``tensor`` the function that computes it again; None removes it."""
    tensor.recompute_fn = recompute_fn  # type: ignore[attr-defined]


def save_recompute_only(tensor: Tensor) -> AbstractContextManager[Any]:
    """Make autograd save the attached function of ``tensor``, if it has one, instead of the tensor."""
    recompute_fn = getattr(tensor, "recompute_fn", None) if isinstance(tensor, Tensor) else None  # else traced by fx
    if recompute_fn is None or not torch.is_grad_enabled():
        return nullcontext()

    identity = _identify_storage(tensor)  # the hook must not hold the tensor, as it lives as long as the graph

    def pack(saved: Tensor) -> Any:
        return recompute_fn if _identify_storage(saved) == identity else saved

    return saved_tensors_hooks(pack, lambda kept: kept() if callable(kept) else kept)


def _identify_storage(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.dtype


def run_with_recompute(module: nn.Module, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Compute function(x) and save only x; the backward pass runs it again without updating BN's statistics."""
    return checkpoint(function, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _restore_buffers(module)))


@contextmanager
def _restore_buffers(module: nn.Module) -> Iterator[None]:
    """Restore the buffers of ``module`` at the end (both runs must update them, so that autograd saves the same)."""
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)


@contextmanager
def set_running_stats_tracking(model: nn.Module, enabled: bool) -> Iterator[None]:
    """Let BN layers update their running statistics inside the context only if ``enabled``."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    before = [norm.track_running_stats for norm in norms]
    for norm in norms:
        norm.track_running_stats = enabled and norm.track_running_stats
    try:
        yield
    finally:
        for norm, tracked in zip(norms, before, strict=True):
            norm.track_running_stats = tracked
