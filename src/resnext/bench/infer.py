"""``resnext bench infer``: inference speed of our engines, compared with other libraries."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from resnext.bench import results
from resnext.choices import EngineChoice, EnginePrecision
from resnext.errors import RequestError, did_you_mean

if TYPE_CHECKING:
    from resnext.bench.infer_candidates import InferWorkload
    from resnext.bench.measure import Timing

SUMMARY = "Measure inference speed of each engine, compared with other libraries."


@dataclass(frozen=True, kw_only=True)
class Options(results.BenchOptions):
    """The options of ``resnext bench infer``."""

    model: str
    batch: Sequence[int]
    size: int | None
    precision: Sequence[EnginePrecision]
    engine: EngineChoice
    threads: int | None
    rounds: int
    memory: bool
    no_peers: bool
    calibration: str | None


def run(options: Options) -> int:
    """Measure, print and write ``bench-infer.csv``; for a run also the accuracy lost in each precision."""
    import torch

    from resnext.bench.infer_accuracy import measure_accuracy, open_held_out_images
    from resnext.bench.infer_candidates import InferWorkload, load_network
    from resnext.deploy.network_engine import get_expected_image_size
    from resnext.run_directory import check_run_kind
    from resnext.screen import make_screen

    path, console = results.prepare_csv(options.out, "infer"), make_screen()
    if options.threads is not None:
        if options.threads < 1:
            raise RequestError(f"--threads {options.threads} must be at least 1")
        torch.set_num_threads(options.threads)
    check_precisions(options)
    check_run_kind(options.model, "classification", "resnext bench detect NETWORK, which measures detectors")
    network, calibration = load_network(options.model, options.precision, options.calibration, options.size)
    held_out = open_held_out_images(options.model)
    size = options.size or get_expected_image_size(network)
    rows: list[dict[str, object]] = []
    for batch in options.batch:
        case = InferWorkload(
            network, options.model, batch, size, tuple(options.precision), options.engine, calibration, options.no_peers
        )
        rows += measure_workload(case, options, console)
    rows += measure_accuracy(options.precision, options.engine, network, calibration, console, held_out)
    results.write_rows(path, rows, results.collect_protocol(options.command))
    console.print(f"written: {path}")
    return 0


def check_precisions(options: Options) -> None:
    """Check ``--precision`` and ``--calibration``.

    Raises RequestError for an unknown precision, one the engine does not support, or calibration images without int8.
    """
    from resnext.deploy.engines import TOLERANCE, list_engines

    for precision in options.precision:
        if precision not in TOLERANCE:
            raise RequestError(f"--precision {precision!r} is unknown{did_you_mean(precision, TOLERANCE)}")
        list_engines(options.engine, precision)
    if options.calibration is not None and "int8" not in options.precision:
        raise RequestError("--calibration needs --precision int8")


def measure_workload(case: "InferWorkload", options: Options, console: Any) -> list[dict[str, object]]:
    """Measure and print one batch size; return the CSV rows."""
    from resnext.bench.infer_candidates import build_candidates, compute_bound, measure_memory
    from resnext.bench.measure import time_interleaved
    from resnext.speed.untimed import SETTLE_SECONDS

    candidates, about = build_candidates(case)
    with results.show_progress(f"batch {case.batch}") as progress:
        timings = time_interleaved(candidates, options.rounds, progress=progress, settle=SETTLE_SECONDS)
    peaks: dict[str, float] = {precision: compute_bound(case, precision) for precision in case.precisions}
    more: dict[str, dict[str, object]] = {}
    for timing in timings:
        bound = peaks.get(str(about[timing.name]["precision"]))
        more[timing.name] = {} if bound is None else {"of the bound": f"{timing.median / bound:.0%}"}
        if options.memory:
            more[timing.name]["peak MiB"] = round(measure_memory(case, timing.name, options.calibration), 1)
    ours = f"resnext {case.precisions[-1]}"
    name = case.network.architecture.name
    results.print_timings(console, f"{name}, batch {case.batch}, {case.size}x{case.size}", timings, ours, more)
    print_comparison(timings, about, console)
    for precision, images in peaks.items():
        console.print(f"upper bound from arithmetic in {precision}: {images:.1f} images/s", style="dim")
    facts = {"model": name, "batch": case.batch, "size": case.size}
    rows = results.make_timing_rows(timings, ours, {n: about[n] | more[n] for n in more})
    return [facts | row for row in rows]


def print_comparison(timings: "list[Timing]", about: dict[str, dict[str, object]], console: Any) -> None:
    """Print the engine of each of our candidates, and its speed relative to each other candidate."""
    from resnext.bench.measure import compute_speed_ratio

    others = [timing for timing in timings if not timing.name.startswith("resnext ")]
    for mine in (timing for timing in timings if timing.name.startswith("resnext ")):
        said = ", ".join(f"{compute_speed_ratio(mine, other)[0]:.2f}x the speed of {other.name}" for other in others)
        console.print(f"{mine.name} ({about[mine.name]['way']}): {said}")
