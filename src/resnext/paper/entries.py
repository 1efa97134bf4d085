"""A row of a table with everything known of it: printed, counted, timed here, and measured."""

import re
from collections.abc import Mapping
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

NONE = "–"  # an empty cell
UNITS = {"k": 1e3, "M": 1e6, "G": 1e9}
CLAIM = re.compile(r"(\d+(?:\.(\d+))?) ([kMG])")
TEMPLATE_MAP = 56 * 56  # output pixels of conv2, where the template block stands


@dataclass(frozen=True)
class Entry:
    """A row of a table with its measurement and timings."""

    row: Row
    measurement: Measurement | None = None
    speed: float | None = None  # images a second in inference here
    training_speed: float | None = None

    @cached_property
    def architecture(self) -> Architecture | None:
        """The row's network; None if it is of another family."""
        return self.row.architecture()

    @cached_property
    def cost(self) -> Complexity | None:
        """Its cost at the paper's image size."""
        return None if self.architecture is None else complexity(self.architecture)

    def count(self, what: str) -> int | None:
        """Count what a claim is about: parameters (without BN, as the paper), macs, block_parameters ..."""
        if self.architecture is None or self.cost is None:
            return None
        return {
            "parameters": self.cost.parameters_without_bn,
            "macs": self.cost.macs,
            "block_parameters": count_template_parameters(self.architecture),
            "block_macs": count_template_parameters(self.architecture) * TEMPLATE_MAP,
        }[what]

    def list_wrong_claims(self) -> list[str]:
        """List the claims that our count does not round to."""
        return [what for what, text in self.row.claims.items() if not matches_claim(text, self.count(what))]

    def solve_width(self, column: Column) -> int | None:
        """Solve for a width of Table 2 (d, or C times d) at the parameters of the original block; else None."""
        if column.key not in ("width", "group_width") or self.architecture is None:
            return None
        found = design(self.architecture.depth, self.architecture.cardinality)
        assert found.width is not None
        return found.width if column.key == "width" else found.width * found.cardinality

    def format_published(self, column: Column) -> str:
        """Format the printed value, as ``23.9`` or, with its standard error, ``3.654 ± 0.041``."""
        value, error = self.row.published.get(column.key), self.row.errors.get(column.key)
        if value is None:
            return NONE
        return f"{value:.{column.decimals}f}" + (f" ± {error:.{column.decimals}f}" if error is not None else "")

    def format_state(self) -> str:
        """Format the state of the runs, as ``missing``, ``finished``, or ``running, epoch 43 of 100``."""
        if self.measurement is None:
            return NONE
        state = self.measurement.state
        if state not in ("running", "stopped"):
            return state
        run = max((r for r in self.measurement.runs if r.state == state), key=lambda r: r.step)
        return f"{state}, {run.progress}"


def matches_claim(claim: str, count: int | None) -> bool:
    """Return whether ``count`` rounds to what is printed, such as ``25.5 M``."""
    match = CLAIM.fullmatch(claim)
    assert match is not None, claim
    if count is None:
        return False
    return f"{count / UNITS[match[3]]:.{len(match[2] or '')}f}" == match[1]


def collect_entries(table: Table, runs: Path, results: Path | None) -> list[Entry]:
    """Collect the entries of a table, without timings."""
    return [
        Entry(row, None if row.recipe is None else collect_measurement(row.recipe, runs, results)) for row in table.rows
    ]


def collect_timed_entries(
    table: Table, runs: Path, results: Path | None, speeds: Mapping[str, float] | None = None
) -> list[Entry]:
    """Collect the entries with timings; ``speeds`` is what ``measure_throughputs`` returns, or the cache."""
    here, speeds = throughput.describe_machine(), throughput.read_throughputs() if speeds is None else speeds
    timed = []
    for entry in collect_entries(table, runs, results):
        found = {w.kind: speeds.get(w.make_key(here)) for w in list_timings(entry.row, table)}
        timed.append(replace(entry, speed=found.get("inference"), training_speed=found.get("training")))
    return timed


def list_timings(row: Row, table: Table) -> list[TimingRequest]:
    """List the timings of a row."""
    a = row.architecture()
    if a is None:
        return []
    kinds = throughput.KINDS if table.name == "timing" else throughput.KINDS[:1]
    return [TimingRequest(a, get_default_image_size(a), kind) for kind in kinds]
