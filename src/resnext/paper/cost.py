"""What a training run costs on a machine: seconds a step, hours, and what bounds it, from counts and a fit.

An image in training costs 6 FLOPs a multiply-add (forward, and two products backward) and about 14 passes over the
outputs of the convolutions. Both are divided by the machine's peak and by one utilisation, fitted on published and
measured training speeds (``tools/fit_cost_model.py`` writes ``cost_model.json``), and added: a layer is either
computing or moving. A grouped convolution with few channels a group costs as much as one with ``width`` channels.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

from resnext.errors import RequestError, nearest
from resnext.model.architecture import Architecture

FLOPS_A_MAC = 6
PASSES = 14  # over the activations; read, write and read again by convolution, BN, ReLU, sum and their gradients
PRECISIONS = ("fp32", "tf32", "half")
BYTES = {"fp32": 4, "tf32": 4, "half": 2}
MOST_DEVICES = 1 << 16
MACHINE = re.compile(r"(?:(?P<first>\d{1,9})\s*x\s*)?(?:(?P<second>\d{1,9})\s*x\s*)?(?P<name>\D.*)", re.IGNORECASE)


@dataclass(frozen=True)
class Machine:
    """One device: its dense peaks in TFLOPS by precision, its memory's GB/s, and whose utilisation it has."""

    name: str
    peak: Mapping[str, float]
    bandwidth: float
    source: str
    like: str  # the machine whose measured utilisation holds for it, mostly itself
    extrapolated: bool = False  # no training speed of it, or of one alike, went into the fit
    kernels: str | None = None  # libraries of another time, with a fit of their own

    def precision(self, wanted: str) -> str:
        """What PyTorch computes in when asked for fp32, tf32, bf16 or half. Raises RequestError."""
        precision = "half" if wanted in ("bf16", "fp16") else wanted
        if precision not in PRECISIONS:
            raise RequestError(f"precision {wanted!r} is unknown{nearest(wanted, (*PRECISIONS, 'bf16'))}")
        if precision == "fp32" and "tf32" in self.peak:
            return "tf32"  # what cuDNN's convolutions do with fp32 by default
        if precision not in self.peak:
            raise RequestError(f"{self.name} has no fast {wanted}; choose from {', '.join(self.peak)}")
        return precision


@dataclass(frozen=True)
class Cluster:
    """``hosts`` times ``devices`` of one machine."""

    machine: Machine
    devices: int = 1  # in each host
    hosts: int = 1

    @property
    def size(self) -> int:
        """Devices of all hosts."""
        return self.hosts * self.devices

    def __str__(self) -> str:
        hosts = f"{self.hosts}x" if self.hosts > 1 else ""
        return f"{hosts}{self.devices}x{self.machine.name}"


@dataclass(frozen=True)
class Model:
    """The fit: see ``cost_model.json``. Keys of ``utilisation`` are (machine, kernels)."""

    width: Mapping[str, float]  # kernels -> channels a group below which a grouped convolution gets no cheaper
    utilisation: Mapping[tuple[str, str], float]
    scaling: float  # share of the speed that is left on more than one device
    error_measured: float  # relative, for a network that was left out on a machine that was not
    error_extrapolated: float  # relative, for a machine that was left out

    def utilisation_of(self, machine: Machine, kernels: str) -> tuple[float, bool]:
        """Its share of the peaks, and whether that was measured on it; else the geometric mean of other machines."""
        if (machine.like, kernels) in self.utilisation:
            return self.utilisation[machine.like, kernels], not machine.extrapolated
        return geometric_mean([u for (_, k), u in self.utilisation.items() if k == kernels]), False


@dataclass(frozen=True)
class Estimate:
    """What a run takes, and why."""

    seconds_a_step: float
    images_per_second: float
    hours: float  # of training; evaluation is not counted
    gpu_hours: float
    bound: str  # arithmetic, memory or data
    arithmetic: float  # share of a step's computation that is multiply-adds and not memory traffic
    cores: float  # that decode and augment as fast, each host's
    error: float  # relative, one standard deviation
    extrapolated: bool
    precision: str


def machines() -> dict[str, Machine]:
    """The machines of ``machines.json`` by name."""
    values = json.loads(files("resnext.paper").joinpath("machines.json").read_text(encoding="utf-8"))
    return {name: Machine(name=name, **({"like": name} | facts)) for name, facts in values.items()}


@cache
def fitted() -> Model:
    """The fit that comes with the package."""
    values = json.loads(files("resnext.paper").joinpath("cost_model.json").read_text(encoding="utf-8"))
    return Model(
        width=values["width"],
        utilisation={(m, k): u for m, by_kernels in values["utilisation"].items() for k, u in by_kernels.items()},
        scaling=values["scaling"],
        error_measured=values["error"]["measured"],
        error_extrapolated=values["error"]["extrapolated"],
    )


def geometric_mean(values: Sequence[float]) -> float:
    """Of values above 0."""
    return math.exp(sum(map(math.log, values)) / len(values))


def parse_cluster(text: str) -> Cluster:
    """``H100``, ``8xH100`` or ``4x8xH100`` (hosts x devices x machine). Raises RequestError."""
    match = MACHINE.fullmatch(text.strip())
    if match is None:
        raise RequestError(f"{text!r} is no machine: write one such as H100, 8xH100 or, for four hosts, 4x8xH100")
    hosts, devices = (
        (int(match["first"] or 1), int(match["second"])) if match["second"] else (1, int(match["first"] or 1))
    )
    if not 1 <= hosts * devices <= MOST_DEVICES:
        raise RequestError(f"{text!r} has {hosts * devices} devices; write 1 to {MOST_DEVICES}")
    return Cluster(find_machine(match["name"]), devices, hosts)


def find_machine(name: str) -> Machine:
    """By name, whatever its case and spaces; ``this`` is the processor here, measured. Raises RequestError."""
    if _plain(name) == "this":
        from resnext.paper.this_machine import measure

        return measure()
    known = machines()
    for machine in known.values():
        if _plain(machine.name) == _plain(name):
            return machine
    raise RequestError(f"machine {name.strip()!r} is unknown{nearest(name.strip(), [*known, 'this'])}")


def estimate(
    architecture: str | Architecture,
    image_size: int | None,
    images: int,
    cluster: Cluster,
    *,
    batch_size: int = 256,
    precision: str = "half",
    seconds_an_image: float = 0.0,
    cores: int | None = None,
    model: Model | None = None,
) -> Estimate:
    """The cost of training on ``images`` images (those of all epochs), ``batch_size`` a step over all devices.

    ``seconds_an_image`` is what one core takes to decode and augment an image, and ``cores`` how many each host has for
    that; None means enough. Raises RequestError for unknown names and for sizes that do not fit.
    """
    model = model or fitted()
    if images < 1 or batch_size < 1:
        raise RequestError(f"a run has at least 1 image and a batch of 1, not {images} and {batch_size}")
    if batch_size % cluster.size:
        raise RequestError(f"batch size {batch_size} does not divide into the {cluster.size} devices of {cluster}")
    machine = cluster.machine
    used = machine.precision(precision)
    arithmetic, traffic = seconds(architecture, image_size, machine, used, model)
    _, measured = model.utilisation_of(machine, machine.kernels or used)
    rate = cluster.size / (arithmetic + traffic) * (model.scaling if cluster.size > 1 else 1.0)
    supply = cores * cluster.hosts / seconds_an_image if cores is not None and seconds_an_image > 0 else float("inf")
    bound = "data" if supply < rate else "arithmetic" if arithmetic > traffic else "memory"
    speed = min(rate, supply)
    hours = images / speed / 3600
    return Estimate(
        seconds_a_step=batch_size / speed,
        images_per_second=speed,
        hours=hours,
        gpu_hours=hours * cluster.size,
        bound=bound,
        arithmetic=arithmetic / (arithmetic + traffic),
        cores=rate * seconds_an_image / cluster.hosts,
        error=model.error_measured if measured else model.error_extrapolated,
        extrapolated=not measured,
        precision=used,
    )


def seconds(
    architecture: str | Architecture, image_size: int | None, machine: Machine, precision: str, model: Model
) -> tuple[float, float]:
    """Seconds that one image takes on one device: multiply-adds, and memory traffic."""
    kernels = machine.kernels or precision
    a = Architecture.parse(architecture) if isinstance(architecture, str) else architecture
    macs, activations = work(a, image_size, model.width[kernels])
    utilisation, _ = model.utilisation_of(machine, kernels)
    return (
        FLOPS_A_MAC * macs / (machine.peak[precision] * 1e12 * utilisation),
        PASSES * BYTES[precision] * activations / (machine.bandwidth * 1e9 * utilisation),
    )


@lru_cache(maxsize=1024)
def work(architecture: Architecture, image_size: int | None, width: float) -> tuple[float, int]:
    """Multiply-adds of one forward pass as grouped convolutions make them cost, and outputs of the convolutions.

    A group of g < ``width`` channels costs width / g times its multiply-adds, at most what a dense convolution would.
    """
    macs, activations = 0.0, 0
    for layer in _layers(architecture, image_size):
        a_group = layer.output[0] / layer.groups
        macs += layer.macs * (min(max(1.0, width / a_group), layer.groups) if layer.groups > 1 else 1.0)
        activations += layer.activations
    return macs, activations


@lru_cache(maxsize=1024)
def _layers(architecture: Architecture, image_size: int | None) -> list[Any]:
    from resnext.model.complexity import layer_costs

    return [layer for layer in layer_costs(architecture, image_size) if layer.macs]


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).lower()
