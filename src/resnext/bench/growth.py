"""``resnext bench growth``: time and memory of a training step as batch, image size and depth grow; and small networks.

Our fast paths are compared with plain PyTorch: the network as ``create_model`` returns it. Points that the same command
has measured on this machine are kept, so an interrupted run continues where it stopped.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnext.bench import results
from resnext.choices import Precision
from resnext.errors import RequestError

if TYPE_CHECKING:
    from rich.console import Console

    from resnext.model.architecture import Architecture

SWEEPS = {  # what grows -> label of the x axis, title of the plot
    "batch": ("images per step", "A training step as the batch grows"),
    "size": ("side of the images (pixels)", "A training step as the images grow"),
    "depth": ("layers", "A training step as the network grows"),
}
SMALL = "small"
DEPTHS = ("resnext50_32x4d", "resnext101_32x4d", "resnext152_32x4d")
SMALL_NETWORKS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("resnext29_4x8d", {"base_channels": 16}),
    (  # the network of the recipe small/fashion-mnist
        "resnext20_4x8d",
        {"base_channels": 16, "blocks": (1, 2, 3), "stage_widths": (32, 64, 256), "stage_channels": (32, 128, 256)},
    ),
)
MACHINE_COLUMNS = ("cpu", "isa", "threads", "torch", "resnext")  # columns in which a kept point must agree


@dataclass(frozen=True)
class SweepPoint:
    """One network and batch to be measured."""

    sweep: str
    value: int
    architecture: "Architecture"
    batch: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Options(results.BenchOptions):
    """The options of ``resnext bench growth``."""

    model: str
    of: Sequence[str]  # sweeps, and SMALL
    batches: Sequence[int]
    sizes: Sequence[int]
    networks: Sequence[str]
    batch: int  # of the other sweeps
    size: int  # of the other sweeps
    rounds: int
    precision: Precision
    again: bool


def run(options: Options) -> int:
    """Run the benchmark; exit status 0. Raises WorkError if a candidate computes something different."""
    options = replace(options, command=options.command.replace(" --again", ""))
    points = {sweep: list_points(sweep, options) for sweep in SWEEPS if sweep in options.of}
    growth, small = (results.prepare_csv(options.out, what) for what in ("growth", SMALL))

    from resnext.screen import make_screen

    console = make_screen()
    for sweep, some in points.items():
        measure_sweep(sweep, some, growth, options, console)
    if SMALL in options.of:
        measure_small(small, options, console)
    return 0


def list_points(sweep: str, options: Options) -> list[SweepPoint]:
    """List the points of a sweep in growing order. Raises RequestError for points that cannot be measured."""
    from resnext.model.stage_table import parse_paper_architecture

    a = parse_paper_architecture(options.model)
    points = {
        "batch": [SweepPoint(sweep, batch, a, batch, options.size) for batch in sorted(set(options.batches))],
        "size": [SweepPoint(sweep, size, a, options.batch, size) for size in sorted(set(options.sizes))],
        "depth": [
            SweepPoint(sweep, b.depth or 0, b, options.batch, options.size)
            for b in map(parse_paper_architecture, options.networks)
        ],
    }[sweep]
    if options.rounds < 1:
        raise RequestError(f"--rounds {options.rounds} must be at least 1")
    for point in points:
        if point.batch < 2:
            raise RequestError(
                f"a batch of {point.batch} is too small: batch norm computes its statistics over the batch"
            )
        point.architecture.check_image_size(point.size, point.size)
    return points


def measure_sweep(sweep: str, points: Sequence[SweepPoint], path: Path, options: Options, console: "Console") -> None:
    """Measure the missing points, write each to the CSV at once, and plot all of them."""
    from resnext.bench.plots import plot_growth
    from resnext.plotting import save_figure

    facts = results.collect_protocol(options.command)
    mine = [row for row in results.read_rows(path) if all(row[key] == facts[key] for key in ("command", "variables"))]
    others = [row for row in mine if row["grows"] != sweep]
    rows: list[Mapping[str, object]] = [
        row
        for row in mine
        if row["grows"] == sweep and not options.again and all(row.get(key) == facts[key] for key in MACHINE_COLUMNS)
    ]
    for point in points:
        if not any(str(row["at"]) == str(point.value) for row in rows):
            rows += measure_point(point, options, console)
            results.write_rows(path, [*others, *rows], facts)
    label, heading = SWEEPS[sweep]
    fixed = {"depth": options.model, "batch": f"batch {options.batch}", "size": f"{options.size}²"}
    said = [text for what, text in fixed.items() if what != sweep]
    said += [options.precision, f"NHWC; medians of {options.rounds} rounds"]
    picture = path.with_name(f"bench-growth-{sweep}.png")
    save_figure(plot_growth(heading, ", ".join(said), label, collect_points(rows)), picture)
    console.print(f"{path}, {picture}")


def measure_point(point: SweepPoint, options: Options, console: "Console") -> list[dict[str, object]]:
    """Measure one point; return its CSV rows, ours first."""
    from resnext.bench.candidates import CandidateSpec, TrainWorkload, measure_candidates
    from resnext.bench.train_step import StepConfig

    configs = [StepConfig(library, options.precision) for library in ("resnext", "plain")]
    entries = [CandidateSpec(str(config), point.architecture, config) for config in configs]
    found = measure_candidates(entries, TrainWorkload(point.batch, point.size), options.rounds, console, memory=True)
    title = f"{point.architecture.name}, batch {point.batch} at {point.size}x{point.size}"
    shown = {name: {"peak MiB": values["peak_mib"]} for name, values in found.columns.items()}
    results.print_timings(console, title, found.timings, entries[0].name, shown)
    more = {name: {"grows": point.sweep, "at": point.value, **values} for name, values in found.columns.items()}
    return results.make_timing_rows(found.timings, entries[0].name, more)


def collect_points(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Collect the points of a plot from CSV rows, in growing order."""
    points: dict[int, dict[str, Any]] = {}
    for row in rows:
        at = int(row["at"])
        point = points.setdefault(at, {"at": at, "name": str(at), "seconds": {}, "mib": {}})
        point["seconds"][row["library"]] = float(row["images"]) / float(row["median_images_per_second"])
        point["mib"][row["library"]] = float(row["peak_mib"])
    return [points[at] for at in sorted(points)]


def measure_small(path: Path, options: Options, console: "Console") -> None:
    """Measure small networks on batches of 64 images of 32x32: ours and plain PyTorch in all precisions and layouts."""
    from resnext.bench.candidates import CandidateSpec, TrainWorkload, measure_candidates
    from resnext.bench.train_step import StepConfig
    from resnext.model.architecture import Architecture

    configs = [StepConfig("resnext", p) for p in ("bf16", "fp32")]
    configs += [StepConfig("plain", p, channels_last=nhwc) for p in ("fp32", "bf16") for nhwc in (False, True)]
    rows: list[dict[str, object]] = []
    for name, changes in SMALL_NETWORKS:
        a = Architecture.parse(name, num_classes=10, **changes)
        entries = [CandidateSpec(str(config), a, config) for config in configs]
        found = measure_candidates(entries, TrainWorkload(64, 32), 5 * options.rounds, console)
        ours = max(found.timings[:2], key=lambda timing: timing.median)
        results.print_timings(console, f"{a.name}, batch 64 at 32x32", found.timings, ours.name)
        rows += results.make_timing_rows(found.timings, ours.name, found.columns)
    results.write_rows(path, rows, results.collect_protocol(options.command))
    console.print(str(path))
