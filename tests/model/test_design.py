"""Compare solved widths and cardinalities with the paper's Table 2 and with exhaustive search."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnext.errors import RequestError
from resnext.model.complexity import complexity
from resnext.model.design import count_template_parameters, design, design_table_2, list_neighbours


def test_table_2_of_the_paper() -> None:
    rows = [(a.cardinality, a.width, count_template_parameters(a)) for a in design_table_2()]
    assert rows == [(1, 64, 69_632), (2, 40, 69_760), (4, 24, 69_888), (8, 14, 71_456), (32, 4, 70_144)]


@pytest.mark.parametrize(("width", "cardinality"), [(64, 1), (40, 2), (24, 4), (14, 8), (4, 32)])
def test_table_2_read_the_other_way(width: int, cardinality: int) -> None:
    assert design(101, width=width).cardinality == cardinality


def test_the_default_is_the_papers_network() -> None:
    assert design().name == "resnext50_32x4d"
    assert design(101).name == "resnext101_32x4d"
    assert design(29, num_classes=10).name == "resnext29_32x4d"


def test_the_budget_of_a_network_gives_the_network_back() -> None:
    cost = complexity("resnext101_64x4d")
    assert design(101, 64, macs=cost.macs).name == "resnext101_64x4d"
    assert design(101, 64, parameters=cost.parameters).name == "resnext101_64x4d"
    assert design(101, width=4, macs=cost.macs).name == "resnext101_64x4d"


@settings(max_examples=12)
@given(
    fixed=st.integers(1, 6),
    solve_width=st.booleans(),
    in_macs=st.booleans(),
    share=st.floats(0, 1),
    form=st.sampled_from(["grouped", "concatenated"]),
    block=st.sampled_from(["bottleneck", "basic"]),
)
def test_the_solved_network_is_the_nearest_of_all(
    fixed: int, solve_width: bool, in_macs: bool, share: float, form: str, block: str
) -> None:
    """Compare with every candidate, each built and counted."""
    changes = {"blocks": (1, 1), "stem": "cifar", "base_channels": 8, "num_classes": 3, "form": form, "block": block}
    given_field, solved = ("cardinality", "width") if solve_width else ("width", "cardinality")
    base = design(**{given_field: fixed}, **changes)
    assert base.form == form
    counted = [complexity(base.change(**{solved: n}), 8) for n in range(1, 13)]
    costs = {n: cost.macs if in_macs else cost.parameters for n, cost in enumerate(counted, start=1)}
    budget = costs[1] + share * (costs[12] - costs[1])
    unit = {"macs": budget} if in_macs else {"parameters": budget}
    found = design(**{given_field: fixed}, **unit, image_size=8, **changes)
    assert getattr(found, solved) == min(costs, key=lambda n: (abs(costs[n] - budget), n))


def test_neighbours_have_their_real_costs_in_rising_order() -> None:
    around = list_neighbours(design(29, 8, macs=1e9))
    d = around[1][0].width
    assert d is not None
    assert [a.width for a, _ in around] == [d - 1, d, d + 1]
    macs = [cost.macs for _, cost in around]
    assert macs == sorted(macs)
    assert abs(macs[1] - 1e9) == min(abs(m - 1e9) for m in macs)


def test_there_is_no_neighbour_below_one() -> None:
    assert [a.cardinality for a, _ in list_neighbours(design(29, width=64), "cardinality")] == [1, 2]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (
            {"macs": 1e6},
            "depth 50 and cardinality 32 fits 1,000,000 MACs: the smallest, resnext50_32x1d, has 1,374,060,544",
        ),
        ({"width": 64, "parameters": 1e6}, "depth 50 and width 64 fits .* the smallest, resnet50, has 25,557,032"),
        ({"macs": 4e9, "parameters": 25e6}, "not both"),
        ({"width": 4, "cardinality": 32}, "not both"),
        ({"macs": 1e30}, "more than the largest network has"),
        ({"macs": -1}, "above 0"),
        ({"parameters": float("nan")}, "above 0"),
        ({"stage_widths": (1, 2, 3, 4)}, "stage_widths cannot be given"),
        ({"depth": 51}, "not 9n"),
        ({"depth": 14, "blocks": (1, 1)}, "give depth 8, not 14"),
        ({"kardinality": 3}, "did you mean 'cardinality'"),
        ({"cardinality": 0}, "cardinality must be"),
    ],
)
def test_an_impossible_request_is_one_clear_sentence(request_: dict[str, object], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        design(**request_)  # type: ignore[arg-type]
