"""Test that the three forms of Figure 3 compute and train the same function."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from resnext.errors import RequestError
from resnext.model.architecture import FORMS, Architecture
from resnext.model.forms import convert_state
from resnext.model.network import Network, convert_form, create_model
from tests.model.random_weights import perturb

KINDS = {
    "bottleneck": {"block": "bottleneck"},
    "basic": {"block": "basic"},
    "pre-activation": {"block": "bottleneck", "pre_activation": True},
    "basic pre-activation": {"block": "basic", "pre_activation": True},
    "unequal stages": {"block": "bottleneck", "stage_cardinalities": (3, 2)},
    "unprojected": {"block": "bottleneck", "shortcut": "A"},
}
DIRECTIONS = list(itertools.product(FORMS, FORMS))
EXACT = {"rtol": 1e-10, "atol": 1e-11}


def network(kind: str, form: str, cardinality: int = 3) -> Network:
    """Build a small float64 network in which no tensor has its initial value."""
    a = Architecture(
        blocks=(2, 1),
        stem="cifar",
        cardinality=cardinality,
        width=2,
        base_channels=4,
        num_classes=5,
        form=form,
        **KINDS[kind],
    )
    model = create_model(a, seed=1).double()
    perturb(model)
    return model


def images_and_labels() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(6, 3, 7, 7, generator=generator, dtype=torch.float64), torch.arange(6) % 5


def assert_states_close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for key, tensor in one.items():
        torch.testing.assert_close(other[key], tensor, msg=lambda m, key=key: f"{key}: {m}", **EXACT)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
def test_the_function_is_the_same_in_all_nine_directions(kind: str, source: str, target: str) -> None:
    model = network(kind, source).eval()
    converted = convert_form(model, target)
    assert converted.architecture == model.architecture.change(form=target)
    images, _ = images_and_labels()
    torch.testing.assert_close(converted(images), model(images), rtol=1e-12, atol=1e-12)


def train(model: Network, steps: int) -> tuple[list[Tensor], dict[str, Tensor], torch.optim.SGD]:
    """Train some steps as the release does; return the losses, the first step's gradients and the optimizer."""
    images, labels = images_and_labels()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-2)
    losses, first = [], {}
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        losses.append(loss.detach())
        first = first or {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
    return losses, first, optimizer


def momenta(model: Network, optimizer: torch.optim.SGD) -> dict[str, Tensor]:
    return {name: optimizer.state[p]["momentum_buffer"] for name, p in model.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("source", "target"), [(source, target) for source, target in DIRECTIONS if source != target])
def test_training_is_the_same_step_for_step(kind: str, source: str, target: str) -> None:
    model = network(kind, source).train()
    converted = convert_form(model, target)
    assert converted.training
    losses, gradients, optimizer = train(model, steps=4)
    other_losses, other_gradients, other_optimizer = train(converted, steps=4)
    torch.testing.assert_close(other_losses, losses, **EXACT)
    assert losses[0] != losses[-1]
    a = model.architecture
    assert_states_close(convert_state(gradients, a, target), other_gradients)
    assert_states_close(convert_state(model.state_dict(), a, target), converted.state_dict())
    assert_states_close(convert_state(momenta(model, optimizer), a, target), momenta(converted, other_optimizer))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("source", "target"), DIRECTIONS)
def test_there_and_back_gives_every_bit_again(kind: str, source: str, target: str) -> None:
    model = network(kind, source)
    back = convert_form(convert_form(model, target), source)
    assert list(back.state_dict()) == list(model.state_dict())
    assert all(torch.equal(tensor, back.state_dict()[key]) for key, tensor in model.state_dict().items())


def test_a_converted_network_carries_mode_dtype_preprocessing_and_classes_but_no_memory() -> None:
    model = network("bottleneck", "grouped").half().eval()
    model.preprocessing, model.classes = object(), ("a", "b", "c", "d", "e")
    for form in FORMS:
        converted = convert_form(model, form)
        assert not converted.training
        assert converted.preprocessing is model.preprocessing
        assert converted.classes == model.classes
        assert {p.dtype for p in converted.parameters()} == {torch.float16}
        theirs = {t.untyped_storage().data_ptr() for t in model.state_dict().values()}
        ours = [t.untyped_storage().data_ptr() for t in converted.state_dict().values()]
        assert theirs.isdisjoint(ours)
        assert len(set(ours)) == len(ours)


def test_cardinality_one_converts_too() -> None:
    model = network("bottleneck", "grouped", cardinality=1).eval()
    images, _ = images_and_labels()
    torch.testing.assert_close(convert_form(model, "branched")(images), model(images), rtol=1e-12, atol=1e-12)


def test_the_map_is_the_slices_of_footnote_3() -> None:
    a = Architecture(blocks=(1,), stem="cifar", cardinality=4, width=3, base_channels=2)
    state = create_model(a, seed=0).state_dict()
    branched = convert_state(state, a, "branched")
    for i in range(4):
        rows = slice(3 * i, 3 * i + 3)
        assert torch.equal(branched[f"layer1.0.paths.{i}.conv1.weight"], state["layer1.0.conv1.weight"][rows])
        assert torch.equal(branched[f"layer1.0.paths.{i}.conv2.weight"], state["layer1.0.conv2.weight"][rows])
        assert torch.equal(branched[f"layer1.0.paths.{i}.conv3.weight"], state["layer1.0.conv3.weight"][:, rows])
    assert branched["layer1.0.bn3.weight"] is state["layer1.0.bn3.weight"]
    assert branched["fc.weight"] is state["fc.weight"]


def test_missing_paths_are_counted() -> None:
    model = network("bottleneck", "branched")
    state = model.state_dict()
    del state["layer1.0.paths.1.conv1.weight"]
    with pytest.raises(RequestError, match=r"hold 2 paths of layer1\.0\.conv1\.weight, but .* has 3"):
        convert_state(state, model.architecture, "grouped")


def test_a_width_that_cannot_be_cut_is_named() -> None:
    model = network("bottleneck", "grouped")
    state = {"layer1.0.conv1.weight": torch.zeros(7, 4, 1, 1)}
    with pytest.raises(RequestError, match=r"layer1\.0\.conv1\.weight of shape \[7, 4, 1, 1\] cannot be split into 3"):
        convert_state(state, model.architecture, "branched")


def test_an_unknown_form_and_a_foreign_model_are_refused() -> None:
    with pytest.raises(RequestError, match="did you mean 'branched'"):
        convert_form(network("bottleneck", "grouped"), "branch")
    with pytest.raises(RequestError, match="not a Linear"):
        convert_form(torch.nn.Linear(1, 1), "branched")  # type: ignore[arg-type]
