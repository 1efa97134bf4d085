"""A row filled in: what the paper says, what can be counted, what was timed here, what was measured."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from resnext.model.architecture import Architecture
from resnext.model.complexity import Complexity, complexity, get_default_image_size
from resnext.model.design import count_template_parameters, design
from resnext.paper import throughput
from resnext.paper.measurements import Measurement, collect_measurement
from resnext.paper.numbers import Column, Row, Table
from resnext.paper.throughput import TimingRequest

UNITS = {"k": 1e3, "M": 1e6, "G": 1e9}
CLAIM = re.compile(r"(\d+(?:\.(\d+))?) ([kMG])")
TEMPLATE_MAP = 56 * 56  # output pixels of conv2, where the template block stands
TIMED_IN_TRAINING = ("timing",)  # tables about the time of training


@dataclass(frozen=True)
class Entry:
    """One row of a table with everything known of it."""

    row: Row
    measurement: Measurement | None = None
    speed: float | None = None  # images a second in inference here
    training_speed: float | None = None

    @cached_property
    def architecture(self) -> Architecture | None:
        """The row's network; None where it is not of this family."""
        return self.row.architecture()

    @cached_property
    def cost(self) -> Complexity | None:
        """Its cost at the paper's image size."""
        return None if self.architecture is None else complexity(self.architecture)

    def counted(self, what: str) -> int | None:
        """Our count of what a claim is about: parameters (without BN, as the paper), macs, block_parameters ..."""
        if self.architecture is None or self.cost is None:
            return None
        return {
            "parameters": self.cost.parameters_without_bn,
            "macs": self.cost.macs,
            "block_parameters": count_template_parameters(self.architecture),
            "block_macs": count_template_parameters(self.architecture) * TEMPLATE_MAP,
        }[what]

    def differs(self) -> list[str]:
        """The claims that our count does not round to."""
        return [what for what, text in self.row.claims.items() if not matches_claim(text, self.counted(what))]

    def solved(self, column: Column) -> int | None:
        """A printed quantity that Table 2 solves for: d, or C times d, at the original block's parameters."""
        if column.key not in ("width", "group_width") or self.architecture is None:
            return None
        found = design(self.architecture.depth, self.architecture.cardinality)
        assert found.width is not None
        return found.width if column.key == "width" else found.width * found.cardinality


def matches_claim(claim: str, count: int | None) -> bool:
    """Whether ``count`` rounds to what is printed, such as ``25.5 M``."""
    match = CLAIM.fullmatch(claim)
    assert match is not None, claim
    if count is None:
        return False
    return f"{count / UNITS[match[3]]:.{len(match[2] or '')}f}" == match[1]


def collect_entries(table: Table, runs: Path, results: Path | None) -> list[Entry]:
    """The entries of a table without timings."""
    return [
        Entry(row, None if row.recipe is None else collect_measurement(row.recipe, runs, results)) for row in table.rows
    ]


def collect_timed_entries(
    table: Table, runs: Path, results: Path | None, speeds: Mapping[str, float] | None = None
) -> list[Entry]:
    """The entries of a table; ``speeds`` as ``throughput.known`` gives them."""
    here = throughput.describe_machine()
    speeds = throughput.read_throughputs() if speeds is None else speeds
    timed = []
    for entry in collect_entries(table, runs, results):
        found = {w.kind: speeds.get(w.make_key(here)) for w in list_timings(entry.row, table)}
        timed.append(replace(entry, speed=found.get("inference"), training_speed=found.get("training")))
    return timed


def list_timings(row: Row, table: Table) -> list[TimingRequest]:
    """The timings that belong to a row."""
    a = row.architecture()
    if a is None:
        return []
    kinds = throughput.KINDS if table.name in TIMED_IN_TRAINING else throughput.KINDS[:1]
    return [TimingRequest(a, get_default_image_size(a), kind) for kind in kinds]


def measure_timings(
    table: Table, progress: Callable[[int, int], None] | None = None, again: bool = False
) -> dict[str, float]:
    """Time on this machine a table's networks that were not timed before, or ``again`` all; gives all timings."""
    wanted = [w for row in table.rows for w in list_timings(row, table)]
    return throughput.measure_throughputs(wanted, progress=progress, force=again)
