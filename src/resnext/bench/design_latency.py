"""Find the network with the most multiply-adds whose measured latency on this machine stays within a budget.

Equal complexity is not equal speed: how fast a group of d channels runs depends on the engine and on the processor. So
C and d (and the depth) are chosen by measurement, in few of them: the search goes on with the depth and cardinality
that promise the most, and ends when no other promises more than what has been measured to hold. Latency is taken to
rise with d; where it does not, as between multiples of 8 channels, a better network can be missed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from resnext.bench.latency import Latency, LatencyRequest, measure_latencies
from resnext.bench.peers import stabilize_weights
from resnext.errors import RequestError
from resnext.model.architecture import Architecture
from resnext.model.complexity import ImageSize
from resnext.model.design import PAPER_DEPTHS, compute_upper_bound, design, fit_network_cost
from resnext.model.network import create_model

CARDINALITIES = (1, 2, 4, 8, 16, 32)
MEASUREMENTS = 24

Score = Callable[[Architecture], float]  # what is maximised; it must rise with the width d


@dataclass(frozen=True)
class MeasuredNetwork:
    """A network whose latency was measured."""

    architecture: Architecture
    latency: Latency
    holds: bool  # whether the latency is within the budget


@dataclass(eq=False)
class _Family:
    """The networks of one depth and cardinality, by width."""

    base: Architecture  # with width 1
    image_size: ImageSize
    budget: float  # milliseconds
    multiple: int  # widths are multiples of this number; below, they are counted in it
    measured: dict[int, float] = field(default_factory=dict)  # d / multiple -> milliseconds

    def build(self, width: int) -> Architecture:
        return self.base.change(width=width * self.multiple)

    @cached_property
    def count_macs(self) -> Callable[[int], int]:
        return fit_network_cost(self.build, "macs", self.image_size)

    @property
    def bounds(self) -> tuple[int, int]:
        """The largest width that holds (0: none), and the smallest above it that does not."""
        low = max((d for d, ms in self.measured.items() if ms <= self.budget), default=0)
        beyond = compute_upper_bound(self.base) // self.multiple + 1
        return low, min((d for d, ms in self.measured.items() if ms > self.budget and d > low), default=beyond)

    def guess(self, milliseconds_per_mac: float) -> int | None:
        """Return the width to measure next, None if nothing is left between the bounds."""
        low, high = self.bounds
        if high - low < 2:
            return None
        if self.measured:  # scale the cost of the nearest width by what it took
            nearest = min(self.measured, key=lambda d: abs(self.measured[d] - self.budget))
            milliseconds_per_mac = self.measured[nearest] / self.count_macs(nearest)
        first, last = low + 1, high - 1
        while first < last:  # the largest width that is expected to hold
            middle = (first + last + 1) // 2
            if self.count_macs(middle) * milliseconds_per_mac <= self.budget:
                first = middle
            else:
                last = middle - 1
        return first


def design_for_latency(
    milliseconds: float,
    request: LatencyRequest = LatencyRequest(),  # noqa: B008 - frozen
    *,
    depth: int | None = None,
    cardinality: int | None = None,
    multiple: int = 1,
    measurements: int = MEASUREMENTS,
    score: Score | None = None,
    report: Callable[[MeasuredNetwork, int], None] = lambda *_: None,
    **changes: Any,
) -> list[MeasuredNetwork]:
    """Measure networks of several depths, cardinalities and widths; return those measured, the chosen one first.

    Args:
        milliseconds: Budget for one image on this machine's CPU.
        request: Engine, precision and image size.
        depth: Layers; by default those of the paper's networks.
        cardinality: C; by default 1, 2, 4, 8, 16, 32.
        multiple: d is a multiple of this number. Engines compute multiples of 4 or 8 channels faster.
        measurements: At most so many networks are measured.
        score: What the chosen network has most of; by default multiply-adds.
        report: Called with each network and the number of measurements so far.
        changes: Other fields of Architecture (``stem``, ``num_classes``, ...).

    Raises:
        RequestError: An engine is missing, an argument is invalid, or no network that was measured holds the budget.
    """
    if not 0 < milliseconds < float("inf"):
        raise RequestError(f"a latency must be a number of milliseconds above 0, not {milliseconds:g}")
    if measurements < 1 or multiple < 1:
        raise RequestError(f"measurements and multiple must be at least 1, not {measurements} and {multiple}")
    request.check()
    families = [
        _Family(base, request.image_size, milliseconds, multiple) for base in _list_bases(depth, cardinality, changes)
    ]
    found: list[MeasuredNetwork] = []

    def measure(family: _Family, width: int) -> float:
        network = stabilize_weights(create_model(family.build(width), seed=0)).eval()
        (latency,) = measure_latencies([network], request)
        family.measured[width] = latency.milliseconds
        holds = latency.milliseconds <= milliseconds
        found.append(MeasuredNetwork(network.architecture, latency, holds))
        report(found[-1], len(found))
        return latency.milliseconds / family.count_macs(width)

    first = families[0]
    start = design(first.base.depth, first.base.cardinality, **changes).width or 1
    rate = measure(first, max(1, round(start / multiple)))
    for family in families[1:]:
        if len(found) < measurements:
            rate = measure(family, family.guess(rate) or 1)
    rated = score or (lambda a: fit_network_cost(lambda n: a.change(width=n), "macs", request.image_size)(a.width or 1))
    while len(found) < measurements:
        best = max((rated(one.architecture) for one in found if one.holds), default=0.0)
        promising = [
            (rated(family.build(width)), number, width)
            for number, family in enumerate(families)
            if (width := family.guess(rate)) is not None
        ]
        most, number, width = max(promising, default=(0.0, 0, 0))
        if most <= best:
            break
        measure(families[number], width)
    return _sort(found, rated, milliseconds)


def _list_bases(depth: int | None, cardinality: int | None, changes: dict[str, Any]) -> list[Architecture]:
    """List networks of width 1 for all depths and cardinalities, those with the most paths first."""
    stem = changes.get("stem") or Architecture.parse(f"resnet{depth or 50}").stem
    depths = PAPER_DEPTHS[stem] if depth is None and changes.get("blocks") is None else (depth,)
    cardinalities = CARDINALITIES if cardinality is None else (cardinality,)
    return [design(d, c, **changes).change(width=1) for d in depths for c in sorted(cardinalities, reverse=True)]


def _sort(found: Sequence[MeasuredNetwork], score: Score, budget: float) -> list[MeasuredNetwork]:
    """Sort by score, those that hold the budget first. Raises RequestError if none does."""
    if not any(one.holds for one in found):
        fastest = min(found, key=lambda one: one.latency.milliseconds)
        raise RequestError(
            f"no network holds {budget:g} ms here: the fastest of {len(found)} measured, {fastest.architecture.name}, "
            f"takes {fastest.latency.milliseconds:.3g} ms on {fastest.latency.engine}; more --measurements may find one"
        )
    return sorted(found, key=lambda one: (one.holds, score(one.architecture)), reverse=True)
