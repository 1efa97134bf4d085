"""Compare outputs and gradients of folded frozen BN with torchvision's FrozenBatchNorm2d."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from resnext.errors import RequestError
from resnext.model.frozen_norm import fold_frozen_norms, iter_conv_norm_pairs
from resnext.model.layers import Conv2d, NormAct
from resnext.model.network import create_model
from resnext.model.plan import Plan, fuse_all, set_activation_checkpointing
from resnext.settings_shared import InitSettings
from resnext.speed import kernels
from resnext.speed.convolution import ConvAlgorithms
from resnext.training.finetune import find_bn_layers, freeze, set_training_mode

SMALL = {"base_channels": 8, "num_classes": 5, "stem": "cifar"}
FROZEN = InitSettings(weights="x", frozen_bn=True)
FORMS = [
    {},
    {"form": "concatenated"},
    {"form": "branched"},
    {"block": "basic"},
    {"block": "basic", "form": "branched"},
    {"pre_activation": True},
    {"shortcut": "A"},
    {"shortcut": "C"},
    {"shortcut": "none"},
    {"stride_in_1x1": True},
    {"stem": "imagenet"},
]


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch fast paths on; other tests run without them."""
    monkeypatch.setenv("RESNEXT_FAST", "1")


def network(frozen: InitSettings = FROZEN, **changes: object) -> nn.Module:
    """Build a network whose norms are frozen, with non-trivial statistics, scales and shifts."""
    name = "resnext8_4x4d" if changes.get("block") == "basic" else "resnext11_4x4d"
    depth = {"depth": 14, "blocks": (1, 1, 1, 1)} if changes.get("stem") == "imagenet" else {}
    model = create_model(name, seed=0, **(SMALL | depth | changes)).double()
    generator = torch.Generator().manual_seed(3)
    for norm in find_bn_layers(model):
        for values, low in ((norm.weight, -0.5), (norm.bias, -1.0), (norm.running_mean, -1.0), (norm.running_var, 0.1)):
            values.data.copy_(low + 2 * torch.rand(values.shape, generator=generator, dtype=torch.float64))
    freeze(model, frozen)
    set_training_mode(model)
    return model


def images(size: int = 15) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def step(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return logits and gradients, including the images' gradient."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    logits = model(x)
    F.cross_entropy(logits.float() if logits.dtype == torch.bfloat16 else logits, torch.arange(len(x))).backward()
    assert x.grad is not None
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return logits.detach(), found | {"images": x.grad}


def same(found: tuple[Tensor, dict[str, Tensor]], expected: tuple[Tensor, dict[str, Tensor]], near: float) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=near, atol=near)
    assert found[1].keys() == expected[1].keys()
    for key, value in expected[1].items():
        torch.testing.assert_close(found[1][key], value, rtol=near, atol=near, msg=key)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("changes", FORMS, ids=str)
def test_folded_norms_train_as_plain_ones_in_float64(changes: dict[str, object], layout: torch.memory_format) -> None:
    plain, folded = (network(**changes).to(memory_format=layout) for _ in range(2))
    assert fold_frozen_norms(folded) > 0
    x = images(32 if "imagenet" in changes.values() else 15).contiguous(memory_format=layout)
    same(step(folded, x), step(plain, x), 1e-10)
    assert folded.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(folded.state_dict()[key], value) for key, value in plain.state_dict().items())
    assert [name for name, _ in folded.named_modules()] == [name for name, _ in plain.named_modules()]
    assert [name for name, _ in folded.named_parameters()] == [name for name, _ in plain.named_parameters()]


def test_all_norms_fold_but_those_behind_a_sum() -> None:
    for changes, left in (
        ({}, set()),
        ({"form": "concatenated"}, set()),
        ({"form": "branched"}, {"bn3"}),
        ({"pre_activation": True}, {"bn0", "bn"}),
        ({"block": "basic", "pre_activation": True}, {"bn0", "bn"}),
    ):
        model = network(**changes)
        count = fold_frozen_norms(model)
        plain = [name for name, norm in model.named_modules() if isinstance(norm, NormAct) and not norm.is_folded]
        assert {name.rsplit(".")[-1] for name in plain} == left, changes
        assert count + len(plain) == len(find_bn_layers(model))


@pytest.mark.parametrize("changes", FORMS, ids=str)
def test_a_pair_is_a_norm_that_reads_the_convolution(changes: dict[str, object]) -> None:
    model = network(**changes).eval()
    written: dict[nn.Module, Tensor] = {}
    read: dict[nn.Module, Tensor] = {}
    for module in model.modules():
        if isinstance(module, Conv2d):
            module.register_forward_hook(lambda m, _, y: written.__setitem__(m, y))
        elif isinstance(module, NormAct):
            module.register_forward_pre_hook(lambda m, inputs: read.__setitem__(m, inputs[0]))
    with torch.no_grad():
        model(images(32))
    pairs = list(iter_conv_norm_pairs(model))
    assert pairs
    assert all(read[norm] is written[conv] for conv, norm in pairs)


def test_folded_is_torchvisions_frozen_batch_norm() -> None:
    theirs = resnet_fpn_backbone(backbone_name="resnext50_32x4d", weights=None, trainable_layers=5).body.double()
    ours = create_model("resnext50_32x4d", num_classes=0).double()
    generator = torch.Generator().manual_seed(3)
    for module in theirs.modules():
        if isinstance(module, FrozenBatchNorm2d):
            assert module.eps == 1e-5
            module.weight.copy_(0.2 + torch.rand(module.weight.shape, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.weight.shape, generator=generator))
            module.running_mean.copy_(torch.randn(module.weight.shape, generator=generator))
    ours.load_state_dict(theirs.state_dict(), strict=False)
    freeze(ours, InitSettings(weights="x", frozen_bn=True))
    set_training_mode(ours)
    assert fold_frozen_norms(ours) == 53
    x = images(64)
    expected, found = theirs(x), ours.features(x, ["C2", "C3", "C4", "C5"])
    for got, want in zip(found.values(), expected.values(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    for maps in (expected, found):
        sum(m.square().mean() for m in maps.values()).backward()
    grads = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, grads[name].grad, rtol=1e-7, atol=1e-12, msg=name)


def test_bf16_is_as_near_to_float64_as_plain_frozen_norms() -> None:
    exact = step(network(), images(16))[1]
    error = {}
    for which in ("plain", "folded"):
        model = network().float().to(memory_format=torch.channels_last)
        if which == "folded":
            fold_frozen_norms(model)
        with torch.autocast("cpu", torch.bfloat16):
            found = step(model, images(16).float().contiguous(memory_format=torch.channels_last))[1]
        assert all(value.dtype == torch.float32 for value in found.values())
        error[which] = sum(float((found[key].double() - exact[key]).square().sum()) for key in exact)
    assert error["folded"] < 1.5 * error["plain"]


@pytest.mark.parametrize("stage", ["stem", "conv2", "features"])
def test_frozen_stages_fold_too_and_their_weights_stay(stage: str) -> None:
    plain, folded = (network(InitSettings(weights="x", frozen_bn=True, freeze=stage)) for _ in range(2))
    fold_frozen_norms(folded)
    expected, found = step(plain, images()), step(folded, images())
    same(found, expected, 1e-10)
    assert "conv1.weight" not in found[1]


def test_norms_of_trained_stages_train_on() -> None:
    plain, folded = (network(InitSettings(weights="x", freeze="conv2")) for _ in range(2))
    assert 0 < fold_frozen_norms(folded) < len(find_bn_layers(folded))
    same(step(folded, images()), step(plain, images()), 1e-10)
    for key, value in plain.state_dict().items():  # running statistics too
        torch.testing.assert_close(folded.state_dict()[key], value)


def test_the_mode_decides_in_each_pass() -> None:
    plain, folded = network(), network()
    fold_frozen_norms(folded)
    x = images()
    for change in (
        lambda model: model.eval(),
        lambda model: model.train(),  # batch statistics again
        set_training_mode,
        lambda model: [norm.requires_grad_(True) for norm in find_bn_layers(model)],
        lambda model: [norm.requires_grad_(False) for norm in find_bn_layers(model)],
        lambda model: model.load_state_dict({k: v * 1.1 for k, v in model.state_dict().items()}),
    ):
        change(plain)
        change(folded)
        same(step(folded, x), step(plain, x), 1e-10)


def test_a_copy_folds_by_its_own_norms() -> None:
    model = network()
    fold_frozen_norms(model)
    twin = copy.deepcopy(model)
    before = model(images())
    for norm in find_bn_layers(twin):
        norm.running_mean.add_(1)
    pairs = dict(iter_conv_norm_pairs(twin))
    assert all(conv.folded_norm[0] is norm for conv, norm in pairs.items())
    assert torch.equal(model(images()), before)
    plain = network()
    plain.load_state_dict(twin.state_dict())
    torch.testing.assert_close(twin(images()), plain(images()), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("planned", ["plain", "packed"])
def test_ways_and_recomputing_go_with_folded_norms(planned: str) -> None:
    plain, folded = (network().to(memory_format=torch.channels_last) for _ in range(2))
    ways = {}
    for name, layer in folded.named_modules():
        if planned == "packed" and isinstance(layer, Conv2d):
            if layer.groups > 1:
                ways[name] = ConvAlgorithms("pack2", "pack4", "pack2")
            elif layer.kernel_size == (1, 1):
                ways[name] = ConvAlgorithms("product", "product", "product")
    Plan(ways).apply(folded)
    fold_frozen_norms(folded)
    x = images(16).contiguous(memory_format=torch.channels_last)
    expected = step(plain, x)
    for level in ("no", "activations", "expansions", "blocks"):
        set_activation_checkpointing(folded, level)
        same(step(folded, x), expected, 1e-10)


@pytest.mark.parametrize("level", ["activations", "expansions"])
def test_a_folded_norm_behind_a_recomputed_one_is_not_mistaken_for_it(level: str) -> None:
    if not kernels.load():
        pytest.skip("no C++ compiler here")
    plain, folded = (network().to(memory_format=torch.channels_last) for _ in range(2))
    for model in (plain, folded):
        for name, norm in model.named_modules():
            if isinstance(norm, NormAct):
                norm.requires_grad_(not name.endswith("bn3"))
        set_training_mode(model)
    fuse_all(folded, Plan()).apply(folded)
    set_activation_checkpointing(folded, level)
    assert fold_frozen_norms(folded) == 3
    x = images(16).contiguous(memory_format=torch.channels_last)
    same(step(folded, x), step(plain, x), 1e-9)


def test_one_switch_leaves_all_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESNEXT_FAST", "0")
    model = network()
    assert fold_frozen_norms(model) == 0
    assert not any(norm.is_folded for norm in model.modules() if isinstance(norm, NormAct))


@pytest.mark.parametrize("fold", [True, False], ids=["folded", "plain"])
@pytest.mark.parametrize(("variance", "eps"), [(0.0, 1e-5), (1e-12, 1e-5), (1e-40, 1e-5), (1e-12, 0.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tiny_running_variances_give_no_nan(variance: float, eps: float, dtype: torch.dtype, fold: bool) -> None:
    model = network().float()
    for norm in find_bn_layers(model) if eps else [model.get_submodule("layer2.0.bn2")]:
        norm.eps = eps
        norm.running_var[::2] = variance
    if fold:
        fold_frozen_norms(model)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits, found = step(model, images(16).float())
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(value).all() for value in found.values())


@pytest.mark.parametrize("variance", [0.0, float("nan"), -1e-3])
def test_a_norm_without_a_finite_scale_is_named(variance: float) -> None:
    model = network()
    norm = model.get_submodule("layer2.0.bn2")
    norm.eps = 0.0
    norm.running_var[3] = variance
    with pytest.raises(RequestError, match=r"layer2\.0\.bn2 is frozen with running_var \S+ in channel 3 and eps 0"):
        fold_frozen_norms(model)
    norm.requires_grad_(True)
    fold_frozen_norms(model)  # it trains: batch statistics


@pytest.mark.slow
def test_a_folded_network_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model = network()
    expected = step(model, images(16))
    fold_frozen_norms(model)
    compiled = torch.compile(model)
    logits, found = step(compiled, images(16))
    same((logits, {key.removeprefix("_orig_mod."): value for key, value in found.items()}), expected, 1e-8)
