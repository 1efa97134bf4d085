"""A network without some paths computes what the whole one computes with these paths at zero."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from resnext.errors import RequestError
from resnext.model.architecture import FORMS, Architecture
from resnext.model.network import Network, convert_form
from resnext.pruning.importance import list_readers
from resnext.pruning.slicing import KeptPaths, keep_channels, keep_paths, list_blocks
from tests.pruning.small_networks import KINDS, images, network


def choose_some(model: Network, counts: tuple[int, ...]) -> KeptPaths:
    """Other paths in each block."""
    return {
        name: sorted((2 * block + path) % stage.cardinality for path in range(counts[number]))
        for block, (name, number, stage) in enumerate(list_blocks(model.architecture))
    }


def mask(model: Network, kept: KeptPaths) -> Network:
    """The same network in form (c) whose other paths have weights 0 in the last convolution, by PyTorch's pruning."""
    masked = copy.deepcopy(convert_form(model, "grouped"))
    for name, _, stage in list_blocks(masked.architecture):
        convolution = masked.get_submodule(name).last_convolution
        assert isinstance(convolution, nn.Conv2d)
        ones = torch.zeros_like(convolution.weight)
        for path in kept[name]:
            ones[:, path * stage.width : (path + 1) * stage.width] = 1
        torch_prune.custom_from_mask(convolution, "weight", ones)
        torch_prune.remove(convolution, "weight")
    return masked


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_slicing_is_masking(kind: str, form: str) -> None:
    model = network(kind, form)
    kept = choose_some(model, (2, 3))
    pruned = keep_paths(model, kept)
    assert (pruned.architecture.cardinalities, pruned.architecture.form) == ((2, 3), form)
    x = images()
    torch.testing.assert_close(pruned(x), mask(model, kept)(x), rtol=1e-11, atol=1e-12)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(pruned(x), model(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_paths_that_add_nothing_can_go(form: str) -> None:
    kept = choose_some(network(), (2, 1))
    model = convert_form(mask(network(), kept), form)
    x = images()
    torch.testing.assert_close(keep_paths(model, kept)(x), model(x), rtol=1e-11, atol=1e-12)


def test_the_gradients_of_what_stays_are_those_of_the_masked_network() -> None:
    model = network()
    kept = choose_some(model, (2, 2))
    pruned, masked = keep_paths(model, kept), mask(model, kept)
    for one in (pruned, masked):
        one(images()).square().sum().backward()
    torch.testing.assert_close(pruned.conv1.weight.grad, masked.conv1.weight.grad)
    torch.testing.assert_close(pruned.layer1[0].conv2.weight.grad, masked.layer1[0].conv2.weight.grad[:6])


def test_equal_stages_give_the_plain_network() -> None:
    a = Architecture.parse("resnext11_4x2d", base_channels=4)
    model = Network(a)
    model.classes, model.provenance = tuple("abc"), {"step": 3}
    pruned = keep_paths(model, {name: [1, 3] for name, _, _ in list_blocks(a)})
    assert pruned.architecture == Architecture.parse("resnext11_2x2d", base_channels=4)
    assert (pruned.classes, pruned.provenance, pruned.training) == (model.classes, {"step": 3}, True)


def test_widths_given_by_hand_keep_the_width_of_each_path() -> None:
    model = network(width=None, stage_widths=(8, 20))
    pruned = keep_paths(model, choose_some(model, (3, 1)))
    assert [(s.cardinality, s.width) for s in pruned.architecture.stages] == [(3, 2), (1, 5)]


def test_the_network_itself_stays() -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruned = keep_paths(model, choose_some(model, (2, 2)))
    with torch.no_grad():
        for tensor in pruned.state_dict().values():
            tensor.zero_()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layer1.0": [0, 4]}, "layer1.0 has the paths 0 to 3; it cannot keep [0, 4]"),
        ({"layer1.0": [1, 1]}, "it cannot keep [1, 1]"),
        ({"layer1.0": []}, "it cannot keep none"),
        ({"layer1.1": [0]}, "the blocks of a stage keep equally many paths"),
        ({"layer7.0": [0]}, "for each block"),
    ],
)
def test_what_cannot_be_kept_is_one_sentence(change: dict[str, list[int]], says: str) -> None:
    kept = {"layer1.0": [0, 1], "layer1.1": [0, 1], "layer2.0": [0, 1]}
    with pytest.raises(RequestError) as caught:
        keep_paths(network(), kept | change)
    assert says in str(caught.value)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_taking_channels_out_of_paths_is_masking_them(kind: str, form: str) -> None:
    model = network(kind, form, width=None, stage_widths=tuple(3 * c for c in network(kind).architecture.cardinalities))
    generator = torch.Generator().manual_seed(4)
    kept = {
        reader: torch.rand(stage.cardinality, 3, generator=generator).topk(2).indices.sort(1).values
        for _, reader, stage in list_readers(model.architecture)
    }
    pruned = keep_channels(model, kept)
    assert [stage.width for stage in pruned.architecture.stages] == [2, 2]
    masked = convert_form(model, "grouped")
    for reader, channels in kept.items():
        gate = torch.zeros(len(channels), 3, dtype=torch.float64).scatter_(1, channels, 1).view(1, -1, 1, 1)
        masked.get_submodule(reader).register_forward_pre_hook(lambda _, args, gate=gate: (args[0] * gate,))
    x = images()
    torch.testing.assert_close(pruned(x), masked(x), rtol=1e-11, atol=1e-12)
    assert not torch.allclose(pruned(x), model(x), rtol=1e-3)
