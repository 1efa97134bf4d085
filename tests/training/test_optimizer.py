"""Which parameters are decayed, and that the step is the paper's."""

import torch
from timm.optim import Lamb
from torchvision.ops._utils import split_normalization_params

from resnext.model.network import create_model
from resnext.settings_shared import OptimizerSettings
from resnext.training.optimizer import build_optimizer, build_parameter_groups


def make_tiny_network() -> torch.nn.Module:
    return create_model("resnext11_2x4d", base_channels=4, num_classes=3)


def test_the_papers_decay_reaches_every_parameter_once() -> None:
    model = make_tiny_network()
    groups = build_parameter_groups(model, OptimizerSettings(weight_decay_on="all"))
    assert len(groups) == 1
    assert sorted(map(id, groups[0]["params"])) == sorted(map(id, model.parameters()))


def test_sparing_norms_and_biases_leaves_only_matrices_decayed() -> None:
    model = make_tiny_network()
    decayed, spared = build_parameter_groups(model, OptimizerSettings(weight_decay_on="weights", weight_decay=0.1))
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert all(parameter.ndim == 1 for parameter in spared["params"])
    assert spared["weight_decay"] == 0
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))


def test_the_sgd_step_is_nesterov_with_decay_in_the_gradient() -> None:
    model = torch.nn.Linear(2, 1, bias=False).double()
    optimizer = build_optimizer(model, OptimizerSettings(lr=0.1, momentum=0.9, weight_decay=0.01))
    weight, velocity = model.weight.detach().clone(), torch.zeros(1, 2).double()
    for step in range(3):
        gradient = torch.full((1, 2), float(step + 1)).double()
        model.weight.grad = gradient.clone()
        optimizer.step()
        gradient = gradient + 0.01 * weight
        velocity = 0.9 * velocity + gradient
        weight = weight - 0.1 * (gradient + 0.9 * velocity)
        torch.testing.assert_close(model.weight.detach(), weight)


def test_sparing_norms_alone_decays_the_classifiers_bias() -> None:
    """torchvision's ``--norm-weight-decay 0``, by its own function."""
    model = make_tiny_network()
    decayed, spared = build_parameter_groups(model, OptimizerSettings(weight_decay_on="not_norms", weight_decay=0.1))
    norms, others = split_normalization_params(model)
    assert set(map(id, decayed["params"])) == set(map(id, others))
    assert set(map(id, spared["params"])) == set(map(id, norms))


def test_lamb_is_timms() -> None:
    optimizer = build_optimizer(
        make_tiny_network(), OptimizerSettings(name="lamb", lr=5e-3, weight_decay_on="weights", weight_decay=0.02)
    )
    assert type(optimizer) is Lamb
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.02, 0.0]
    assert optimizer.defaults["max_grad_norm"] == 1.0
