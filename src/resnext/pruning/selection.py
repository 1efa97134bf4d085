"""Choose how many paths each stage keeps, and which ones each of its blocks keeps."""

from collections.abc import Sequence

from resnext.errors import RequestError
from resnext.model.architecture import Architecture
from resnext.model.complexity import ImageSize, complexity
from resnext.pruning.importance import ChannelScores, Scores, list_readers
from resnext.pruning.slicing import KeptChannels, KeptPaths, list_blocks

Counts = tuple[int, ...]  # paths of each stage


def check_has_paths(a: Architecture) -> None:
    """Raise RequestError for a network whose blocks have one path each."""
    if max(a.cardinalities) == 1:
        raise RequestError(
            f"{a.name} cannot be pruned by paths: its blocks have one path each (C = 1); a network with more, such as "
            "resnext50_32x4d, can"
        )


def check_width(a: Architecture, width: int) -> None:
    """Raise RequestError for a width that is below 1, or that the paths of the first stage have already."""
    first = a.stages[0].width
    if not 1 <= width < first:
        has = f"the paths of {a.name} are {first} channels wide in the first stage"
        raise RequestError(f"{has}; pruning leaves from 1 to {first - 1}, not {width}")


def choose_paths(a: Architecture, scores: Scores, counts: Counts) -> KeptPaths:
    """Choose the most important paths of each block, as many as its stage keeps; of equal ones the first."""
    return {name: sorted(_rank(scores[name].tolist())[: counts[number]]) for name, number, _ in list_blocks(a)}


def choose_channels(a: Architecture, scores: ChannelScores, width: int) -> KeptChannels:
    """Choose the most important channels of each path: ``width`` in the first stage, the same share in the others."""
    check_width(a, width)
    first = a.stages[0].width
    return {
        reader: scores[reader].topk(max(1, round(stage.width * width / first)), dim=1).indices.sort(1).values
        for _, reader, stage in list_readers(a)
    }


def resolve_counts(a: Architecture, cardinality: int | Sequence[int]) -> Counts:
    """Resolve ``cardinality``, one number for all stages or one for each, to the paths that each stage keeps.

    One number leaves stages with fewer paths as they are. Raises RequestError if a number is below 1 or above what a
    stage has, or if nothing would be pruned.
    """
    has, asked = a.cardinalities, spread_over_stages(a, cardinality)
    counts = tuple(map(min, asked, has)) if isinstance(cardinality, int) else asked
    if counts == has or any(count > most for count, most in zip(counts, has, strict=True)):
        raise RequestError(
            f"{a.name} has {join_counts(has)} paths in its stages; pruning leaves fewer, not {join_counts(asked)} "
            "(resnext grow adds paths)"
        )
    return counts


def spread_over_stages(a: Architecture, cardinality: int | Sequence[int]) -> Counts:
    """Return one number of paths for each stage. Raises RequestError for a wrong count, or numbers below 1."""
    counts = (cardinality,) * len(a.stages) if isinstance(cardinality, int) else tuple(cardinality)
    if len(counts) != len(a.stages):
        raise RequestError(
            f"{len(counts)} numbers of paths were given, but {a.name} has {len(a.stages)} stages: give one for each, "
            "or one for all"
        )
    if min(counts) < 1:
        raise RequestError(f"a stage has at least 1 path, not {min(counts)}")
    return counts


def join_counts(counts: Sequence[int]) -> str:
    """Format the numbers of paths of the stages; one number if all are equal."""
    return str(counts[0]) if len(set(counts)) == 1 else "-".join(map(str, counts))


def list_greedy_counts(a: Architecture, scores: Scores, image_size: ImageSize, multiple: int = 1) -> list[Counts]:
    """List networks of fewer and fewer paths, the whole one first, down to the fewest paths in all stages.

    Each step takes paths from the stage where a unit of lost importance saves the most multiply-adds: one path of each
    block of the stage, or as many as lead to the next lower multiple of ``multiple``.
    """
    counts, order = a.cardinalities, [a.cardinalities]
    sorted_scores = _sort_by_stage(a, scores)
    macs_per_path = [_compute_macs_per_path(a, number, image_size) for number in range(len(counts))]
    while True:
        prices: dict[int, tuple[float, int]] = {}  # stage -> (importance lost per MAC saved, paths left)
        for number, count in enumerate(counts):
            left = (count - 1) // multiple * multiple
            if left >= 1:
                gone = slice(a.cardinalities[number] - count, a.cardinalities[number] - left)
                lost = sum(sum(block[gone]) for block in sorted_scores[number])
                prices[number] = lost / (macs_per_path[number] * (count - left)), left
        if not prices:
            return order
        cheapest = min(prices, key=lambda number: prices[number])
        counts = tuple(prices[cheapest][1] if number == cheapest else count for number, count in enumerate(counts))
        order.append(counts)


def change_counts(a: Architecture, counts: Counts) -> Architecture:
    """Return the architecture with other numbers of paths, each of the same width."""
    widths = tuple(count * stage.width for count, stage in zip(counts, a.stages, strict=True))
    return a.change(stage_cardinalities=counts, stage_widths=widths)


def _rank(scores: Sequence[float]) -> list[int]:
    """Return the indices by falling score."""
    return sorted(range(len(scores)), key=lambda index: -scores[index])


def _sort_by_stage(a: Architecture, scores: Scores) -> list[list[list[float]]]:
    """Sort the scores of each block, least important first, in lists by stage."""
    stages: list[list[list[float]]] = [[] for _ in a.stages]
    for name, number, _ in list_blocks(a):
        stages[number].append(sorted(scores[name].tolist()))
    return stages


def _compute_macs_per_path(a: Architecture, number: int, image_size: ImageSize) -> int:
    """Compute the multiply-adds of one path of a stage, in all its blocks; the cost is linear in their number."""
    a = a.change(form="grouped")
    one, two = (change_counts(a, tuple(n if i == number else 1 for i, _ in enumerate(a.stages))) for n in (1, 2))
    return complexity(two, image_size).macs - complexity(one, image_size).macs
