"""BN's statistics are the averages over the batches, and nothing else changes."""

import torch

from resnext.model.layers import NormAct
from resnext.pruning.recalibrate import recalibrate_bn
from tests.pruning.small_networks import images, network


def test_statistics_are_averages_over_batches() -> None:
    model = network()
    inputs: dict[str, list[torch.Tensor]] = {}
    handles = [
        module.register_forward_pre_hook(lambda _, args, name=name: inputs.setdefault(name, []).append(args[0].clone()))
        for name, module in model.named_modules()
        if isinstance(module, NormAct)
    ]
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    batches = [(images(4, seed=seed), torch.zeros(4, dtype=torch.int64)) for seed in range(3)]
    assert recalibrate_bn(model, batches) == 12
    for handle in handles:
        handle.remove()
    for name, seen in inputs.items():
        norm = model.get_submodule(name)
        assert isinstance(norm, NormAct)
        torch.testing.assert_close(norm.running_mean, torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0))
        torch.testing.assert_close(norm.running_var, torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0))
        assert norm.momentum == 0.1
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_parameters())
    assert not model.training
