"""Estimate the cost of a training run on a machine: seconds per step, hours, and the bottleneck.

One training image costs 6 FLOPs per multiply-add (one product forward, two backward) and memory traffic of about 14
passes over the outputs of the convolutions. Each is divided by the machine's peak times one utilisation, and the two
times are added: a layer either computes or moves data. The utilisation is fitted on published and measured training
speeds (``tools/fit_cost_model.py`` writes ``cost_model.json``). A grouped convolution with fewer than ``width``
channels per group costs as much as one with ``width`` channels.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

from resnext.errors import RequestError
from resnext.model.architecture import Architecture
from resnext.planning.machines import Cluster, Machine

FLOPS_PER_MAC = 6
ACTIVATION_PASSES = 14  # over the activations: reads and writes by convolution, BN, ReLU, sum and their gradients
BYTES_PER_VALUE = {"fp32": 4, "tf32": 4, "half": 2}


@dataclass(frozen=True)
class CostModel:
    """The fitted model of ``cost_model.json``. Keys of ``utilisation`` are (machine, kernels)."""

    width: Mapping[str, float]  # kernels -> channels per group below which a grouped convolution gets no cheaper
    utilisation: Mapping[tuple[str, str], float]
    scaling: float  # efficiency on more than one device
    error_measured: float  # relative error on a known machine, for a network left out of the fit
    error_extrapolated: float  # relative error on a machine left out of the fit

    def get_utilisation(self, machine: Machine, kernels: str) -> tuple[float, bool]:
        """Return the utilisation of a machine, and whether it was measured there; else the mean of other machines."""
        if (machine.like, kernels) in self.utilisation:
            return self.utilisation[machine.like, kernels], not machine.extrapolated
        return compute_geometric_mean([u for (_, k), u in self.utilisation.items() if k == kernels]), False


@dataclass(frozen=True)
class Estimate:
    """Estimated time of a run, and its bottleneck."""

    seconds_per_step: float
    images_per_second: float
    hours: float  # of training, without evaluation
    gpu_hours: float
    bottleneck: str  # what limits the speed: arithmetic, memory or data
    cores: float  # per host, to decode and augment as fast as the devices train
    error: float  # relative error, one standard deviation
    extrapolated: bool
    precision: str


@cache
def load_cost_model() -> CostModel:
    """Load the fitted model that comes with the package."""
    values = json.loads(files("resnext.planning").joinpath("cost_model.json").read_text(encoding="utf-8"))
    return CostModel(
        width=values["width"],
        utilisation={(m, k): u for m, by_kernels in values["utilisation"].items() for k, u in by_kernels.items()},
        scaling=values["scaling"],
        error_measured=values["error"]["measured"],
        error_extrapolated=values["error"]["extrapolated"],
    )


def compute_geometric_mean(values: Sequence[float]) -> float:
    """Compute the geometric mean of positive values."""
    return math.exp(sum(map(math.log, values)) / len(values))


def estimate_cost(
    architecture: str | Architecture,
    image_size: int | None,
    images: int,
    cluster: Cluster,
    *,
    batch_size: int = 256,
    precision: str = "half",
    seconds_per_image: float = 0.0,
    cores: int | None = None,
    model: CostModel | None = None,
) -> Estimate:
    """Estimate the cost of training on ``images`` images over all epochs, in steps of ``batch_size`` over all devices.

    Loading an image takes ``seconds_per_image`` of one of ``cores`` cores per host (None: enough). Raises RequestError
    for unknown names, and for a batch size that the devices cannot share evenly.
    """
    model, machine = model or load_cost_model(), cluster.machine
    if images < 1 or batch_size < 1:
        raise RequestError(f"a run needs at least 1 image and a batch size of 1, not {images} and {batch_size}")
    if batch_size % cluster.size:
        raise RequestError(f"batch size {batch_size} is not divisible by the {cluster.size} devices of {cluster}")
    used = machine.resolve_precision(precision)
    arithmetic, traffic = estimate_image_seconds(architecture, image_size, machine, used, model)
    _, measured = model.get_utilisation(machine, machine.kernels or used)
    rate = cluster.size / (arithmetic + traffic) * (model.scaling if cluster.size > 1 else 1.0)
    supply = cores * cluster.hosts / seconds_per_image if cores is not None and seconds_per_image > 0 else float("inf")
    bound = "data" if supply < rate else "arithmetic" if arithmetic > traffic else "memory"
    speed = min(rate, supply)
    hours = images / speed / 3600
    return Estimate(
        seconds_per_step=batch_size / speed,
        images_per_second=speed,
        hours=hours,
        gpu_hours=hours * cluster.size,
        bottleneck=bound,
        cores=rate * seconds_per_image / cluster.hosts,
        error=model.error_measured if measured else model.error_extrapolated,
        extrapolated=not measured,
        precision=used,
    )


def estimate_image_seconds(
    architecture: str | Architecture, image_size: int | None, machine: Machine, precision: str, model: CostModel
) -> tuple[float, float]:
    """Estimate the seconds of one image on one device: for multiply-adds, and for memory traffic."""
    kernels = machine.kernels or precision
    a = Architecture.parse(architecture) if isinstance(architecture, str) else architecture
    macs, activations = count_work(a, image_size, model.width[kernels])
    utilisation, _ = model.get_utilisation(machine, kernels)
    return (
        FLOPS_PER_MAC * macs / (machine.peak[precision] * 1e12 * utilisation),
        ACTIVATION_PASSES * BYTES_PER_VALUE[precision] * activations / (machine.bandwidth * 1e9 * utilisation),
    )


@lru_cache(maxsize=1024)
def count_work(architecture: Architecture, image_size: int | None, width: float) -> tuple[float, int]:
    """Count the effective multiply-adds of one forward pass, and the outputs of the convolutions.

    A group of g < ``width`` channels costs width / g times its multiply-adds, at most as much as a dense convolution.
    """
    macs, activations = 0.0, 0
    for layer in _list_layers(architecture, image_size):
        a_group = layer.output[0] / layer.groups
        macs += layer.macs * (min(max(1.0, width / a_group), layer.groups) if layer.groups > 1 else 1.0)
        activations += layer.activations
    return macs, activations


@lru_cache(maxsize=1024)
def _list_layers(architecture: Architecture, image_size: int | None) -> list[Any]:
    from resnext.model.complexity import compute_layer_costs

    return [layer for layer in compute_layer_costs(architecture, image_size) if layer.macs]
