"""The rows of ``bench serve``: what a load gave, in the columns of the CSV and of the table."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from resnext.bench.serve_children import Measured
from resnext.bench.serve_load import LoadResult

if TYPE_CHECKING:
    from rich.console import Console

JPEG, TENSORS, NAIVE = "JPEG", "tensors", "JPEG to naive FastAPI"
HEADINGS = {
    "sent": "",
    "clients": "clients",
    "images_per_second": "images/s",
    "of_ceiling": "of ceiling",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "healthz_p99_ms": "/healthz p99",
    "rss_mib": "RSS MiB",
    "server_threads": "threads",
    "client_cores": "client cores",
    "statuses": "statuses",
}


@dataclass
class Series:
    """All rounds of one load."""

    sent: str  # JPEG, TENSORS or NAIVE
    clients: int
    rounds: list[Measured] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)  # images per second
    shares: list[float] = field(default_factory=list)  # of the ceiling of the same round

    def add(self, measured: Measured, ceiling: float) -> None:
        """Add a round, with the images per second of the ceiling in it."""
        self.rounds.append(measured)
        self.rates.append(measured.load.count(200) / measured.load.seconds)
        self.shares.append(self.rates[-1] / ceiling)

    @property
    def waits(self) -> list[float]:
        """The seconds of all requests that were answered with 200."""
        return [seconds for one in self.rounds for seconds in one.load.list_latencies(200)]

    @property
    def point(self) -> tuple[int, float, float]:
        """Clients, images per second, and the 99th percentile of the seconds of a request."""
        return self.clients, statistics.median(self.rates), compute_percentile(self.waits, 99) or 0.0


def compute_percentile(seconds: Sequence[float], percent: float) -> float | None:
    """Return the smallest value that ``percent`` of all do not exceed; None without values."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else None


def format_milliseconds(seconds: Sequence[float], percent: float) -> str:
    """Format a percentile in milliseconds; empty without values."""
    value = compute_percentile(seconds, percent)
    return "" if value is None else f"{1000 * value:.1f}"


def describe_load(sent: str, clients: int | str, rounds: Sequence[Measured]) -> dict[str, object]:
    """Make the columns that every load has: latencies, probes, what the processes took, and the statuses."""
    waits = [seconds for one in rounds for seconds in one.load.list_latencies(200)]
    loads, states = [one.load for one in rounds], [one.state for one in rounds]
    probes = [seconds for one in rounds for key, found in one.probes.latencies.items() for seconds in found
              if not key.startswith("/healthz")]  # fmt: skip
    health = [seconds for one in rounds for seconds in one.probes.latencies.get("/healthz 200", [])]
    return {
        "sent": sent,
        "clients": clients,
        "rounds": len(rounds),
        "answers": len(waits),
        "p50_ms": format_milliseconds(waits, 50),
        "p99_ms": format_milliseconds(waits, 99),
        "healthz_p99_ms": format_milliseconds(health, 99),
        "other_probes_p99_ms": format_milliseconds(probes, 99),
        "rss_mib": f"{max(state.rss_mib for state in states):.0f}",
        "server_threads": max(state.threads for state in states),
        "server_cores": f"{sum(s.cpu_seconds for s in states) / sum(one.wall_seconds for one in rounds):.2f}",
        "client_cores": f"{sum(one.cpu_seconds for one in loads) / sum(one.seconds for one in loads):.2f}",
        "statuses": format_statuses(loads, [one.probes for one in rounds]),
    }


def make_row(series: Series) -> dict[str, object]:
    """Make the row of a closed loop."""
    return describe_load(series.sent, series.clients, series.rounds) | {
        "images_per_second": f"{statistics.median(series.rates):.4g}",
        "lowest_images_per_second": f"{min(series.rates):.4g}",
        "highest_images_per_second": f"{max(series.rates):.4g}",
        "of_ceiling": f"{statistics.median(series.shares):.3f}",
    }


def make_ceiling_row(sent: str, rates: Sequence[float]) -> dict[str, object]:
    """Make the row of the network without a server."""
    return {
        "sent": f"{sent}, no server",
        "rounds": len(rates),
        "images_per_second": f"{statistics.median(rates):.4g}",
        "lowest_images_per_second": f"{min(rates):.4g}",
        "highest_images_per_second": f"{max(rates):.4g}",
    }


def format_statuses(loads: Sequence[LoadResult], probes: Sequence[LoadResult]) -> str:
    """Format how often each status came, such as ``200: 512, 429: 3``; ``probe 503: 1`` for probes that failed."""
    counts: dict[str, int] = {}
    for load in loads:
        for key, found in load.latencies.items():
            status = key.split()[1]
            counts[status] = counts.get(status, 0) + len(found)
        for name, number in (("lost", load.lost), ("reset", load.reset), ("unsent", load.unsent)):
            if number:
                counts[name] = counts.get(name, 0) + number
    for probe in probes:
        for key, found in probe.latencies.items():
            if not key.endswith(" 200"):
                name = f"probe {key.split()[1]}"
                counts[name] = counts.get(name, 0) + len(found)
        if probe.lost or probe.reset:
            counts["probes lost"] = counts.get("probes lost", 0) + probe.lost + probe.reset
    return ", ".join(f"{name}: {count}" for name, count in counts.items())


def print_rows(console: "Console", rows: Sequence[Mapping[str, object]], title: str) -> None:
    """Print the rows as a table."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", title=title, title_justify="left", title_style="bold")
    for key, heading in HEADINGS.items():
        table.add_column(heading, justify="left" if key in ("sent", "statuses") else "right")
    for row in rows:
        table.add_row(*(str(row.get(key, "")) for key in HEADINGS))
    console.print(table)
