"""``resnext bench all``: training and inference on one device, beside torchvision and timm at their best.

One command for a machine with a GPU: within ``--minutes`` it measures eager, compiled and CUDA-graph candidates in
bf16 and fp16, and writes ``gpu-train.csv`` and ``gpu-infer.csv``. On the CPU it does the same at a reduced size, to
show that it works.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from resnext.bench import results
from resnext.bench.measure import Candidate, Timing, compute_speed_ratio, time_interleaved
from resnext.bench.train import check_numbers
from resnext.errors import RequestError, WorkError

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from resnext.bench.candidates import CandidateSpec
    from resnext.bench.check_outputs import Distances
    from resnext.bench.device_steps import DeviceWorkload

REDUCED = (4, 64)  # images and pixels on the CPU
FULL = (128, 224)
ROUND_SECONDS = 0.4  # of one candidate in one round on a GPU, where single steps are too short to be timed
BUILD_SHARES = {"train": 0.5, "infer": 0.85}  # of the time, after which no further candidate is built
FILE_PREFIXES = {"cuda": "gpu", "cpu": "cpu-reduced", "mps": "mps"}


@dataclass(frozen=True, kw_only=True)
class Options(results.BenchOptions):
    """The options of ``resnext bench all``."""

    model: str
    device: str
    batch: int | None
    size: int | None
    rounds: int
    minutes: float


class Checks(Protocol):
    """Builds candidates of one kind of work, and compares them with a reference."""

    work: str

    def build(self, spec: "CandidateSpec") -> "tuple[Callable[[], object], Distances]":
        """Build a candidate, run it once, and return it with its distances from the reference."""


@dataclass(frozen=True)
class Deadline:
    """A time limit in seconds, from a start on the monotonic clock."""

    start: float
    seconds: float

    def is_past(self, share: float) -> bool:
        """Return whether this share of the time is over."""
        return time.monotonic() - self.start > share * self.seconds


def run(options: Options) -> int:
    """Run all benchmarks; exit status 0. Raises WorkError if a candidate computes something different."""
    from resnext.device import pick_device
    from resnext.model.stage_table import parse_paper_architecture

    architecture = parse_paper_architecture(options.model)
    device = pick_device(options.device)
    reduced = device.type == "cpu"
    usual_batch, usual_size = REDUCED if reduced else FULL
    batch = usual_batch if options.batch is None else options.batch
    size = usual_size if options.size is None else options.size
    check_numbers(batch, options.rounds, size)
    if not options.minutes > 0:
        raise RequestError(f"--minutes {options.minutes:g} must be above 0")
    architecture.check_image_size(size, size)
    prefix = FILE_PREFIXES[device.type]
    paths = {work: results.prepare_csv(options.out, work, prefix) for work in BUILD_SHARES}

    from resnext.bench.device_steps import DeviceWorkload, InferChecks, TrainChecks, list_inference, list_training
    from resnext.bench.peers import choose_peers
    from resnext.screen import make_screen

    console, deadline = make_screen(), Deadline(time.monotonic(), 60 * options.minutes)
    peers = choose_peers(None, architecture)
    task = DeviceWorkload(batch, size, device)
    if reduced:
        console.print(
            f"on the CPU everything runs at a reduced size (batch {batch}, {size}x{size} pixels) and uncompiled: "
            "this shows that it works and agrees, not how fast a GPU is; resnext bench train and infer measure the CPU"
        )
    with console.status("") as status:
        kinds: list[tuple[Checks, list[CandidateSpec]]] = [
            (TrainChecks(task, status.update), list_training(architecture, peers, device)),
            (InferChecks(task, status.update), list_inference(architecture, peers, device)),
        ]
        for checks, specs in kinds:
            rows = measure_work(checks, specs, task, options.rounds, deadline, console)
            results.write_rows(paths[checks.work], rows, results.collect_protocol(options.command, str(device)))
            console.print(str(paths[checks.work]))
    return 0


def measure_work(
    checks: Checks,
    specs: "Sequence[CandidateSpec]",
    task: "DeviceWorkload",
    rounds: int,
    deadline: Deadline,
    console: "Console",
) -> list[dict[str, object]]:
    """Build, check and time the candidates of one kind of work, print a table, and return the CSV rows.

    A candidate that finds no time or memory, or that PyTorch cannot compile, is left out and named. Raises WorkError if
    that is our first one, or if any computes something different.
    """
    from resnext.bench.device_steps import measure_peak

    steps: dict[str, Callable[[], object]] = {}
    columns: dict[str, dict[str, object]] = {}
    for spec in specs:
        if steps and deadline.is_past(BUILD_SHARES[checks.work]):
            console.print(f"left out: {spec.name}: no time is left; give more --minutes")
            continue
        try:
            step, distances = checks.build(spec)
            peak = measure_peak(step, task.device)
        except WorkError:
            raise
        except RuntimeError as error:  # out of memory, or a failure to compile
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            if not steps:
                raise WorkError(
                    f"{spec.name} cannot run on {task.device}, perhaps with a smaller --batch: {why}"
                ) from None
            console.print(f"left out: {spec.name}: {why}")
            continue
        steps[spec.name] = step
        columns[spec.name] = _make_columns(spec, task, distances, peak)
    candidates = [_make_candidate(name, step, task) for name, step in steps.items()]
    timings = time_interleaved(candidates, rounds, warmup=0)
    built = [spec for spec in specs if spec.name in steps]
    best = _find_best(timings, built)
    ours = best[built[0].architecture.name, built[0].config.library]
    title = f"{checks.work}: {built[0].architecture.name}, batch {task.batch} at {task.size}x{task.size}, {task.device}"
    shown = {name: {"peak MiB": values["peak_mib"]} for name, values in columns.items()}
    results.print_timings(console, title, timings, ours.name, shown if task.device.type == "cuda" else {})
    for (network, library), timing in best.items():
        if timing is not ours:
            ratio, low, high = compute_speed_ratio(ours, timing)
            console.print(
                f"{ours.name} is {ratio:.2f}x ({low:.2f}-{high:.2f}) the best {network} of {library}: {timing.name}"
            )
    return results.make_timing_rows(timings, ours.name, columns)


def _make_candidate(name: str, step: Callable[[], object], task: "DeviceWorkload") -> Candidate:
    """Make a candidate whose work is one step, on a GPU as many as take ``ROUND_SECONDS``."""
    from resnext.bench.device_steps import synchronize

    repeats = 1
    if task.device.type != "cpu":
        synchronize(task.device)
        start = time.perf_counter()
        step()
        synchronize(task.device)
        repeats = max(1, round(ROUND_SECONDS / (time.perf_counter() - start)))
    return Candidate(name, partial(_run_steps, step, repeats, task.device), repeats * task.batch)


def _run_steps(step: Callable[[], object], repeats: int, device: "torch.device") -> None:
    from resnext.bench.device_steps import synchronize

    for _ in range(repeats):
        step()
    synchronize(device)


def _find_best(timings: Sequence[Timing], specs: "Sequence[CandidateSpec]") -> dict[tuple[str, str], Timing]:
    """Find the fastest candidate of each network and library."""
    best: dict[tuple[str, str], Timing] = {}
    for timing, spec in zip(timings, specs, strict=True):
        key = spec.architecture.name, spec.config.library
        if key not in best or timing.median > best[key].median:
            best[key] = timing
    return best


def _make_columns(
    spec: "CandidateSpec", task: "DeviceWorkload", distances: Mapping[str, float], peak: int | None
) -> dict[str, object]:
    return {
        "network": spec.architecture.name,
        **spec.config.to_columns(),
        "compile": spec.config.compile,
        "batch": task.batch,
        "image_size": task.size,
        "peak_mib": peak,
        **{f"{what}_distance": f"{value:.1e}" for what, value in distances.items()},
    }
