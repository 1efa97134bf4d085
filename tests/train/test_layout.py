"""The measurement of memory layouts leaves the network as it was."""

import torch

from resnext.model.network import create_model
from resnext.train.layout import faster_layout


def test_measuring_both_layouts_changes_nothing() -> None:
    model = create_model("resnext11_2x4d", base_channels=4, num_classes=3, seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    seconds = faster_layout(model, 4, 16, torch.device("cpu"), "fp32")
    assert seconds.keys() == {"no", "yes"}
    assert all(value > 0 for value in seconds.values())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
