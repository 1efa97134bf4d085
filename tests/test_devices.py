"""What must hold on every device: packing, plans, precisions, layouts, compiling, DDP, resume."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from resnext.bench.device_steps import without_tf32
from resnext.data.preprocessing import Preprocessing
from resnext.data.sources.digits import open_digits
from resnext.device import autocast
from resnext.evaluation.evaluator import evaluate
from resnext.model.layers import NormAct
from resnext.model.network import Network, create_model
from resnext.model.plan import autotune, set_activation_checkpointing
from resnext.recipe import read_recipe
from resnext.run_directory import RunDirectory
from resnext.settings import DataSettings, Recipe
from resnext.speed.convolution import ConvAlgorithms, ConvShape, convolve, list_algorithms
from resnext.speed.tuning_cache import TuningCache, get_machine_fingerprint
from resnext.training.distributed import World
from tests.conftest import TINY, list_devices
from tests.training.helpers import cut_off_before, train

pytestmark = [pytest.mark.device, pytest.mark.usefixtures("whole_fp32", "one_thread")]
VIEW = Preprocessing(image_size=8, resize=8, mean=(0.3,), std=(0.3,), channels=1)
GRAPHS = ["cuda-graphs"] * any(name.startswith("cuda") for name in list_devices())


@pytest.fixture
def whole_fp32() -> Iterator[None]:
    """Compute fp32 in whole fp32, so that devices can be compared closely."""
    with without_tf32():
        yield


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch fast paths on."""
    monkeypatch.setenv("RESNEXT_FAST", "1")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.replace("epochs: 3", "epochs: 1"))
    return path


def build(device: torch.device) -> Network:
    model = create_model("resnext11_4x4d", seed=0, base_channels=8, num_classes=5, stem="cifar").to(device)
    with torch.no_grad():  # BN shifts of 2: hardly any ReLU is near 0, where rounding would switch it
        for norm in (module for module in model.modules() if isinstance(module, NormAct)):
            norm.bias.fill_(2.0)
    return model.train()


def images(device: torch.device, count: int = 4, size: int = 16) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1)).to(device)


def gradients(model: nn.Module, x: Tensor, precision: str = "fp32") -> dict[str, Tensor]:
    """Compute the gradients of the loss, scaled meanwhile for fp16, and clear them; they are on the CPU."""
    scale = 1024 if precision == "fp16" else 1
    with autocast(x.device, precision):
        logits = model(x)
    (scale * F.cross_entropy(logits.float(), (torch.arange(len(x)) % 5).to(x.device))).backward()
    named = {name.removeprefix("module.").removeprefix("_orig_mod."): p for name, p in model.named_parameters()}
    found = {name: parameter.grad.float().cpu() / scale for name, parameter in named.items()}
    model.zero_grad(set_to_none=True)
    return found


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], share: float) -> None:
    """Every tensor is as far from the expected one as this share of its norm, at most."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.linalg.vector_norm(found[name] - tensor) <= share * torch.linalg.vector_norm(tensor) + 1e-6, name


def read_losses(run: RunDirectory) -> list[float]:
    rows = map(json.loads, (run.path / "log.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if row["kind"] == "step"]


def read_tiny(recipe: Path, device: torch.device, **train: object) -> Recipe:
    return read_recipe(
        recipe, {"augment.mixup": 0, "train.device": str(device)} | {f"train.{k}": v for k, v in train.items()}
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernel", [1, 3])
def test_every_algorithm_of_a_convolution_is_the_convolution(
    device: torch.device, kernel: int, dtype: torch.dtype
) -> None:
    groups = 4 if kernel == 3 else 1
    shape = ConvShape((2, 2), (kernel // 2, kernel // 2), (1, 1), groups)
    weight = torch.randn(8, 8 // groups, kernel, kernel, generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 8, 9, 9, generator=torch.Generator().manual_seed(1)).contiguous(
        memory_format=torch.channels_last
    )
    wanted = [value.to(torch.float64).requires_grad_() for value in (x.to(dtype), weight.to(dtype))]
    expected = F.conv2d(*wanted, None, shape.stride, shape.padding, shape.dilation, groups)
    expected.sum().backward()
    share = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 2e-2}[dtype]
    for name in list_algorithms(shape, weight.shape):
        mine = [value.to(device, dtype, copy=True).requires_grad_() for value in (x, weight)]
        y = convolve(mine[0], mine[1], shape, ConvAlgorithms(name, name, name))
        y.sum().backward()
        found = {"y": y, "x": mine[0].grad, "weight": mine[1].grad}
        right = {"y": expected, "x": wanted[0].grad, "weight": wanted[1].grad}
        assert_close({k: v.detach().double().cpu() for k, v in found.items()}, right, share)


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_plan_tuned_on_the_device_computes_the_same_there(
    device: torch.device, precision: str, tmp_path: Path
) -> None:
    model, x = build(device), images(device).contiguous(memory_format=torch.channels_last)
    model.to(memory_format=torch.channels_last)
    expected = gradients(model, x, precision)
    cache = TuningCache(get_machine_fingerprint(device), tmp_path / "choices.json")
    plan = autotune(model, x, precision, cache=cache)
    plan.apply(model)
    assert_close(gradients(model, x, precision), expected, 1e-4 if precision == "fp32" else 0.1)
    assert list(json.loads(cache.path.read_text())) == [cache.machine], "times are stored by the name of the device"


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("precision", "share"), [("fp32", 1e-3), ("fp16", 0.1), ("bf16", 0.4)])
def test_gradients_in_every_precision_and_layout_are_those_of_fp32_on_the_cpu(
    device: torch.device, precision: str, share: float, channels_last: bool
) -> None:
    expected = gradients(build(torch.device("cpu")), images(torch.device("cpu")))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = build(device).to(memory_format=layout)
    assert_close(gradients(model, images(device).contiguous(memory_format=layout), precision), expected, share)


def test_recomputing_blocks_gives_the_same_gradients(device: torch.device) -> None:
    model, x = build(device), images(device)
    expected = gradients(model, x)
    set_activation_checkpointing(model, "blocks")
    assert_close(gradients(model, x), expected, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_learns_on_the_device_what_it_learns_on_the_cpu(
    device: torch.device, precision: str, recipe: Path, tmp_path: Path
) -> None:
    here = train(read_tiny(recipe, torch.device("cpu")), tmp_path / "cpu")
    there = train(read_tiny(recipe, device, precision=precision, channels_last="yes"), tmp_path / "device")
    assert read_losses(there) == pytest.approx(read_losses(here), rel=1e-3 if precision == "fp32" else 5e-2)


@pytest.mark.slow
def test_a_run_cut_off_and_resumed_on_the_device_ends_like_a_whole_one(
    device: torch.device, recipe: Path, tmp_path: Path
) -> None:
    settings = read_tiny(recipe, device)
    whole = train(settings, tmp_path / "whole")
    with cut_off_before(3):
        train(settings, tmp_path / "run")
    resumed = train(settings, tmp_path / "run", resume=True)
    exact = device.type == "cpu"  # elsewhere sums depend on the order in which threads add
    assert read_losses(resumed) == (read_losses(whole) if exact else pytest.approx(read_losses(whole), rel=1e-3))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["yes", *GRAPHS])
def test_a_compiled_run_learns_what_an_eager_one_learns_on_the_device(
    device: torch.device, how: str, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    eager = train(read_tiny(recipe, device, fast="no"), tmp_path / "eager")
    compiled = train(read_tiny(recipe, device, fast="no", compile=how), tmp_path / "compiled")
    assert read_losses(compiled) == pytest.approx(read_losses(eager), rel=1e-2)


def test_evaluation_on_the_device_finds_what_the_cpu_finds(device: torch.device) -> None:
    source = open_digits(DataSettings(source="digits", max_val_images=60))
    model = create_model("resnext11_2x4d", base_channels=4, num_classes=10, in_channels=1, seed=0)
    here = evaluate(model, source.val, VIEW, device="cpu")
    there = evaluate(model.to(device), source.val, VIEW, device=device, channels_last=True)
    assert there.loss == pytest.approx(here.loss, rel=1e-4)
    assert (there.predicted != here.predicted).mean() < 0.01


class OneOfOne(World):
    """A process group of one process, which communicates with itself."""

    @property
    def is_alone(self) -> bool:
        return False


@pytest.fixture
def group(device: torch.device) -> Iterator[OneOfOne]:
    """Join a process group of one rank: NCCL on CUDA, else gloo."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield OneOfOne(device)
    finally:
        dist.destroy_process_group()


def test_ddp_with_one_rank_gives_the_gradients_of_one_process(group: OneOfOne) -> None:
    model, x = build(group.device), images(group.device)
    expected = gradients(model, x)
    assert_close(gradients(group.wrap_ddp(model), x), expected, 1e-4)


def test_the_collectives_return_to_one_rank_what_it_sent(group: OneOfOne) -> None:
    total = group.all_reduce_sum([1.5, torch.tensor(2, device=group.device), True])
    assert total == [1.5, 2, 1]
    assert group.all_reduce_any(True)
    assert not group.all_reduce_any(False)
    assert group.broadcast_bytes(b"some bytes") == b"some bytes"
    assert group.broadcast_bytes(b"") == b""
    rows = torch.arange(6, dtype=torch.float64).view(3, 2)
    assert torch.equal(group.all_gather_rows(rows), rows)
    assert group.clock_skew() == 0
    model = build(group.device).to(memory_format=torch.channels_last)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    group.broadcast_model(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
