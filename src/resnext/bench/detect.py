"""``resnext bench detect``: training step and prediction of our Faster R-CNN, compared with torchvision's own.

Both use the same network and weights, frozen BN, the same frozen stages, the same images and boxes, and the same random
samples of proposals. Their outputs are compared before anything is timed.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from resnext.bench import results
from resnext.choices import Precision
from resnext.errors import RequestError
from resnext.settings_shared import FreezeStage

if TYPE_CHECKING:
    from rich.console import Console

    from resnext.bench.check_outputs import Distances
    from resnext.bench.detect_step import DetectStep, DetectWorkload
    from resnext.bench.train_step import StepConfig

MIN_SIZE = 64  # pixels; the coarsest pyramid level then has one pixel


@dataclass(frozen=True, kw_only=True)
class Options(results.BenchOptions):
    """The options of ``resnext bench detect``."""

    model: str
    size: int
    batch: int
    boxes: int  # per image
    freeze: FreezeStage | Literal["none"]
    rounds: int
    precision: Precision


def run(options: Options) -> int:
    """Run the benchmark; exit status 0. Raises WorkError if a candidate computes something different."""
    from resnext.model.stage_table import parse_paper_architecture

    for option, least in (("size", MIN_SIZE), ("batch", 1), ("boxes", 1), ("rounds", 1)):
        if getattr(options, option) < least:
            raise RequestError(f"--{option} {getattr(options, option)} must be at least {least}")
    architecture = parse_paper_architecture(options.model)
    path = results.prepare_csv(options.out, "detect")

    from resnext.bench.detect_step import DetectWorkload, list_configs
    from resnext.screen import make_screen

    console = make_screen()
    freeze = None if options.freeze == "none" else options.freeze
    task = DetectWorkload(architecture, options.size, options.batch, options.boxes, freeze=freeze)
    results.write_rows(
        path,
        measure_workload(task, list_configs(options.precision), options.rounds, console),
        results.collect_protocol(options.command),
    )
    console.print(str(path))
    return 0


def measure_workload(
    task: "DetectWorkload", configs: "list[StepConfig]", rounds: int, console: "Console"
) -> list[dict[str, object]]:
    """Build and compare the candidates, time training and prediction, print the results, and return the CSV rows."""
    from resnext.bench.detect_step import build_candidates
    from resnext.bench.measure import Candidate, time_interleaved

    with console.status("comparing the outputs of the candidates"):
        candidates = build_candidates(task, configs)
        distances = compare_candidates(candidates, console)
    rows: list[dict[str, object]] = []
    for work in ("train", "predict"):
        call = {name: c.train_step if work == "train" else c.predict for name, c in candidates.items()}
        with results.show_progress(work) as progress:
            timings = time_interleaved(
                [Candidate(n, call[n], task.batch) for n in candidates], rounds, warmup=0, progress=progress
            )
        title = f"{'A training step' if work == 'train' else 'Prediction'} of Faster R-CNN on {task.architecture.name}"
        results.print_timings(
            console, f"{title}, batch {task.batch} at {task.size}x{task.width}", timings, timings[0].name
        )
        columns = {name: _make_columns(task, c.config, distances[name]) for name, c in candidates.items()}
        rows += [{"work": work, **row} for row in results.make_timing_rows(timings, timings[0].name, columns)]
    return rows


def compare_candidates(candidates: "dict[str, DetectStep]", console: "Console") -> "dict[str, Distances]":
    """Compare the outputs of each candidate with torchvision in fp32. Raises WorkError if ours differ too much."""
    from resnext.bench.check_outputs import check_distances
    from resnext.bench.detect_step import TOLERANCES, compute_outputs, measure_distances

    outcomes = {name: compute_outputs(candidate) for name, candidate in candidates.items()}
    reference = next(
        name
        for name, c in candidates.items()
        if not c.is_ours and c.config.precision == "fp32" and not c.config.channels_last
    )
    found = {name: measure_distances(one, outcomes[reference]) for name, one in outcomes.items()}
    for name, candidate in candidates.items():
        if candidate.is_ours:  # torchvision in bf16 computes its anchors in bf16 too: its distance is only reported
            check_distances(name, candidate.config.precision, found[name], TOLERANCES[candidate.config.precision])
    for name, far in found.items():
        if name != reference:
            said = ", ".join(f"{what} {value:.1e}" for what, value in far.items())
            console.print(f"{name}: distance from {reference}: {said}")
    return found


def _make_columns(task: "DetectWorkload", config: "StepConfig", found: "Distances") -> dict[str, object]:
    return {
        "network": task.architecture.name,
        **config.to_columns(),
        "batch": task.batch,
        "image_size": f"{task.size}x{task.width}",
        "boxes": task.boxes,
        "frozen": task.freeze or "none",
        "rpn_losses_distance": f"{found['RPN losses']:.1e}",
        "head_losses_distance": f"{found['head losses']:.1e}",
        "scores_distance": f"{found['best scores']:.1e}",
    }
