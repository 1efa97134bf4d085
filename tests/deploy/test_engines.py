"""Test that every engine gives the network's logits, in each precision and configuration."""

import pytest
import torch

from resnext import RequestError, WorkError, environment
from resnext.deploy import engines, pytorch_engine
from resnext.deploy.engine_builder import EngineBuilder
from resnext.deploy.engines import (
    ENGINES,
    TOLERANCE,
    EngineConfig,
    compute_relative_error,
    list_configs,
    list_engines,
)
from resnext.environment import has_bf16
from tests.deploy.networks import compute_logits, images, lived

pytestmark = pytest.mark.usefixtures("one_thread")

COMBINATIONS = [(name, p) for name, kind in ENGINES.items() for p in kind.precisions if p != "int8"]


def usable(engine: str, precision: str) -> None:
    if engines.find_missing_packages(engine):
        pytest.skip(f"{engine} is not installed")
    if precision == "bf16" and not has_bf16():
        pytest.skip("no bf16 on this machine")


@pytest.mark.parametrize(("engine", "precision"), COMBINATIONS)
def test_results_are_the_networks_in_every_way(engine: str, precision: str) -> None:
    usable(engine, precision)
    network = lived("resnext11_2x4d" if engine == "openvino" else "resnext11_4x4d")
    parts, x = EngineBuilder(network, precision, 2), images(5)
    with torch.no_grad():
        logits = network(x)
    for way in list_configs(engine, precision, "throughput", 4, 2):
        run = parts.build(way)
        for part in (x, x[:1], x[:2, :, :24, :20].contiguous()):  # other batches and sizes than the first
            with torch.no_grad():
                reference = logits[: len(part)] if part.shape[2:] == x.shape[2:] else network(part)
            assert compute_relative_error(compute_logits(run, part), reference) < TOLERANCE[precision], way


@pytest.mark.parametrize("changes", [{"pre_activation": True}, {"shortcut": "A"}, {"num_classes": 0}])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_fused_operators_take_every_kind_of_network(changes: dict, precision: str) -> None:
    usable("pytorch", precision)
    if not pytorch_engine.has_fused_convolutions():
        pytest.skip("this PyTorch has no oneDNN")
    network, x = lived(**changes), images()
    kept = x.clone()
    run = EngineBuilder(network, precision, 2).build(EngineConfig("pytorch", "fused", 16))
    with torch.no_grad():
        assert compute_relative_error(compute_logits(run, x), network(x)) < TOLERANCE[precision]
    assert torch.equal(x, kept)  # sums are written in place, but not into the input


def test_a_pytorch_without_onednn_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytorch_engine, "has_fused_convolutions", lambda: False)
    with pytest.raises(WorkError, match="no fused convolutions"):
        EngineBuilder(lived(), "fp32", 2).build(EngineConfig("pytorch", "fused"))


def test_names_of_ways_can_be_read_back() -> None:
    for engine, kind in ENGINES.items():
        for way in list_configs(engine, kind.precisions[0], "throughput", 16, 2):
            assert EngineConfig.parse(str(way)) == way


@pytest.mark.parametrize(
    "name", ["", "pytorch", "tensorrt folded pack=0 piece=0 streams=1", "pytorch rm pack=0", "a=b"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        EngineConfig.parse(name)


def test_an_unknown_engine_gets_the_nearest() -> None:
    with pytest.raises(RequestError, match="did you mean 'openvino'"):
        list_engines("openvin", "fp32")


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"engine openvino needs openvino: pip install 'resnext\[openvino\]'"):
        list_engines("openvino", "fp32")
    assert list_engines("auto", "fp32") == ["pytorch"]
    with pytest.raises(RequestError, match="openvino"):
        list_engines("auto", "int8")


def test_an_engine_without_the_precision_names_one_that_has_it() -> None:
    with pytest.raises(RequestError, match="engine pytorch does not compute in int8 here; openvino does"):
        list_engines("pytorch", "int8")


def test_onednn_held_back_means_no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "read_cpu_features", lambda: ["avx2", "avx512f", "avx512_bf16"])
    assert has_bf16()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert not has_bf16()


def test_distance_is_relative_and_not_a_number_is_far() -> None:
    reference = torch.tensor([[3.0, 4.0]])
    assert compute_relative_error(reference * 1.1, reference) == pytest.approx(0.1)
    assert not compute_relative_error(torch.tensor([[float("nan"), 0.0]]), reference) <= 1
