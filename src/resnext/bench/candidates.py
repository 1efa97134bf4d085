"""Candidates of a training benchmark: tune their plans, compare their outputs, measure their speed and memory."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from rich.console import Console

from resnext.bench import check_outputs
from resnext.bench.measure import Candidate, Timing, measure_peak_memory, time_interleaved
from resnext.bench.results import show_progress
from resnext.bench.train_step import StepConfig, TrainStep, fuse_all_norms, rebuild_step, tune_plan
from resnext.choices import Precision
from resnext.model.architecture import Architecture
from resnext.model.plan import Plan


@dataclass(frozen=True)
class CandidateSpec:
    """Description of a candidate that is not built yet."""

    name: str
    architecture: Architecture
    config: StepConfig


@dataclass(frozen=True)
class TrainWorkload:
    """The batch that every candidate trains on."""

    batch: int
    size: int


def list_candidates(
    architecture: Architecture,
    peers: Sequence[str],
    precision: Precision,
    recompute: Sequence[str] = (),
    *,
    resnet: bool = False,
) -> list[CandidateSpec]:
    """List the candidates of ``resnext bench train``.

    Ours first, then ours with each level of recomputation, then each peer with its defaults (fp32, NCHW) and with its
    fastest settings. ``resnet`` adds the ResNet of the same depth, ours and the peers with their fastest settings.
    """
    ours = StepConfig("resnext", precision)
    configs = [ours, *(replace(ours, recompute=level) for level in recompute)]
    for peer in peers:
        configs += [StepConfig(peer, "fp32", channels_last=False), StepConfig(peer, precision)]
    entries = [CandidateSpec(str(config), architecture, config) for config in configs]
    if resnet and architecture.cardinality > 1 and architecture.stem == "imagenet":
        same_depth = architecture.change(cardinality=1, width=64)
        best = [ours, *(StepConfig(peer, precision) for peer in peers)]
        entries += [CandidateSpec(f"{same_depth.name}: {config}", same_depth, config) for config in best]
    return entries


@dataclass(frozen=True)
class CandidateResults:
    """Timings in the order of the candidates, and further CSV columns by candidate name."""

    timings: list[Timing]
    columns: dict[str, dict[str, object]]


def measure_candidates(
    entries: Sequence[CandidateSpec], task: TrainWorkload, rounds: int, console: Console, *, memory: bool = False
) -> CandidateResults:
    """Tune, build, compare and time the candidates; with ``memory`` also measure their peak memory.

    Raises WorkError if a candidate computes something different.
    """
    plans = tune_plans(entries, task, console)
    steps = [TrainStep(e.architecture, e.config, task.batch, task.size, plans.get(e.name)) for e in entries]
    distances = compare_candidates(entries, steps, task, console)
    candidates = [Candidate(entry.name, step, task.batch) for entry, step in zip(entries, steps, strict=True)]
    with show_progress("steps") as progress:
        timings = time_interleaved(candidates, rounds, warmup=0, progress=progress)
    steps.clear()
    candidates.clear()
    peaks = measure_peaks(entries, plans, task, console) if memory else {}
    columns = {e.name: _make_columns(e, task, distances[e.name], peaks.get(e.name)) for e in entries}
    return CandidateResults(timings, columns)


def _make_columns(
    entry: CandidateSpec, task: TrainWorkload, found: check_outputs.Distances, peak: float | None
) -> dict[str, object]:
    return {
        "network": entry.architecture.name,
        **entry.config.to_columns(),
        "recompute": entry.config.recompute,
        "batch": task.batch,
        "image_size": task.size,
        "peak_mib": None if peak is None else round(peak),
        "logits_distance": f"{max(found['logits in evaluation'], found['logits in training']):.1e}",
        "gradients_distance": f"{found['gradients']:.1e}",
    }


def tune_plans(entries: Sequence[CandidateSpec], task: TrainWorkload, console: Console) -> dict[str, Plan]:
    """Find the plans of our candidates, by candidate name; what is not in the tuning cache is measured now."""
    plans: dict[str, Plan] = {}
    found: dict[tuple[Architecture, str], Plan] = {}
    for entry in entries:
        if entry.config.library != "resnext":
            continue
        a, precision = entry.architecture, entry.config.precision
        if (a, precision) not in found:
            with console.status(f"{a.name}: tuning its layers") as status:
                found[a, precision] = tune_plan(a, task.batch, task.size, precision, status.update)
        everywhere = entry.config.recompute in ("activations", "expansions")
        plans[entry.name] = fuse_all_norms(a, found[a, precision]) if everywhere else found[a, precision]
    return plans


def compare_candidates(
    entries: Sequence[CandidateSpec], steps: Sequence[TrainStep], task: TrainWorkload, console: Console
) -> dict[str, check_outputs.Distances]:
    """Compare the outputs of each candidate with PyTorch in fp32 on the same batch; this is also the warm-up.

    The reference is the first fp32 candidate in NCHW, otherwise our network without fast paths. Raises WorkError if a
    difference is larger than rounding.
    """
    references: dict[Architecture, check_outputs.StepOutputs] = {}
    outcomes, found = {}, {}
    with console.status("comparing the outputs of the candidates") as status:
        for entry, step in zip(entries, steps, strict=True):
            status.update(f"comparing the outputs of the candidates: {entry.name}")
            outcomes[entry.name] = check_outputs.compute_outputs(step)
            if entry.config.precision == "fp32" and not entry.config.channels_last:
                references.setdefault(entry.architecture, outcomes[entry.name])
        for entry in entries:
            a = entry.architecture
            if a not in references:
                plain = StepConfig("plain", "fp32", channels_last=False)
                references[a] = check_outputs.compute_outputs(TrainStep(a, plain, task.batch, task.size))
            precision = entry.config.precision
            found[entry.name] = check_outputs.measure_distances(outcomes[entry.name], references[a])
            check_outputs.check_distances(entry.name, precision, found[entry.name], check_outputs.TOLERANCES[precision])
    for precision in dict.fromkeys(e.config.precision for e in entries):
        some = [found[e.name] for e in entries if e.config.precision == precision]
        logits = max(d[what] for d in some for what in ("logits in evaluation", "logits in training"))
        gradients, most = max(d["gradients"] for d in some), check_outputs.TOLERANCES[precision]
        console.print(
            f"outputs agree in {precision}: relative distance from the fp32 reference at most {logits:.1e} for logits "
            f"(allowed {most['logits in training']:g}) and {gradients:.1e} for gradients "
            f"(allowed {most['gradients']:g})"
        )
    return found


def measure_peaks(
    entries: Sequence[CandidateSpec], plans: Mapping[str, Plan], task: TrainWorkload, console: Console
) -> dict[str, float]:
    """Measure the peak memory of two steps of each candidate, in MiB above the start, each in a fresh process."""
    peaks = {}
    with console.status("memory") as status:
        for e in entries:
            status.update(f"memory: {e.name}")
            plan = plans.get(e.name, Plan()).to_dict()
            told = (e.architecture.to_dict(), asdict(e.config), task.batch, task.size, plan)
            peaks[e.name] = measure_peak_memory(rebuild_step, *told)
    return peaks
