"""``resnext bench infer``: inference speed of our engines, compared with other libraries."""

import argparse
from typing import TYPE_CHECKING, Any

from resnext.errors import RequestError, did_you_mean

if TYPE_CHECKING:
    from resnext.bench.infer_candidates import InferWorkload
    from resnext.bench.measure import Timing

SUMMARY = "Measure inference speed of each engine, compared with other libraries."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``resnext bench infer``."""
    from resnext.bench.results import add_out_option

    parser.add_argument(
        "model", nargs="?", default="resnext50_32x4d", metavar="MODEL|RUN|FILE", help="[resnext50_32x4d, new weights]"
    )
    parser.add_argument(
        "--batch",
        type=parse_numbers,
        default=[1, 16],
        metavar="N,N",
        help="batch sizes; 1 measures latency, more throughput [1,16]",
    )
    parser.add_argument(
        "--size", type=int, metavar="N", help="side of the images in pixels [that of the weights, else 224]"
    )
    parser.add_argument(
        "--precision", type=parse_words, default=["fp32", "bf16"], metavar="P,P", help="fp32, bf16, int8"
    )
    parser.add_argument("--engine", default="auto", help="our engine: pytorch, onnxruntime, openvino or auto [auto]")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of each candidate [the cores]")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="timed rounds of each candidate [9]")
    parser.add_argument(
        "--memory", action="store_true", help="also measure the peak memory of each candidate, in a fresh process"
    )
    parser.add_argument("--no-peers", action="store_true", help="measure only ours and plain PyTorch")
    parser.add_argument(
        "--calibration", metavar="DIR", help="calibration images for int8 [the run's training data, else noise]"
    )
    add_out_option(parser)


def parse_numbers(text: str) -> list[int]:
    """Parse a list of positive whole numbers such as ``1,16``."""
    try:
        values = [int(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 1,16") from None
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must have numbers of at least 1")
    return values


def parse_words(text: str) -> list[str]:
    """Parse a list of words such as ``fp32,bf16``."""
    return text.split(",")


def run(args: argparse.Namespace) -> int:
    """Measure, print and write ``bench-infer.csv``; for a run also the accuracy lost in each precision."""
    import torch

    from resnext.bench.infer_accuracy import measure_accuracy, open_held_out_images
    from resnext.bench.infer_candidates import InferWorkload, load_network
    from resnext.bench.results import collect_protocol, make_csv_path, make_out_folder, write_rows
    from resnext.deploy.predictor import get_expected_image_size
    from resnext.run_directory import check_run_kind
    from resnext.screen import make_screen

    out, console = make_out_folder(args), make_screen()
    if args.threads is not None:
        if args.threads < 1:
            raise RequestError(f"--threads {args.threads} must be at least 1")
        torch.set_num_threads(args.threads)
    check_precisions(args)
    check_run_kind(args.model, "classification", "resnext bench detect NETWORK, which measures detectors")
    network, calibration = load_network(args.model, args.precision, args.calibration, args.size)
    held_out = open_held_out_images(args.model)
    size = args.size or get_expected_image_size(network)
    rows: list[dict[str, object]] = []
    for batch in args.batch:
        case = InferWorkload(
            network, args.model, batch, size, tuple(args.precision), args.engine, calibration, args.no_peers
        )
        rows += measure_workload(case, args, console)
    rows += measure_accuracy(args, network, calibration, console, held_out)
    path = make_csv_path(out, "infer")
    write_rows(path, rows, collect_protocol(args.command))
    console.print(f"written: {path}")
    return 0


def check_precisions(args: argparse.Namespace) -> None:
    """Check ``--precision`` and ``--calibration``.

    Raises RequestError for an unknown precision, one the engine does not support, or calibration images without int8.
    """
    from resnext.deploy.engines import TOLERANCE, list_engines

    for precision in args.precision:
        if precision not in TOLERANCE:
            raise RequestError(f"--precision {precision!r} is unknown{did_you_mean(precision, TOLERANCE)}")
        list_engines(args.engine, precision)
    if args.calibration is not None and "int8" not in args.precision:
        raise RequestError("--calibration needs --precision int8")


def measure_workload(case: "InferWorkload", args: argparse.Namespace, console: Any) -> list[dict[str, object]]:
    """Measure and print one batch size; return the CSV rows."""
    from resnext.bench.infer_candidates import build_candidates, compute_bound, measure_memory
    from resnext.bench.measure import time_interleaved
    from resnext.bench.results import make_timing_rows, print_timings, show_progress

    candidates, about = build_candidates(case)
    with show_progress(f"batch {case.batch}") as progress:
        timings = time_interleaved(candidates, args.rounds, progress=progress)
    peaks = {precision: compute_bound(case, precision) for precision in case.precisions}
    more: dict[str, dict[str, object]] = {}
    for timing in timings:
        precision = about[timing.name]["precision"]
        more[timing.name] = (
            {"of the bound": f"{timing.median / peaks[str(precision)]:.0%}"} if precision in peaks else {}
        )
        if args.memory:
            more[timing.name]["peak MiB"] = round(measure_memory(case, timing.name, args.calibration), 1)
    ours = f"resnext {case.precisions[-1]}"
    name = case.network.architecture.name
    print_timings(console, f"{name}, batch {case.batch}, {case.size}x{case.size}", timings, ours, more)
    print_comparison(timings, about, console)
    for precision, images in peaks.items():
        console.print(f"upper bound from arithmetic in {precision}: {images:.1f} images/s", style="dim")
    facts = {"model": name, "batch": case.batch, "size": case.size}
    rows = make_timing_rows(timings, ours, {n: {**about[n], **more[n]} for n in more})
    return [facts | row for row in rows]


def print_comparison(timings: "list[Timing]", about: dict[str, dict[str, object]], console: Any) -> None:
    """Print the engine of each of our candidates, and its speed relative to each other candidate."""
    from resnext.bench.measure import compute_speed_ratio

    for mine in (timing for timing in timings if timing.name.startswith("resnext ")):
        others = [t for t in timings if not t.name.startswith("resnext ")]
        said = ", ".join(f"{compute_speed_ratio(mine, other)[0]:.2f}x the speed of {other.name}" for other in others)
        console.print(f"{mine.name} ({about[mine.name]['way']}): {said}")
