"""Find how many paths each stage keeps so that a budget of multiply-adds or a measured latency holds."""

import copy
from collections.abc import Callable, Sequence

from resnext.bench.latency import Latency, LatencyRequest, measure_latencies
from resnext.errors import RequestError
from resnext.model.architecture import Architecture
from resnext.model.complexity import ImageSize, complexity
from resnext.model.network import Network
from resnext.pruning.importance import Scores
from resnext.pruning.selection import Counts, change_counts, choose_paths
from resnext.pruning.slicing import keep_paths

Report = Callable[[str], None]  # called with a line after each measurement


def find_counts_for_macs(a: Architecture, steps: Sequence[Counts], budget: float, image_size: ImageSize) -> Counts:
    """Return the first of ``steps`` (the whole network first) with at most ``budget`` multiply-adds.

    Raises RequestError if the whole network has no more, or even the last step has more.
    """

    def count_macs(number: int) -> int:
        return complexity(change_counts(a, steps[number]).change(form="grouped"), image_size).macs

    whole, least = count_macs(0), count_macs(len(steps) - 1)
    if whole <= budget:
        raise RequestError(f"{a.name} has {whole:,} MACs, within {budget:,.0f} already: nothing to prune")
    if least > budget:
        raise RequestError(
            f"{budget:,.0f} MACs cannot be reached: {change_counts(a, steps[-1]).name}, the smallest network that "
            f"pruning of paths leaves, has {least:,}"
        )
    return steps[_find_first(len(steps), lambda number: count_macs(number) <= budget)]


def find_counts_for_latency(
    model: Network,
    scores: Scores,
    steps: Sequence[Counts],
    milliseconds: float,
    request: LatencyRequest,
    report: Report = lambda _: None,
) -> Counts:
    """Return the first of ``steps`` (the whole network first) whose measured latency is at most ``milliseconds``.

    A binary search: about log2 of the number of steps are measured, each in turn with the whole network. Raises
    RequestError if the whole network holds the budget, or even the last step does not.
    """
    model = copy.deepcopy(model).cpu()

    def measure(number: int) -> Latency:
        candidate = keep_paths(model, choose_paths(model.architecture, scores, steps[number]))
        whole, latency = measure_latencies([model, candidate], request)
        report(
            f"{candidate.architecture.name}: {latency.milliseconds:.3g} ms on {latency.engine} "
            f"(the whole network {whole.milliseconds:.3g} ms)"
        )
        return latency

    (whole,) = measure_latencies([model], request)
    if whole.milliseconds <= milliseconds:
        raise RequestError(
            f"{model.architecture.name} takes {whole.milliseconds:.3g} ms on {whole.engine}, "
            f"within {milliseconds:g} ms already: nothing to prune"
        )
    least = measure(len(steps) - 1)
    if least.milliseconds > milliseconds:
        raise RequestError(
            f"{milliseconds:g} ms cannot be reached: {change_counts(model.architecture, steps[-1]).name}, the smallest "
            f"network that pruning of paths leaves, takes {least.milliseconds:.3g} ms on {least.engine}"
        )
    return steps[_find_first(len(steps), lambda number: measure(number).milliseconds <= milliseconds)]


def _find_first(count: int, holds: Callable[[int], bool]) -> int:
    """Find by bisection the first number that holds, where 0 is known not to hold and ``count`` - 1 to hold."""
    low, high = 0, count - 1
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high
