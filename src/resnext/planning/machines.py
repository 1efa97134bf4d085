"""The machines of ``machines.json`` and the processor here, and clusters of them such as 4x8xH100."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from resnext.errors import RequestError, did_you_mean

PRECISIONS = ("fp32", "tf32", "half")
MAX_DEVICES = 1 << 16
MACHINE_PATTERN = re.compile(
    r"(?:(?P<first>\d{1,9})\s*x\s*)?(?:(?P<second>\d{1,9})\s*x\s*)?(?P<name>\D.*)", re.IGNORECASE
)


@dataclass(frozen=True)
class Machine:
    """One device: dense peak TFLOPS by precision, memory bandwidth in GB/s, and whose utilisation applies."""

    name: str
    peak: Mapping[str, float]
    bandwidth: float
    source: str
    like: str  # the machine whose measured utilisation applies, mostly itself
    extrapolated: bool = False  # the fit has no training speed of this machine or a similar one
    kernels: str | None = None  # older libraries (Torch7) that have a fit of their own

    def resolve_precision(self, wanted: str) -> str:
        """Return the precision that PyTorch uses when asked for fp32, tf32, bf16 or half.

        Raises RequestError if the machine does not support it.
        """
        precision = "half" if wanted in ("bf16", "fp16") else wanted
        if precision not in PRECISIONS:
            raise RequestError(f"precision {wanted!r} is unknown{did_you_mean(wanted, (*PRECISIONS, 'bf16'))}")
        if precision == "fp32" and "tf32" in self.peak:
            return "tf32"  # the default of cuDNN's convolutions for fp32
        if precision not in self.peak:
            raise RequestError(f"{self.name} has no fast {wanted}; choose from {', '.join(self.peak)}")
        return precision


@dataclass(frozen=True)
class Cluster:
    """Hosts with the same number of devices of one machine."""

    machine: Machine
    devices: int = 1  # per host
    hosts: int = 1

    @property
    def size(self) -> int:
        """Number of devices over all hosts."""
        return self.hosts * self.devices

    def __str__(self) -> str:
        hosts = f"{self.hosts}x" if self.hosts > 1 else ""
        return f"{hosts}{self.devices}x{self.machine.name}"


def load_machines() -> dict[str, Machine]:
    """Load the machines of ``machines.json`` by name."""
    values = json.loads(files("resnext.planning").joinpath("machines.json").read_text(encoding="utf-8"))
    return {name: Machine(name=name, **({"like": name} | facts)) for name, facts in values.items()}


def parse_cluster(text: str) -> Cluster:
    """Parse ``H100``, ``8xH100`` or ``4x8xH100`` (hosts x devices x machine). Raises RequestError."""
    match = MACHINE_PATTERN.fullmatch(text.strip())
    if match is None:
        raise RequestError(f"{text!r} is not a machine; write H100, 8xH100 or, for four hosts, 4x8xH100")
    hosts, devices = (
        (int(match["first"] or 1), int(match["second"])) if match["second"] else (1, int(match["first"] or 1))
    )
    if not 1 <= hosts * devices <= MAX_DEVICES:
        raise RequestError(f"{text!r} has {hosts * devices} devices; from 1 to {MAX_DEVICES} are possible")
    return Cluster(find_machine(match["name"]), devices, hosts)


def find_machine(name: str) -> Machine:
    """Find a machine by name, ignoring case and spaces; ``this`` measures the processor here. Raises RequestError."""
    if _normalize(name) == "this":
        return _measure_this_machine()
    known = load_machines()
    for machine in known.values():
        if _normalize(machine.name) == _normalize(name):
            return machine
    raise RequestError(f"machine {name.strip()!r} is unknown{did_you_mean(name.strip(), [*known, 'this'])}")


def _measure_this_machine() -> Machine:
    """Describe the processor here: its peaks are measured, its utilisation is that of the processor in the fit."""
    from resnext.planning.this_machine import measure_peaks

    peak, bandwidth, threads = measure_peaks()
    return Machine("this", peak, bandwidth, f"measured here, {threads} threads", like="Xeon-2core", extrapolated=True)


def _normalize(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).lower()
