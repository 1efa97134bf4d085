"""Tests of tuning plans: times are cached, plans are applied and saved, and the function stays the same."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import resnext
from resnext.errors import RequestError
from resnext.model.layers import Conv2d, GroupedConv2d, NormAct
from resnext.model.network import create_model
from resnext.model.plan import Plan, autotune, fuse_all, set_activation_checkpointing, tune
from resnext.speed import kernels
from resnext.speed.convolution import ConvAlgorithms
from resnext.speed.tuning_cache import TuningCache

SMALL = {"base_channels": 8, "num_classes": 5, "stem": "cifar"}


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch fast paths on; other tests run without them."""
    monkeypatch.setenv("RESNEXT_FAST", "1")


@pytest.fixture
def needs_kernels() -> None:
    if not kernels.load():
        pytest.skip("no C++ compiler here: the fused operator runs as plain PyTorch")


def images(count: int = 4, size: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, size, size, generator=generator).contiguous(memory_format=torch.channels_last)


def network(name: str = "resnext11_4x4d", **changes: object) -> nn.Module:
    return create_model(name, seed=0, **(SMALL | changes)).to(memory_format=torch.channels_last)


def everything(model: nn.Module) -> Plan:
    """Build a plan that gives every layer an algorithm other than plain."""
    ways = {}
    for name, layer in model.named_modules():
        if isinstance(layer, GroupedConv2d):
            ways[name] = ConvAlgorithms("pack2", "pack4", "pack2")
        elif isinstance(layer, Conv2d) and layer.kernel_size == (1, 1):
            ways[name] = ConvAlgorithms("product", "product", "product")
    return fuse_all(model, Plan(ways))


def gradients(model: nn.Module, x: Tensor, precision: torch.dtype = torch.float32) -> tuple[Tensor, dict[str, Tensor]]:
    model.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        logits = model(x.to(torch.float64) if precision == torch.float64 else x)
    F.cross_entropy(logits if precision == torch.float64 else logits.float(), torch.arange(len(x)) % 5).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return logits.detach(), found


@pytest.mark.usefixtures("needs_kernels")
@pytest.mark.parametrize("changes", [{}, {"pre_activation": True}, {"block": "basic"}, {"shortcut": "A"}], ids=str)
def test_all_fast_paths_together_train_as_plain_layers_in_float64(changes: dict[str, object]) -> None:
    name = "resnext8_4x4d" if "block" in changes else "resnext11_4x4d"
    plain, planned = (network(name, **changes).double() for _ in range(2))
    everything(planned).apply(planned)
    logits, expected = gradients(plain, images(), torch.float64)
    again, found = gradients(planned, images(), torch.float64)
    torch.testing.assert_close(again, logits, rtol=1e-9, atol=1e-9)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-7, atol=1e-9, msg=key)
    for (key, before), after in zip(plain.state_dict().items(), planned.state_dict().values(), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-6, msg=key)


@pytest.mark.usefixtures("needs_kernels")
def test_bf16_gradients_are_as_near_to_float64_as_those_of_plain_layers() -> None:
    x = images(8)
    exact = gradients(network().double(), x, torch.float64)[1]
    plain, planned = network(), network()
    everything(planned).apply(planned)
    error = {}
    for which, model in (("plain", plain), ("planned", planned)):
        found = gradients(model, x, torch.bfloat16)[1]
        error[which] = sum(float((found[key].double() - exact[key]).square().sum()) for key in exact)
    assert error["planned"] < 1.5 * error["plain"]


@pytest.mark.usefixtures("needs_kernels")
@pytest.mark.parametrize("level", ["activations", "expansions", "blocks"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_recomputing_gives_the_same_bits_as_keeping(level: str, precision: torch.dtype) -> None:
    kept, remade = network(), network()
    for model in (kept, remade):
        everything(model).apply(model)
    set_activation_checkpointing(remade, level)
    logits, expected = gradients(kept, images(), precision)
    again, found = gradients(remade, images(), precision)
    assert torch.equal(again, logits)
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    for (key, before), after in zip(kept.state_dict().items(), remade.state_dict().values(), strict=True):
        assert torch.equal(before, after), key


def test_recomputing_blocks_of_plain_layers_gives_the_same_bits() -> None:
    kept, remade = network(), network()
    set_activation_checkpointing(remade, "blocks")
    logits, expected = gradients(kept, images())
    again, found = gradients(remade, images())
    assert torch.equal(again, logits)
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def held_bytes(model: nn.Module, x: Tensor) -> int:
    """Return the bytes that a training forward pass allocates and that its output keeps alive."""
    model.train()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        logits = model(x)
    assert logits.requires_grad
    return sum(event.self_cpu_memory_usage for event in profile.key_averages())


@pytest.mark.usefixtures("needs_kernels")
def test_each_level_of_recomputing_holds_less() -> None:
    held = {}
    for level in ("no", "activations", "expansions", "blocks"):
        model = network("resnext29_4x4d")
        everything(model).apply(model)
        set_activation_checkpointing(model, level)
        held[level] = held_bytes(model, images(8, 32))
    assert held["no"] > 1.2 * held["activations"]
    assert held["activations"] > 1.2 * held["expansions"]
    assert held["expansions"] > 1.2 * held["blocks"]


def test_settling_leaves_the_model_as_it_was_and_measures_once(tmp_path: Path) -> None:
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    heard: list[str] = []
    choices = TuningCache("this machine", tmp_path / "choices.json")
    plan = autotune(model, images(), cache=choices, progress=heard.append)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert heard
    kept = json.loads((tmp_path / "choices.json").read_text())["this machine"]
    assert kept.keys() == set(heard)
    again = autotune(model, images(), cache=TuningCache("this machine", tmp_path / "choices.json", dict(kept)))
    assert again == plan


def test_measured_seconds_decide(tmp_path: Path) -> None:
    model = network().train()
    choices = TuningCache("x", tmp_path / "choices.json")
    autotune(model, images(), cache=choices)
    for key, ways in choices.timings.items():
        choices.timings[key] = {way: 1.0 if way in ("plain", "product", "pack2") else 9.0 for way in ways}
    assert autotune(model, images(), cache=choices) == Plan()  # no faster than plain is plain
    for key, ways in choices.timings.items():
        choices.timings[key] = {way: 0.5 if way in ("product", "pack2") else 1.0 for way in ways}
    plan = autotune(model, images(), cache=choices)
    assert plan.convolutions["layer1.0.conv2"] == ConvAlgorithms("pack2", "pack2", "pack2")
    assert plan.convolutions["layer1.0.conv1"] == ConvAlgorithms("product", "product", "product")
    assert plan.norms == ()


def test_a_plan_goes_through_json_and_refuses_what_is_none() -> None:
    plan = Plan({"layer1.0.conv2": ConvAlgorithms("plain", "pack2", "pack4")}, ("bn1",))
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    for wrong in (None, [], {}, {"convolutions": {"a": {"no": "way"}}, "norms": []}, {"convolutions": [], "norms": 3}):
        with pytest.raises(RequestError, match="not a tuning plan"):
            Plan.from_dict(wrong)


@pytest.mark.parametrize(
    ("plan", "named"),
    [
        (Plan({"layer9.0.conv2": ConvAlgorithms()}), "layer9.0.conv2"),
        (Plan({}, ("layer1.0.conv1",)), "layer1.0.conv1"),
        (Plan({"layer1.0.conv2": ConvAlgorithms("pack3")}), "pack3"),
        (Plan({"layer1.0.conv1": ConvAlgorithms("pack2")}), "pack2"),
    ],
)
def test_a_plan_of_another_network_is_refused(plan: Plan, named: str) -> None:
    with pytest.raises(RequestError, match=named):
        plan.apply(network())


def test_one_switch_turns_every_fast_path_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNEXT_FAST", "0")
    model = network()
    assert autotune(model, images()) == Plan()
    Plan({"layer1.0.conv2": ConvAlgorithms("pack2", "pack2", "pack2")}, ("bn1",)).apply(model)
    assert model.get_submodule("layer1.0.conv2").algorithms == ConvAlgorithms()
    assert model.get_submodule("bn1").algorithm == "plain"
    with pytest.raises(RequestError, match="compiler"):
        fuse_all(model, Plan())


def test_evaluation_is_always_plain() -> None:
    plain, planned = network().eval(), network().eval()
    everything(planned).apply(planned)
    assert torch.equal(planned(images()), plain(images()))


def test_tune_sets_the_plan_it_returns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path))
    model = create_model("resnext11_4x4d", seed=0, **SMALL)
    plan = tune(model, batch_size=2, image_size=16, precision="bf16")
    assert set(plan.norms) == {n for n, m in model.named_modules() if isinstance(m, NormAct) and m.algorithm == "fused"}
    assert model.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert resnext.tune is tune


@pytest.mark.slow
@pytest.mark.usefixtures("needs_kernels")
def test_a_planned_network_compiles_and_trains_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()  # shapes that other tests compiled would make this one's dynamic
    model = network()
    everything(model).apply(model)
    logits, expected = gradients(model, images())
    compiled = torch.compile(model)
    again, found = gradients(compiled, images())
    torch.testing.assert_close(again, logits, rtol=1e-4, atol=1e-4)
    for key, value in expected.items():
        torch.testing.assert_close(found[f"_orig_mod.{key}"], value, rtol=1e-3, atol=1e-4, msg=key)


@pytest.mark.usefixtures("needs_kernels")
def test_a_planned_network_exports_as_plain_operators() -> None:
    model = network().eval()
    everything(model).apply(model)
    program = torch.export.export(model, (images(),))
    assert "resnext" not in str(program.graph)
    torch.testing.assert_close(program.module()(images()), model(images()))
