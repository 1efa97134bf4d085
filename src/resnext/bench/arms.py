"""Candidates of a training benchmark: tune their plans, compare their outputs, measure their speed and memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rich.console import Console

from resnext.bench.agree import TOLERANCES, Distance, Outcome, check, distance, outcome
from resnext.bench.measure import Arm, Timing, interleaved, peak_memory
from resnext.bench.report import bench_bar
from resnext.bench.step import Step, Way, fused_throughout, memory_arguments, settled
from resnext.model.architecture import Architecture
from resnext.model.plan import Plan


@dataclass(frozen=True)
class Entry:
    """Description of a candidate that is not built yet."""

    name: str
    architecture: Architecture
    way: Way


@dataclass(frozen=True)
class Task:
    """The batch that every candidate trains on."""

    batch: int
    size: int


def arms_of(
    architecture: Architecture,
    peers: Sequence[str],
    precision: str,
    recompute: Sequence[str] = (),
    *,
    resnet: bool = False,
) -> list[Entry]:
    """List the candidates of ``resnext bench train``.

    Ours first, then ours with each level of recomputation, then each peer with its defaults (fp32, NCHW) and with its
    fastest settings. ``resnet`` adds the ResNet of the same depth, ours and the peers with their fastest settings.
    """
    ours = Way("resnext", precision)
    ways = [ours, *(replace(ours, recompute=level) for level in recompute)]
    for peer in peers:
        ways += [Way(peer, "fp32", channels_last=False), Way(peer, precision)]
    entries = [Entry(str(way), architecture, way) for way in ways]
    if resnet and architecture.cardinality > 1 and architecture.stem == "imagenet":
        twin = architecture.change(cardinality=1, width=64)
        best = [ours, *(Way(peer, precision) for peer in peers)]
        entries += [Entry(f"{twin.name}: {way}", twin, way) for way in best]
    return entries


@dataclass(frozen=True)
class Measured:
    """Timings in the order of the candidates, and further CSV columns by candidate name."""

    timings: list[Timing]
    columns: dict[str, dict[str, object]]


def measured(entries: Sequence[Entry], task: Task, rounds: int, console: Console, *, memory: bool = False) -> Measured:
    """Tune, build, compare and time the candidates; with ``memory`` also measure their peak memory.

    Raises WorkError if a candidate computes something different.
    """
    plans = plans_of(entries, task, console)
    steps = [Step(e.architecture, e.way, task.batch, task.size, plans.get(e.name)) for e in entries]
    distances = compared(entries, steps, task, console)
    arms = [Arm(entry.name, step, task.batch) for entry, step in zip(entries, steps, strict=True)]
    with bench_bar("steps") as progress:
        timings = interleaved(arms, rounds, warmup=0, progress=progress)
    steps.clear()
    arms.clear()
    peaks = peaks_of(entries, plans, task, console) if memory else {}
    columns = {e.name: _columns(e, task, distances[e.name], peaks.get(e.name)) for e in entries}
    return Measured(timings, columns)


def _columns(entry: Entry, task: Task, found: Distance, peak: float | None) -> dict[str, object]:
    return {
        "network": entry.architecture.name,
        "library": entry.way.library,
        "precision": entry.way.precision,
        "layout": "NHWC" if entry.way.channels_last else "NCHW",
        "recompute": entry.way.recompute,
        "batch": task.batch,
        "image_size": task.size,
        "peak_mib": None if peak is None else round(peak),
        "logits_distance": f"{max(found.evaluated, found.logits):.1e}",
        "gradients_distance": f"{found.gradients:.1e}",
    }


def plans_of(entries: Sequence[Entry], task: Task, console: Console) -> dict[str, Plan]:
    """Find the plans of our candidates, by candidate name; what is not in the tuning cache is measured now."""
    plans: dict[str, Plan] = {}
    found: dict[tuple[Architecture, str], Plan] = {}
    for entry in entries:
        if entry.way.library != "resnext":
            continue
        a, precision = entry.architecture, entry.way.precision
        if (a, precision) not in found:
            with console.status(f"{a.name}: tuning its layers") as status:
                found[a, precision] = settled(a, task.batch, task.size, precision, status.update)
        everywhere = entry.way.recompute in ("activations", "expansions")
        plans[entry.name] = fused_throughout(a, found[a, precision]) if everywhere else found[a, precision]
    return plans


def compared(entries: Sequence[Entry], steps: Sequence[Step], task: Task, console: Console) -> dict[str, Distance]:
    """Compare the outputs of each candidate with PyTorch in fp32 on the same batch; this is also the warm-up.

    The reference is the first fp32 candidate in NCHW, otherwise our network without fast paths. Raises WorkError if a
    difference is larger than rounding.
    """
    references: dict[Architecture, Outcome] = {}
    outcomes, found = {}, {}
    with console.status("comparing the outputs of the candidates") as status:
        for entry, step in zip(entries, steps, strict=True):
            status.update(f"comparing the outputs of the candidates: {entry.name}")
            outcomes[entry.name] = outcome(step)
            if entry.way.precision == "fp32" and not entry.way.channels_last:
                references.setdefault(entry.architecture, outcomes[entry.name])
        for entry in entries:
            a = entry.architecture
            if a not in references:
                references[a] = outcome(Step(a, Way("plain", "fp32", channels_last=False), task.batch, task.size))
            found[entry.name] = distance(outcomes[entry.name], references[a])
            check(entry.name, entry.way.precision, found[entry.name])
    for precision in dict.fromkeys(e.way.precision for e in entries):
        some = [found[e.name] for e in entries if e.way.precision == precision]
        logits, gradients = max(max(d.logits, d.evaluated) for d in some), max(d.gradients for d in some)
        console.print(
            f"outputs agree in {precision}: relative distance from the fp32 reference at most {logits:.1e} for logits "
            f"(allowed {TOLERANCES[precision][0]:g}) and {gradients:.1e} for gradients "
            f"(allowed {TOLERANCES[precision][1]:g})",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    return found


def peaks_of(entries: Sequence[Entry], plans: Mapping[str, Plan], task: Task, console: Console) -> dict[str, float]:
    """Measure the peak memory of two steps of each candidate, in MiB above the start, each in a fresh process."""
    peaks = {}
    with console.status("memory") as status:
        for e in entries:
            status.update(f"memory: {e.name}")
            told = memory_arguments(e.architecture, e.way, task.batch, task.size, plans.get(e.name))
            peaks[e.name] = peak_memory("resnext.bench.step:step_again", *told)
    return peaks
