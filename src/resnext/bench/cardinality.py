"""``resnext bench cardinality``: training speed over cardinality at equal complexity (networks of Table 2)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resnext.bench import results
from resnext.bench.measure import Timing, compute_speed_ratio
from resnext.bench.train import check_numbers
from resnext.choices import Precision

if TYPE_CHECKING:
    from rich.console import Console

NETWORKS = ("resnet50", "resnext50_2x40d", "resnext50_4x24d", "resnext50_8x14d", "resnext50_32x4d")


@dataclass(frozen=True, kw_only=True)
class Options(results.BenchOptions):
    """The options of ``resnext bench cardinality``."""

    networks: Sequence[str]
    batch: int
    size: int
    rounds: int
    peers: Sequence[str] | None
    precision: Precision


def run(options: Options) -> int:
    """Run the benchmark; exit status 0. Raises WorkError if a candidate computes something different."""
    from resnext.bench.peers import OURS, choose_peers
    from resnext.model.stage_table import parse_paper_architecture

    check_numbers(options.batch, options.rounds, options.size)
    networks = {a.name: a for a in map(parse_paper_architecture, options.networks)}
    for a in networks.values():
        a.check_image_size(options.size, options.size)
        peers = choose_peers(options.peers, a)
    path = results.prepare_csv(options.out, "cardinality")

    from resnext.bench.candidates import CandidateSpec, TrainWorkload, measure_candidates
    from resnext.bench.plots import plot_cardinality
    from resnext.bench.train_step import StepConfig
    from resnext.plotting import save_figure
    from resnext.screen import make_screen

    console = make_screen()
    libraries = [OURS, *peers]
    entries = [
        CandidateSpec(f"{name}: {library}", a, StepConfig(library, options.precision))
        for name, a in networks.items()
        for library in libraries
    ]
    found = measure_candidates(entries, TrainWorkload(options.batch, options.size), options.rounds, console)
    timings = {t.name: t for t in found.timings}
    lines = {library: [timings[f"{name}: {library}"] for name in networks] for library in libraries}
    more = {e.name: found.columns[e.name] | {"cardinality": e.architecture.cardinality} for e in entries}
    rows = [
        row
        for name in networks
        for row in results.make_timing_rows(
            [timings[f"{name}: {library}"] for library in libraries], f"{name}: {OURS}", more
        )
    ]
    results.write_rows(path, rows, results.collect_protocol(options.command))
    settings = [f"{a.cardinality}×{a.width}d" for a in networks.values()]
    size = f"{options.size}×{options.size}"
    said = f"batch {options.batch}, {size}, {options.precision}, NHWC; medians of {options.rounds} rounds"
    save_figure(plot_cardinality(settings, lines, said), path.with_suffix(".png"))
    print_speeds(console, list(networks), lines)
    console.print(f"{path}, {path.with_suffix('.png')}")
    return 0


def print_speeds(console: "Console", names: Sequence[str], lines: Mapping[str, Sequence[Timing]]) -> None:
    """Print one row per network and one column per library, then each library's slowest speed over its fastest."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", title="Training, images/s", title_justify="left", title_style="bold")
    table.add_column("network")
    for library in lines:
        table.add_column(library, justify="right")
    for number, name in enumerate(names):
        table.add_row(name, *(f"{timings[number].median:.3g}" for timings in lines.values()))
    flatness = [f"{compute_flatness(timings):.2f}" for timings in lines.values()]
    table.add_row("slowest / fastest", *flatness, style="bold")
    console.print(table)


def compute_flatness(timings: Sequence[Timing]) -> float:
    """Compute the slowest speed over the fastest, from the speed ratios within each round."""
    first = timings[0]
    relative = [compute_speed_ratio(timing, first)[0] for timing in timings]
    return min(relative) / max(relative)
