"""Autotune training: time NCHW and NHWC, plain PyTorch and fast paths, and choose the fastest."""

import copy
import json
import math
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from torch import nn
from torch.nn import functional as F

from resnext.device import autocast
from resnext.environment import has_bf16
from resnext.model.complexity import complexity
from resnext.model.network import Network
from resnext.model.plan import Plan, autotune, fuse_all
from resnext.screen import print_line, show_work
from resnext.settings import Recipe, TrainSettings
from resnext.speed import kernels
from resnext.training.distributed import World

ROUNDS = 3
LEAVE_OUT = "(RESNEXT_FAST=0 leaves this out)"
MAX_TIMED_SHARE = 0.1  # of the run, for timing; a shorter run takes NHWC and plain PyTorch
MAX_TIMED_ACTIVATIONS = 2**27  # outputs of convolutions; of a larger micro-batch only some images are timed
MIN_TRAINING_SECONDS = 120.0  # seconds; for shorter plain training, tuning fast paths costs more time than it saves
TUNING_STEPS = 25  # about what tuning fast paths costs where nothing is in the cache
MAX_TIME_RATIO = 0.97  # fast paths are used only if they take at most this share of the plain time


@dataclass(frozen=True)
class Candidate:
    """A training configuration to time: the memory layout, and whether fast paths are used."""

    channels_last: bool
    fast: bool = False

    def __str__(self) -> str:
        return ("NHWC" if self.channels_last else "NCHW") + (" with fast paths" if self.fast else "")


def autotune_training(
    recipe: Recipe, model: Network, micro_batch: tuple[int, int], steps: int, world: World, console: Console
) -> tuple[Recipe, Plan]:
    """Decide ``channels_last`` and ``fast``; return the recipe with both set, and the plan of fast paths.

    Values set in the recipe are kept; "auto" is decided by timing copies of the network, on at most as many images as
    keep memory and time small. With ``RESNEXT_FAST=0`` nothing is timed, and "auto" is plain PyTorch. ``micro_batch``
    is the number of images in a micro-batch and their size, ``steps`` the number of micro-batches in the run. All
    processes decide the same: the plan is rank 0's, times are averaged.
    Raises RequestError if ``train.activation_checkpointing`` needs kernels that cannot be built.
    """
    train = recipe.train if recipe.train.tuning_plan is None else replace(recipe.train, fast="yes")
    layouts = [False, True] if train.channels_last == "auto" else [train.channels_last == "yes"]
    plain, is_enabled = [Candidate(layout) for layout in layouts], kernels.is_fast_enabled()
    asks = train.fast == "auto" and is_enabled
    seconds: dict[Candidate, float] = {}
    passes = len(plain) * (ROUNDS + 1) * limit_images(model, micro_batch) / micro_batch[0]
    if is_enabled and (asks or len(plain) > 1) and passes <= MAX_TIMED_SHARE * steps:
        with show_work(console, f"timing training steps {LEAVE_OUT}"):
            seconds = time_candidates(model, {arm: Plan() for arm in plain}, micro_batch, world, train)
    best = min(plain, key=lambda arm: seconds[arm]) if seconds else plain[-1 if is_enabled else 0]
    plan = Plan()
    is_long = MAX_TIMED_SHARE * steps >= TUNING_STEPS and seconds.get(best, 0.0) * steps > MIN_TRAINING_SECONDS
    if train.fast == "yes" or (asks and is_long):
        arm = Candidate(layouts[-1], fast=True)
        found = tune_shared_plan(model, arm, micro_batch, world, train, console)
        if asks and found != Plan():
            again = time_candidates(model, {Candidate(layouts[-1]): Plan(), arm: found}, micro_batch, world, train)
            seconds[arm] = seconds[plain[-1]] * again[arm] / again[plain[-1]]  # relative to plain, timed beside it
        if train.fast == "yes" or seconds.get(arm, math.inf) < MAX_TIME_RATIO * seconds[best]:
            best, plan = arm, found
    if world.is_main and len(seconds) > 1:
        times = ", ".join(f"{value * 1e3:.0f} ms in {arm}" for arm, value in seconds.items())
        print_line(console, f"{best}: a micro-batch of {micro_batch[0]} images takes {times}")
    if best in seconds:
        advise_precision(seconds[best], plain[-1], model, micro_batch, world, train, console)
    train = replace(train, channels_last="yes" if best.channels_last else "no", fast="yes" if best.fast else "no")
    recipe = replace(recipe, train=train)
    return recipe, fuse_all(model, plan) if train.activation_checkpointing in ("activations", "expansions") else plan


def tune_shared_plan(
    model: Network,
    candidate: Candidate,
    micro_batch: tuple[int, int],
    world: World,
    train: TrainSettings,
    console: Console,
) -> Plan:
    """Tune a plan on rank 0, or read it from ``train.tuning_plan``, and send it to all processes."""
    plan = Plan()
    if world.is_main and train.tuning_plan is not None:
        plan = Plan.read(Path(train.tuning_plan))
    elif world.is_main and not kernels.is_fast_enabled():
        print_line(console, "train.fast yes has no effect: RESNEXT_FAST=0 turns fast paths off")
    elif world.is_main:
        twin = _prepare_model(model, candidate, Plan(), world.device)
        with show_work(console, f"measuring fast paths {LEAVE_OUT}") as show:
            images = _make_images(model, candidate, micro_batch, world.device)
            plan = autotune(twin, images, train.precision, progress=show)
    return Plan.from_dict(json.loads(world.broadcast_bytes(json.dumps(plan.to_dict()).encode())))


def time_candidates(
    model: Network, plans: dict[Candidate, Plan], micro_batch: tuple[int, int], world: World, train: TrainSettings
) -> dict[Candidate, float]:
    """Time the gradients of a micro-batch for each candidate, interleaved, on copies of the network.

    Returns median seconds, averaged over processes; of a large micro-batch they are scaled up from those of some of its
    images. Frozen layers stay frozen. A single candidate is timed too, because the length of a step decides whether
    tuning fast paths is worth it.
    """
    images_in_all, micro_batch = micro_batch[0], (limit_images(model, micro_batch), micro_batch[1])
    models = {arm: _prepare_model(model, arm, plan, world.device) for arm, plan in plans.items()}
    labels = torch.zeros(micro_batch[0], dtype=torch.long, device=world.device)
    images = {arm: _make_images(model, arm, micro_batch, world.device) for arm in plans}
    seconds: dict[Candidate, list[float]] = {arm: [] for arm in plans}
    for _ in range(ROUNDS + 1):
        for arm, twin in models.items():
            seconds[arm].append(_time_step(twin, images[arm], labels, world.device, train.precision))
    scale = images_in_all / micro_batch[0]
    medians = [scale * statistics.median(times[1:]) for times in seconds.values()]
    return dict(zip(plans, (total / world.size for total in world.all_reduce_sum(medians)), strict=True))


def advise_precision(
    seconds: float,
    plain: Candidate,
    model: Network,
    micro_batch: tuple[int, int],
    world: World,
    train: TrainSettings,
    console: Console,
) -> None:
    """Say so if a micro-batch takes less time in fp32: a CPU without instructions for bf16 emulates them."""
    if train.precision != "bf16" or world.device.type != "cpu" or world.size > 1 or has_bf16():
        return
    fp32 = time_candidates(model, {plain: Plan()}, micro_batch, world, replace(train, precision="fp32"))[plain]
    if fp32 < MAX_TIME_RATIO * seconds:
        times = f"--train.precision fp32 would take {fp32 * 1e3:.0f} ms instead of {seconds * 1e3:.0f}"
        print_line(console, f"bf16 is slower than fp32 on this processor: {times}")


def limit_images(model: Network, micro_batch: tuple[int, int]) -> int:
    """Return how many images of a micro-batch are timed: a signal then waits for about a second at most."""
    count, size = micro_batch
    return min(count, max(2, MAX_TIMED_ACTIVATIONS // (3 * complexity(model.architecture, size).activations)))


def _prepare_model(model: Network, candidate: Candidate, plan: Plan, device: torch.device) -> Network:
    twin = copy.deepcopy(model).to(device)
    plan.apply(twin)
    return twin.to(memory_format=torch.channels_last) if candidate.channels_last else twin


def _make_images(
    model: Network, candidate: Candidate, micro_batch: tuple[int, int], device: torch.device
) -> torch.Tensor:
    """Make random images of the micro-batch's size without changing the global random state."""
    (count, size), channels = micro_batch, model.architecture.in_channels
    images = torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    return images.contiguous(memory_format=torch.channels_last if candidate.channels_last else torch.contiguous_format)


def _time_step(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, device: torch.device, precision: str
) -> float:
    _wait_for_device(device)
    start = time.perf_counter()
    with torch.random.fork_rng(devices=[]), autocast(device, precision):
        logits = model(images)
    F.cross_entropy(logits.float(), labels).backward()
    model.zero_grad(set_to_none=True)
    _wait_for_device(device)
    return time.perf_counter() - start


def _wait_for_device(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
