"""Compare initial weights with the release's definition."""

import pytest
import torch
from torch import nn

from resnext.model.architecture import FORMS
from resnext.model.blocks import Block
from resnext.model.layers import GroupedConv2d
from resnext.model.network import create_model


def test_convolutions_are_normal_with_the_releases_deviation_over_the_full_width() -> None:
    model = create_model("resnext11_8x32d", stem="cifar", seed=0)
    checked = 0
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() >= 2000:
            n = module.kernel_size[0] * module.kernel_size[1] * module.out_channels  # of a grouped one: all C*d planes
            weight = module.weight.detach().flatten() / (2 / n) ** 0.5
            standard_error = (2 / weight.numel()) ** 0.5
            assert weight.std().item() == pytest.approx(1, abs=5 * standard_error / 2**0.5 + 1e-3)
            assert weight.mean().item() == pytest.approx(0, abs=5 / weight.numel() ** 0.5)
            assert weight.abs().max() > 3  # normal, not uniform
            checked += isinstance(module, GroupedConv2d)
    assert checked == 3


def test_norms_start_at_one_and_zero_and_the_classifier_as_torch_with_bias_zero() -> None:
    model = create_model("resnext11_2x8d", seed=0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all())
            assert bool((module.bias == 0).all())
            assert bool((module.running_mean == 0).all())
            assert bool((module.running_var == 1).all())
            assert module.num_batches_tracked == 0
    bound = 1024**-0.5
    assert model.fc.weight.abs().max() <= bound
    assert model.fc.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)
    assert not model.fc.bias.any()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("block", ["bottleneck", "basic"])
def test_zero_gamma_makes_every_block_its_shortcut_at_the_start(form: str, block: str) -> None:
    model = create_model(
        "resnext11_2x4d", blocks=(2,), block=block, form=form, base_channels=8, initialisation="zero_gamma", seed=0
    ).eval()
    blocks = [m for m in model.modules() if isinstance(m, Block)]
    x = torch.randn(2, blocks[1].last_norm.num_features, 5, 5).relu()
    assert torch.equal(blocks[1](x), x)
    assert sum(not m.weight.any() for m in model.modules() if isinstance(m, nn.BatchNorm2d)) == 2


@pytest.mark.parametrize("block", ["bottleneck", "basic"])
@pytest.mark.parametrize("pre_activation", [False, True])
def test_one_seed_is_one_function_in_every_form(block: str, pre_activation: bool) -> None:
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    changes = {"blocks": (1, 1), "base_channels": 8, "block": block, "pre_activation": pre_activation}
    grouped, concatenated, branched = (
        create_model("resnext29_3x2d", form=form, seed=4, **changes).double().eval()(images) for form in FORMS
    )
    torch.testing.assert_close(concatenated, grouped, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(branched, grouped, rtol=1e-12, atol=1e-12)
