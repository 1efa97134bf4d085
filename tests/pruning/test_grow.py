"""Paths that are added change nothing at first, and can learn."""

import pytest
import torch

from resnext.errors import RequestError
from resnext.model.architecture import FORMS, Architecture
from resnext.model.network import create_model
from resnext.pruning.grow import grow
from resnext.pruning.slicing import keep_paths, list_blocks
from tests.pruning.small_networks import KINDS, images, network


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_function_is_kept(kind: str, form: str) -> None:
    """Up to the order of additions: the last convolution adds zeros of the new paths."""
    model = network(kind, form)
    grown = grow(model, 6, seed=3).eval()
    assert (grown.architecture.cardinalities, grown.architecture.form) == ((6, 6), form)
    x = images()
    torch.testing.assert_close(grown(x), model(x), rtol=1e-13, atol=1e-13)
    model.train()
    grown.train()
    torch.testing.assert_close(grown(x), model(x), rtol=1e-13, atol=1e-13)


def test_taking_the_new_paths_away_gives_the_same_weights_bit_for_bit() -> None:
    model = network()
    again = keep_paths(grow(model, (4, 7)), {name: range(4) for name, _, _ in list_blocks(model.architecture)})
    assert again.architecture == model.architecture
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_new_paths_start_as_in_a_new_network_and_learn() -> None:
    model = network().train()
    grown = grow(model, 6, seed=7)
    fresh = create_model(grown.architecture, seed=7).double()
    block, new = grown.layer1[0], fresh.layer1[0]
    assert torch.equal(block.conv1.weight[12:], new.conv1.weight[12:])
    assert torch.equal(block.conv2.weight[12:], new.conv2.weight[12:])
    assert torch.equal(block.bn2.running_var[12:], torch.ones(6, dtype=torch.float64))
    assert torch.equal(block.conv3.weight[:, 12:], torch.zeros(16, 6, 1, 1, dtype=torch.float64))
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
    for expected in (False, True):  # conv1 has a gradient as soon as the last convolution is no longer 0
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(grown(images()), torch.arange(4)).backward()
        assert (block.conv3.weight.grad[:, 12:] != 0).all()
        assert bool((block.conv1.weight.grad[12:] != 0).any()) == expected
        optimizer.step()


def test_one_path_can_become_several() -> None:
    model = create_model("resnet29", base_channels=4, width=4, num_classes=3, seed=0).double().eval()
    grown = grow(model, 4).eval()
    assert grown.architecture == Architecture.parse("resnext29_4x4d", base_channels=4, num_classes=3)
    torch.testing.assert_close(grown(images()), model(images()), rtol=1e-13, atol=1e-13)
    assert grown.provenance["grow"]["paths"] == [[1, 1, 1], [4, 4, 4]]


def test_one_number_leaves_larger_stages_alone() -> None:
    assert grow(network("unequal"), 4).architecture.cardinalities == (4, 5)


@pytest.mark.parametrize("cardinality", [4, 2, (4, 4), (5, 3), (5, 5, 5), 0])
def test_growing_means_more_paths(cardinality: int | tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match=r"paths?"):
        grow(network(), cardinality)
