"""The peers of tools/train_peer.py train the network of the recipe, and timm gets the settings of the recipe."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.flop_counter import FlopCounterMode

from resnext.data.seeding import derive_seed
from resnext.data.sources.cifar import CIFAR10
from resnext.model.complexity import complexity
from resnext.model.network import create_model
from resnext.recipe import read_recipe
from resnext.training.ema import Ema
from resnext.training.finetune import WEIGHTS_SEED_TAG
from resnext.training.schedule import compute_learning_rate
from tests.tools.load import load_tool

peer = load_tool("train_peer")
RECIPE = read_recipe("small/cifar10-fast")
ARCHITECTURE = RECIPE.model.architecture(10, 3)


def test_the_plain_network_has_the_weights_and_computes_the_function_of_ours() -> None:
    ours = create_model(ARCHITECTURE, seed=derive_seed(RECIPE.train.seed, WEIGHTS_SEED_TAG)).eval()
    plain = peer.build_network(RECIPE).eval()
    assert [*plain.state_dict()] == [*ours.state_dict()]
    for network in (ours, plain):
        torch.manual_seed(0)
        for name, values in network.state_dict().items():
            if name.endswith(("running_mean", "bias", "bn3.weight")):  # zero or one at the start
                values.normal_()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(plain(images), ours(images), rtol=1e-4, atol=1e-4)


def test_the_plain_network_has_the_cost_of_ours() -> None:
    cost = complexity(ARCHITECTURE, 32)
    with torch.device("meta"):
        plain = peer.PlainResNeXt(ARCHITECTURE)
        with FlopCounterMode(display=False) as counter:
            plain(torch.empty(1, 3, 32, 32))
    assert counter.get_total_flops() // 2 == cost.macs
    assert sum(parameter.numel() for parameter in plain.parameters()) == cost.parameters


def test_the_peers_know_the_normalisation_of_cifar() -> None:
    assert RECIPE.data.mean == pytest.approx(CIFAR10.mean, abs=1e-4)
    assert RECIPE.data.std == pytest.approx(CIFAR10.std, abs=1e-4)


def test_a_recipe_that_the_peers_cannot_train_is_refused() -> None:
    peer.check_supported(RECIPE)
    with pytest.raises(SystemExit, match=r"augment.mixup 0.0, but the recipe has 0.2"):
        peer.check_supported(read_recipe("small/cifar10-fast", {"augment.mixup": 0.2}))


def test_timm_gets_the_schedule_of_the_recipe(tmp_path_factory: pytest.TempPathFactory) -> None:
    pytest.importorskip("timm")
    from timm.scheduler import create_scheduler_v2

    folder = tmp_path_factory.mktemp("out")
    words = peer.list_timm_options(RECIPE, folder, folder, 1, channels_last=True)
    values = {word: after for word, after in pairwise(words) if word.startswith("--")}
    assert {"--channels-last", "--warmup-prefix", "--sched-on-updates", "--amp"} <= set(words)
    epochs, per_epoch = RECIPE.train.epochs, 7
    assert epochs is not None
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], float(values["--lr"]))
    scheduler, length = create_scheduler_v2(
        optimizer,
        sched=values["--sched"],
        num_epochs=int(values["--epochs"]),
        warmup_epochs=int(values["--warmup-epochs"]),
        warmup_lr=float(values["--warmup-lr"]),
        warmup_prefix=True,
        step_on_epochs=False,
        updates_per_epoch=per_epoch,
    )
    assert length == epochs
    for step in range(epochs * per_epoch):
        ours = compute_learning_rate(RECIPE.schedule, RECIPE.optimizer.lr, epochs * per_epoch, per_epoch, step)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(ours, abs=1e-6), step
        scheduler.step_update(step + 1)


def test_the_peers_average_weights_as_the_recipe_does() -> None:
    timm_utils = pytest.importorskip("timm.utils")
    train = RECIPE.train
    weights = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(weights.weight)
    ours = Ema(weights, train.ema_decay, train.ema_warmup, train.ema_steps)
    plain = AveragedModel(weights, multi_avg_fn=get_ema_multi_avg_fn(train.ema_decay), use_buffers=True)
    words = peer.list_timm_options(RECIPE, Path("data"), Path("out"), 1, channels_last=True)
    timm = timm_utils.ModelEmaV3(
        weights, decay=float(words[words.index("--model-ema-decay") + 1]), use_warmup="--model-ema-warmup" in words
    )
    for step in range(3000):
        torch.nn.init.constant_(weights.weight, 0.0 if step < 1000 else 1.0)
        ours.update(weights, step)
        plain.update_parameters(weights)
        timm.update(weights, step=step)
    expected = ours.model.weight.item()
    assert 0.9 < expected < 0.99
    assert plain.module.weight.item() == pytest.approx(expected, abs=1e-4)
    assert timm.module.weight.item() == pytest.approx(expected, abs=1e-4)
