"""The importance of paths, against gradients of gates and sampled expectations."""

import pytest
import torch
import torch.nn.functional as F

from resnext.model.architecture import FORMS
from resnext.model.blocks import Block
from resnext.model.network import Network, convert_form
from resnext.pruning.importance import (
    compute_magnitude_channel_importance,
    compute_magnitude_importance,
    compute_taylor_channel_importance,
    compute_taylor_importance,
    list_readers,
)
from resnext.pruning.slicing import list_blocks
from tests.pruning.small_networks import KINDS, images, network

LABELS = torch.tensor([0, 3, 1, 4])


def compute_by_gates(model: Network) -> dict[str, torch.Tensor]:
    """Square the gradient of a gate on each path's output, image by image."""
    model = convert_form(model, "branched").eval()
    squares = {
        name: torch.zeros(stage.cardinality, dtype=torch.float64) for name, _, stage in list_blocks(model.architecture)
    }
    for x, label in zip(images(), LABELS, strict=True):
        gates, handles = {}, []
        for name, _, stage in list_blocks(model.architecture):
            gates[name] = torch.ones(stage.cardinality, dtype=torch.float64, requires_grad=True)
            for i, path in enumerate(model.get_submodule(name).paths):
                gate = gates[name]
                handles.append(path.register_forward_hook(lambda _, __, out, g=gate, i=i: out * g[i]))
        F.cross_entropy(model(x[None]), label[None]).backward()
        for name, gate in gates.items():
            squares[name] += gate.grad.square()
        for handle in handles:
            handle.remove()
    return {name: total / len(LABELS) for name, total in squares.items()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_taylor_is_the_squared_gradient_of_a_gate(kind: str, form: str) -> None:
    model = network(kind, form)
    found = compute_taylor_importance(model, [(images()[:3], LABELS[:3]), (images()[3:], LABELS[3:])])
    for name, expected in compute_by_gates(model).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-14)
        assert len(set(found[name].tolist())) > 1
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize("kind", ["bottleneck", "basic", "pre-activation"])
def test_magnitude_is_the_mean_square_of_what_a_path_adds(kind: str) -> None:
    """Sampled: normal inputs of the BN, one position."""
    model = network(kind)
    found = compute_magnitude_importance(convert_form(model, "concatenated"))
    normal = torch.randn(400_000, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    block = model.layer1[0]
    assert isinstance(block, Block)
    before = block.bn2 if block.bottleneck else block.bn1
    activations = F.relu(normal * before.weight + before.bias)
    weight = block.last_convolution.weight
    if not block.pre_activation:
        scale = block.last_norm.weight / (block.last_norm.running_var + block.last_norm.eps).sqrt()
        weight = weight * scale.view(-1, 1, 1, 1)
    power = (activations.square().mean(0) * weight.square().sum((0, 2, 3))).view(4, 3).sum(1)
    torch.testing.assert_close(found["layer1.0"], power, rtol=0.02, atol=1e-6)


def test_a_path_of_zero_weights_has_no_importance() -> None:
    model = network()
    with torch.no_grad():
        model.layer1[1].conv3.weight[:, 3:6] = 0
    for scores in (compute_magnitude_importance(model), compute_taylor_importance(model, [(images(), LABELS)])):
        assert scores["layer1.1"][1] == 0
        assert min(value for i, value in enumerate(scores["layer1.1"].tolist()) if i != 1) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_taylor_of_a_channel_is_the_squared_gradient_of_its_gate(kind: str) -> None:
    model = network(kind)
    found = compute_taylor_channel_importance(model, [(images(), LABELS)])
    for _, reader, stage in list_readers(model.architecture):
        total = torch.zeros(stage.cardinality * stage.width, dtype=torch.float64)
        for x, label in zip(images(), LABELS, strict=True):
            gate = torch.ones(len(total), 1, 1, dtype=torch.float64, requires_grad=True)
            handle = model.get_submodule(reader).register_forward_pre_hook(lambda _, args, g=gate: (args[0] * g,))
            F.cross_entropy(model(x[None]), label[None]).backward()
            handle.remove()
            total += gate.grad.flatten().square() / len(LABELS)
        torch.testing.assert_close(found[reader].flatten(), total, rtol=1e-9, atol=1e-14)


def test_magnitude_of_a_channel_that_no_filter_reads_is_zero() -> None:
    model = network()
    with torch.no_grad():
        model.layer2[0].conv2.weight[6:12, 4] = 0  # path 1 is channels 6 to 11 of the second stage
    scores = compute_magnitude_channel_importance(model)["layer2.0.conv2"]
    assert scores.shape == (4, 6)
    assert (scores == 0).nonzero().tolist() == [[1, 4]]
