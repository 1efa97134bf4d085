"""NCHW or NHWC: which one is faster here, for this network and batch, is measured, not guessed."""

import copy
import statistics
import time

import torch
from torch.nn import functional as F

from resnext.model.network import Network

ROUNDS = 3


def faster_layout(
    model: Network, batch_size: int, image_size: int, device: torch.device, precision: str
) -> dict[str, float]:
    """Median seconds of a training step in each layout, as ``{"no": NCHW, "yes": NHWC}``; interleaved, on a copy.

    The network is measured in the mode it comes in: training, with frozen layers as they are.
    """
    shape = (batch_size, model.architecture.in_channels, image_size, image_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        images = torch.randn(shape).to(device)
    labels = torch.zeros(batch_size, dtype=torch.long, device=device)
    formats = {"no": torch.contiguous_format, "yes": torch.channels_last}
    models = {name: copy.deepcopy(model).to(device).to(memory_format=f) for name, f in formats.items()}
    seconds: dict[str, list[float]] = {name: [] for name in formats}
    for _ in range(ROUNDS + 1):
        for name, memory_format in formats.items():
            batch = images.contiguous(memory_format=memory_format)
            seconds[name].append(_step(models[name], batch, labels, device, precision))
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}


def _step(model: Network, images: torch.Tensor, labels: torch.Tensor, device: torch.device, precision: str) -> float:
    _wait(device)
    start = time.perf_counter()
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        logits = model(images)
    F.cross_entropy(logits.float(), labels).backward()
    model.zero_grad(set_to_none=True)
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
