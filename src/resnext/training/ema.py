"""An exponential moving average of weights and buffers, kept in fp32."""

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

ModelT = TypeVar("ModelT", bound=nn.Module)


class Ema(Generic[ModelT]):
    """Keep an averaged network ``.model``: after each step, average = decay * average + (1 - decay) * weight.

    Buffers are averaged too, so that BN statistics fit the averaged weights; integers are copied. Only every
    ``every``-th step updates the average, as with torchvision's ``--model-ema-steps``.
    """

    def __init__(self, model: ModelT, decay: float, warmup: bool, every: int = 1) -> None:
        self.model: ModelT = copy.deepcopy(model).float().eval().requires_grad_(False)
        self.decay = decay
        self.warmup = warmup
        self.every = every

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Update the average with the weights after optimizer step ``step`` (from 0)."""
        if (step + 1) % self.every:
            return
        update = step // self.every
        decay = min(self.decay, (1 + update) / (10 + update)) if self.warmup else self.decay
        averages, weights = [], []
        for average, value in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if average.is_floating_point():
                averages.append(average)
                weights.append(value.float())
            else:
                average.copy_(value)
        torch._foreach_lerp_(averages, weights, 1 - decay)
