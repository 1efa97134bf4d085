"""The EMA against its definition, buffers included."""

import pytest
import torch

from resnext.model.network import Network, create_model
from resnext.training.ema import Ema


@pytest.fixture
def model() -> Network:
    return create_model("resnext11_2x4d", base_channels=4, num_classes=3, seed=0)


def shake(model: Network) -> None:
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_(1 if not value.is_floating_point() else torch.randn(value.shape))


def test_without_memory_the_average_is_the_network(model: Network) -> None:
    ema = Ema(model, decay=0.0, warmup=False)
    for step in range(3):
        shake(model)
        ema.update(model, step)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(ema.model.state_dict()[name], value, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("warmup", [False, True])
def test_the_average_is_the_weighted_sum_of_its_history(model: Network, warmup: bool) -> None:
    ema = Ema(model, decay=0.9, warmup=warmup)
    key = "layer1.0.bn1.running_mean"
    expected = model.state_dict()[key].double().clone()
    for step in range(5):
        shake(model)
        decay = min(0.9, (1 + step) / (10 + step)) if warmup else 0.9
        expected = decay * expected + (1 - decay) * model.state_dict()[key].double()
        ema.update(model, step)
    torch.testing.assert_close(ema.model.state_dict()[key].double(), expected)


def test_the_average_of_a_half_precision_network_is_kept_in_fp32(model: Network) -> None:
    ema = Ema(model.bfloat16(), decay=0.99, warmup=False)
    ema.update(model, 0)
    assert {v.dtype for v in ema.model.state_dict().values() if v.is_floating_point()} == {torch.float32}


def test_only_every_so_many_steps_are_averaged_and_the_warm_up_counts_them(model: Network) -> None:
    seldom, plain = Ema(model, 0.9, warmup=True, every=3), Ema(model, 0.9, warmup=True)
    for step in range(8):
        shake(model)
        seldom.update(model, step)
        if step in (2, 5):
            plain.update(model, step // 3)
        for name, value in plain.model.state_dict().items():
            assert torch.equal(seldom.model.state_dict()[name], value), (step, name)
