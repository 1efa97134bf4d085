"""``resnext.prune`` on the digits: records, budgets, images, and what is refused."""

import pytest
import torch

import resnext
from resnext.bench import latency
from resnext.bench.latency import Latency, LatencyRequest
from resnext.data.sources.digits import open_digits
from resnext.errors import RequestError
from resnext.model.network import Network, create_model
from resnext.pruning import budget, prune
from resnext.pruning.images import iterate_images
from resnext.pruning.importance import compute_magnitude_importance, compute_taylor_importance
from resnext.pruning.selection import choose_paths
from resnext.pruning.slicing import keep_paths
from resnext.settings import DataSettings
from tests.commands.conftest import digits_network

DIGITS = open_digits(DataSettings())


def digits(cardinality: int = 4) -> Network:
    base = digits_network()
    model = create_model(base.architecture.change(cardinality=cardinality), seed=0).eval()
    model.preprocessing, model.classes = base.preprocessing, base.classes
    model.provenance = {"step": 7, "notes": ["a note"]}
    return model


def test_images_come_once_in_an_order_that_the_seed_decides() -> None:
    preprocessing = digits().preprocessing

    def labels(seed: int, count: int = 300) -> list[int]:
        batches = iterate_images(
            DIGITS.train, preprocessing, count, batch_size=64, seed=seed, device=torch.device("cpu")
        )
        return [label for _, part in batches for label in part.tolist()]

    assert len(labels(0)) == 256  # whole batches
    assert labels(0) == labels(0)
    assert labels(0) != labels(1)
    assert len(labels(0, 100_000)) == len(DIGITS.train) // 64 * 64
    with pytest.raises(RequestError, match="at least two images"):
        labels(0, 1)


def test_the_parts_make_the_whole() -> None:
    model = digits()
    pruned = resnext.prune(model, DIGITS.train, cardinality=(2, 3, 1), images=128, recalibrate=0, seed=4)
    batches = iterate_images(DIGITS.train, model.preprocessing, 128, batch_size=64, seed=4, device=torch.device("cpu"))
    scores = compute_taylor_importance(model, batches)
    expected = keep_paths(model, choose_paths(model.architecture, scores, (2, 3, 1)))
    assert pruned.architecture == expected.architecture
    assert all(torch.equal(tensor, pruned.state_dict()[name]) for name, tensor in expected.state_dict().items())


def test_the_history_is_kept() -> None:
    pruned = resnext.prune(digits(), DIGITS.train, cardinality=3, images=64, recalibrate=128)
    about = pruned.provenance["prune"]
    assert (about["from"], about["paths"]) == ("resnext11_4x4d (base_channels=4)", [[4, 4, 4], [3, 3, 3]])
    assert (about["importance"], about["images"], about["recalibrated_images"]) == ("taylor", 64, 128)
    assert about["resnext"] == resnext.__version__
    assert pruned.provenance["step"] == 7
    assert pruned.provenance["notes"][-1].startswith("it was pruned: resnext11_4x4d")
    again = resnext.prune(pruned, cardinality=1)
    assert again.provenance["prune"]["before"] == about
    assert again.provenance["prune"]["importance"] == "magnitude"


def test_bn_gets_the_statistics_of_what_is_left() -> None:
    model = digits()
    kept = resnext.prune(model, DIGITS.train, cardinality=2, images=64, recalibrate=0)
    estimated = resnext.prune(model, DIGITS.train, cardinality=2, images=64, recalibrate=256)
    assert not torch.equal(kept.layer1[0].bn3.running_mean, estimated.layer1[0].bn3.running_mean)
    assert torch.equal(kept.layer1[0].conv3.weight, estimated.layer1[0].conv3.weight)
    assert not estimated.training


def test_a_budget_of_macs_holds() -> None:
    model = digits(8)
    size = model.preprocessing.image_size
    whole = resnext.complexity(model, size).macs
    pruned = resnext.prune(model, macs=0.6 * whole)
    assert resnext.complexity(pruned, size).macs <= 0.6 * whole
    even = resnext.prune(model, macs=0.6 * whole, multiple=4)
    assert {c % 4 for c in even.architecture.cardinalities} == {0}


def fake_latencies(networks: list[Network], _: LatencyRequest) -> list[Latency]:
    """One path costs a millisecond."""
    return [Latency(float(sum(n.architecture.cardinalities)), "fp32 on fake") for n in networks]


def test_a_budget_of_latency_is_met_with_few_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "measure_latencies", fake_latencies)
    lines: list[str] = []
    pruned = resnext.prune(digits(8), latency=11.5, report=lines.append)
    assert sum(pruned.architecture.cardinalities) == 11
    assert len(lines) <= 1 + 5  # the smallest one, then log2 of 22 steps
    assert lines[0] == "resnet11_1x4d (base_channels=4): 3 ms on fp32 on fake (the whole network 24 ms)"
    with pytest.raises(RequestError, match=r"takes 24 ms on fp32 on fake, within 24 ms already"):
        resnext.prune(digits(8), latency=24)
    with pytest.raises(RequestError, match=r"2 ms cannot be reached: resnet11_1x4d .* takes 3 ms"):
        resnext.prune(digits(8), latency=2)


def test_latency_is_measured_on_an_engine() -> None:
    found = latency.measure_latencies([digits(2), digits(4)], LatencyRequest("pytorch"))
    assert all(one.milliseconds > 0 and one.engine.startswith("fp32 on pytorch") for one in found)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "give one of cardinality, macs and latency, not none"),
        ({"cardinality": 2, "macs": 1e6}, "not cardinality and macs"),
        ({"width": 2, "macs": 1e6}, "width can be pruned alone or with cardinality, not to a budget of macs"),
        ({"width": 4}, "are 4 channels wide in the first stage; pruning leaves from 1 to 3, not 4"),
        ({"macs": 0}, "macs must be a number above 0"),
        ({"latency": float("nan")}, "latency must be a number above 0"),
        ({"cardinality": 2, "importance": "tailor"}, "importance 'tailor' is unknown; did you mean 'taylor'"),
        ({"cardinality": 2, "importance": "taylor"}, "taylor needs training images"),
        ({"macs": 1e5, "multiple": 0}, "multiple must be at least 1"),
        ({"macs": 1e5, "multiple": 4}, "has no stage of more than 4 paths"),
        ({"latency": 1, "engine": "tensorrt"}, "engine 'tensorrt' is unknown"),
        ({"latency": 1, "precision": "int8"}, "latency is measured in fp32, bf16, auto, not in int8"),
    ],
)
def test_what_cannot_be_pruned_is_one_sentence(options: dict[str, object], says: str) -> None:
    with pytest.raises(RequestError) as caught:
        resnext.prune(digits(), **options)
    assert says in str(caught.value)


def test_data_of_other_classes_is_refused() -> None:
    model = digits()
    model.classes = tuple("abcdefghij")
    with pytest.raises(RequestError, match="classes"):
        resnext.prune(model, DIGITS.train, cardinality=2)


def test_a_missing_engine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from resnext.deploy import engines

    monkeypatch.setattr(engines, "find_spec", lambda _: None)
    with pytest.raises(RequestError, match=r"engine openvino needs openvino: pip install 'resnext\[openvino\]'"):
        resnext.prune(digits(), latency=1, engine="openvino")


def test_pruning_by_magnitude_needs_no_images() -> None:
    model = digits()
    pruned = prune.prune(model, cardinality=2)
    kept = choose_paths(model.architecture, compute_magnitude_importance(model), (2, 2, 2))
    assert torch.equal(pruned.layer1[0].bn1.weight, keep_paths(model, kept).layer1[0].bn1.weight)


def test_widths_are_pruned_alone_or_with_paths() -> None:
    both = resnext.prune(digits(), DIGITS.train, cardinality=2, width=3, images=64, recalibrate=64)
    assert both.architecture.name == "resnext11_2x3d (base_channels=4)"
    assert both.provenance["prune"]["widths"] == [[4, 8, 16], [3, 6, 12]]
    alone = resnext.prune(digits(1), width=1)
    assert alone.architecture.name == "resnet11_1x1d (base_channels=4)"
