"""Which paths stay, and how many in each stage."""

import itertools

import pytest
import torch

from resnext.errors import RequestError
from resnext.model.architecture import Architecture
from resnext.model.complexity import complexity
from resnext.pruning.budget import find_counts_for_macs
from resnext.pruning.selection import change_counts, check_has_paths, choose_paths, list_greedy_counts, resolve_counts

A = Architecture(blocks=(2, 1), stem="cifar", cardinality=4, width=3, base_channels=4, num_classes=5)
SCORES = {
    "layer1.0": torch.tensor([3.0, 1.0, 2.0, 4.0]),
    "layer1.1": torch.tensor([1.0, 1.0, 1.0, 1.0]),
    "layer2.0": torch.tensor([0.1, 0.4, 0.3, 0.2]),
}


def test_each_block_keeps_its_own_best_paths_in_order() -> None:
    kept = choose_paths(A, SCORES, (2, 3))
    assert kept == {"layer1.0": [0, 3], "layer1.1": [0, 1], "layer2.0": [1, 2, 3]}


def test_numbers_of_paths_are_one_for_all_or_one_for_each_stage() -> None:
    assert resolve_counts(A, 2) == (2, 2)
    assert resolve_counts(A, (1, 4)) == (1, 4)
    assert resolve_counts(A.change(stage_cardinalities=(2, 4)), 3) == (2, 3)


@pytest.mark.parametrize(
    ("cardinality", "says"),
    [
        (4, "has 4 paths in its stages; pruning leaves fewer, not 4"),
        (9, "not 9"),
        (0, "at least 1 path, not 0"),
        ((2, 2, 2), "3 numbers of paths were given"),
        ((5, 1), "not 5-1"),
    ],
)
def test_numbers_that_prune_nothing_are_refused(cardinality: int | tuple[int, ...], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        resolve_counts(A, cardinality)


def test_a_network_of_one_path_a_block_is_refused() -> None:
    with pytest.raises(RequestError, match=r"resnet29 cannot be pruned by paths: its blocks have one path each"):
        check_has_paths(Architecture.parse("resnet29"))


def test_greedy_steps_take_the_cheapest_importance_per_mac_first() -> None:
    steps = list_greedy_counts(A, SCORES, 16)
    assert steps[0] == (4, 4)
    assert steps[-1] == (1, 1)
    for before, after in itertools.pairwise(steps):
        prices = {}
        for stage in range(2):
            fewer = tuple(n - (i == stage) for i, n in enumerate(before))
            if fewer[stage] < 1:
                continue
            saved = complexity(change_counts(A, before), 16).macs - complexity(change_counts(A, fewer), 16).macs
            blocks = [name for name in SCORES if name.startswith(f"layer{stage + 1}.")]
            lost = sum(SCORES[name].sort().values[4 - before[stage]].item() for name in blocks)
            prices[fewer] = lost / saved
        assert after == min(prices, key=lambda counts: prices[counts])


def test_steps_can_be_multiples() -> None:
    steps = list_greedy_counts(A.change(stage_cardinalities=(4, 7)), SCORES | {"layer2.0": torch.arange(7.0)}, 16, 2)
    assert {counts[1] for counts in steps} == {7, 6, 4, 2}
    assert {counts[0] for counts in steps} == {4, 2}


def test_the_largest_step_within_a_budget_of_macs_is_taken() -> None:
    steps = list_greedy_counts(A, SCORES, 16)
    costs = [complexity(change_counts(A, counts), 16).macs for counts in steps]
    for step in range(1, len(steps)):
        assert find_counts_for_macs(A, steps, costs[step], 16) == steps[step]
        assert find_counts_for_macs(A, steps, costs[step - 1] - 1, 16) == steps[step]
    with pytest.raises(RequestError, match="nothing to prune"):
        find_counts_for_macs(A, steps, costs[0], 16)
    with pytest.raises(RequestError, match=rf"cannot be reached: resnet11_1x3d .* has {costs[-1]:,}"):
        find_counts_for_macs(A, steps, costs[-1] - 1, 16)
