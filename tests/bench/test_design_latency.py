"""The search for the network with the most multiply-adds within a latency, with a machine that is a formula."""

import pytest

from resnext.bench import design_latency
from resnext.bench.design_latency import MeasuredNetwork, design_for_latency
from resnext.bench.latency import Latency, LatencyRequest
from resnext.errors import RequestError
from resnext.model.architecture import Architecture
from resnext.model.complexity import complexity
from resnext.model.network import Network

CIFAR = {"stem": "cifar", "base_channels": 8, "num_classes": 10}


def compute_latency(a: Architecture) -> float:
    """0.1 ms, and 1 ms for four million MACs, twice as much for groups of fewer than 8 channels."""
    return 0.1 + complexity(a).macs / 4e6 * (2 if a.cardinality > 1 and (a.width or 0) < 8 else 1)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(networks: list[Network], _: LatencyRequest) -> list[Latency]:
        return [Latency(compute_latency(network.architecture), "fp32 on fake") for network in networks]

    monkeypatch.setattr(design_latency, "measure_latencies", measure)


def find_best(budget: float, depth: int = 20) -> int:
    """The most MACs within the budget, by trying every width."""
    names = (Architecture.parse(f"resnext{depth}_{c}x{d}d", **CIFAR) for c in (2, 4, 8) for d in range(1, 40))
    return max(complexity(a).macs for a in names if compute_latency(a) <= budget)


@pytest.mark.parametrize("budget", [3.0, 10.0, 20.0])
def test_a_network_near_the_best_is_found_in_few_measurements(budget: float) -> None:
    """Not always the best: d = 8 is faster than d = 7, but the search takes latency to rise with d."""
    numbers: list[int] = []
    found = design_for_latency(budget, depth=20, report=lambda _, number: numbers.append(number), **CIFAR)
    assert found[0].holds
    assert found[0].latency.milliseconds <= budget
    assert complexity(found[0].architecture).macs >= 0.9 * find_best(budget)
    assert numbers == list(range(1, len(found) + 1))
    assert len(found) <= 24
    assert len({one.architecture for one in found}) == len(found)


def test_the_number_of_measurements_is_bounded() -> None:
    assert len(design_for_latency(10.0, depth=20, measurements=7, **CIFAR)) == 7


def test_depth_and_cardinality_can_be_given() -> None:
    found = design_for_latency(8.0, depth=29, cardinality=4, **CIFAR)
    assert {(one.architecture.depth, one.architecture.cardinality) for one in found} == {(29, 4)}
    low, high = (found[0].architecture.change(width=(found[0].architecture.width or 0) + more) for more in (0, 1))
    assert compute_latency(low) <= 8.0 < compute_latency(high)


def test_widths_can_be_multiples() -> None:
    found = design_for_latency(30.0, depth=20, multiple=4, **CIFAR)
    assert {(one.architecture.width or 0) % 4 for one in found} == {0}
    assert found[0].holds


def test_another_score_can_be_maximised() -> None:
    def prefer_paths(a: Architecture) -> float:
        return 1000.0 * a.cardinality + (a.width or 0)

    found: list[MeasuredNetwork] = design_for_latency(20.0, depth=20, score=prefer_paths, **CIFAR)
    assert found[0].architecture.cardinality == 32


def test_a_budget_that_cannot_be_met_names_the_fastest() -> None:
    with pytest.raises(RequestError, match=r"no network holds 0.01 ms here: the fastest of \d+ .*, resnet20_1x1d"):
        design_for_latency(0.01, depth=20, **CIFAR)


@pytest.mark.parametrize("budget", [0, -1, float("nan"), float("inf")])
def test_a_budget_is_a_number_above_0(budget: float) -> None:
    with pytest.raises(RequestError, match="a number of milliseconds above 0"):
        design_for_latency(budget)
