"""Choose width d for a cardinality C, or C for d, at preserved complexity (Section 3.4, Table 2).

Without a budget, the template block keeps the parameters of the ResNet block it replaces (Equation 4:
C*(256*d + 9*d*d + d*256) is about 70k). With a budget, the cost of the whole network is brought as near to it as
possible.
"""

from collections.abc import Callable, Iterator
from typing import Any, Unpack

from resnext.errors import RequestError
from resnext.model.architecture import EXPANSION, MAX_COUNT, Architecture, DetailChanges
from resnext.model.complexity import Complexity, ImageSize, complexity

PAPER_DEPTHS = {"imagenet": (50, 101), "cifar": (29,)}  # of the paper's networks, by stem; the first is the default
TABLE_2_CARDINALITIES = (1, 2, 4, 8, 32)  # the cardinalities the paper compares


def design(
    depth: int | None = None,
    cardinality: int | None = None,
    *,
    width: int | None = None,
    macs: float | None = None,
    parameters: float | None = None,
    image_size: ImageSize = None,
    **changes: Unpack[DetailChanges],
) -> Architecture:
    """Solve for the width d (or, if ``width`` is given, the cardinality C) whose cost is nearest to the budget.

    Args:
        depth: layers; default 50, 29 with a CIFAR stem, or what ``blocks`` gives.
        cardinality: C; default 32. Not together with ``width``.
        width: d, if C is to be solved.
        macs: budget in multiply-adds for one image of ``image_size``.
        parameters: budget in parameters, including BN. Without a budget, the template block's parameters are kept.
        image_size: the side, or (height, width), in pixels. Default 224, or 32 for a CIFAR stem.
        changes: other fields of Architecture (``num_classes``, ``stem``, ``blocks``, ...).

    Returns:
        The architecture. Of two equally near ones, the smaller.

    Raises:
        RequestError: the arguments contradict each other, or even d = 1 (or C = 1) exceeds the budget.
    """
    if width is not None and cardinality is not None:
        raise RequestError("give either cardinality (d is solved) or width (C is solved), not both")
    if macs is not None and parameters is not None:
        raise RequestError("give a budget of macs or of parameters, not both")
    for name in ("stage_widths", "stage_cardinalities"):
        if changes.get(name) is not None:
            raise RequestError(f"{name} cannot be given here, because the design solves for them")
    fixed, solved = ("width", "cardinality") if width is not None else ("cardinality", "width")
    fields: dict[str, Any] = dict(changes)
    if depth is not None and changes.get("blocks") is not None:
        fields["depth"] = depth  # Architecture checks that the two agree
    fields |= {fixed: width if width is not None else 32 if cardinality is None else cardinality, solved: 1}
    default, *_ = PAPER_DEPTHS.get(str(changes.get("stem", "imagenet")), PAPER_DEPTHS["imagenet"])
    name = f"resnet{default if depth is None else depth}"
    wanted = Architecture.parse(name, **fields)
    smallest = wanted.change(form="grouped")  # all forms cost the same, and this one is built fastest

    def change_solved(n: int) -> Architecture:
        change: dict[str, Any] = {solved: n}
        return smallest.change(**change)

    if macs is None and parameters is None:
        template = count_template_parameters(smallest.change(cardinality=1, width=_compute_template_width(smallest)))
        cost, budget, unit = (
            (lambda n: count_template_parameters(change_solved(n))),
            float(template),
            "parameters in the template block",
        )
    else:
        what, unit = ("parameters", "parameters") if macs is None else ("macs", "MACs")
        budget = _check_budget(unit, parameters if macs is None else macs)
        cost = fit_network_cost(change_solved, what, image_size)
        if cost(1) > budget:
            raise RequestError(
                f"no network of depth {smallest.depth} and {fixed} {fields[fixed]} fits {budget:,.0f} {unit}: "
                f"the smallest, {smallest.name}, has {cost(1):,}"
            )
    return change_solved(_find_nearest(cost, budget, compute_upper_bound(smallest), unit)).change(form=wanted.form)


def list_neighbours(
    architecture: Architecture, solved: str = "width", image_size: ImageSize = None
) -> list[tuple[Architecture, Complexity]]:
    """Return the networks with d - 1, d and d + 1 (or C, if ``solved`` is "cardinality"), each with its cost."""
    middle = getattr(architecture, solved)
    around = (architecture.change(**{solved: n}) for n in (middle - 1, middle, middle + 1) if n >= 1)
    return [(a, complexity(a, image_size)) for a in around]


def design_table_2(
    depth: int | None = None, cardinalities: tuple[int, ...] = TABLE_2_CARDINALITIES, **budget_and_changes: Any
) -> Iterator[Architecture]:
    """Solve for the width at each cardinality, as Table 2 does."""
    return (design(depth, cardinality, **budget_and_changes) for cardinality in cardinalities)


def count_template_parameters(architecture: Architecture) -> int:
    """Count the weights of a first-stage block with equal in and out channels (Equation 4)."""
    first = architecture.stages[0]
    out, c, d = first.out_channels, architecture.cardinality, first.width
    if architecture.block == "basic":
        return c * (9 * out * d + 9 * d * out)
    return c * (out * d + 9 * d * d + d * out)


def _compute_template_width(architecture: Architecture) -> int:
    """Return the width of the plain ResNet block with this many output channels: 64 for 256."""
    return max(1, architecture.stages[0].out_channels // EXPANSION[architecture.block])


def fit_network_cost(
    change_solved: Callable[[int], Architecture], what: str, image_size: ImageSize
) -> Callable[[int], int]:
    """Fit the network's cost as a function of d (or C): an exact quadratic through the costs of three networks."""
    c1, c2, c3 = (int(getattr(complexity(change_solved(n), image_size), what)) for n in (1, 2, 3))
    bend = c3 - 2 * c2 + c1  # Newton's forward differences, exact in integers
    return lambda n: c1 + (n - 1) * (c2 - c1) + (n - 1) * (n - 2) * bend // 2


def _find_nearest(cost: Callable[[int], int], budget: float, largest: int, unit: str) -> int:
    """Find by bisection the integer n >= 1 whose cost, which rises with n, is nearest to the budget."""
    if cost(largest) < budget:
        raise RequestError(f"a budget of {budget:,.0f} {unit} is more than the largest network has: {cost(largest):,}")
    low, high = 1, largest  # cost(high) >= budget
    while low < high:
        middle = (low + high) // 2
        if cost(middle) >= budget:
            high = middle
        else:
            low = middle + 1
    return low - 1 if low > 1 and budget - cost(low - 1) <= cost(low) - budget else low


def compute_upper_bound(smallest: Architecture) -> int:
    """Return the largest d (or C) whose last stage is within the supported width."""
    assert smallest.stage_widths is not None
    return MAX_COUNT // smallest.stage_widths[-1]


def _check_budget(unit: str, budget: Any) -> float:
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not 0 < budget < float("inf"):
        raise RequestError(f"a budget of {unit} must be a number above 0, not {budget!r}")
    return float(budget)
