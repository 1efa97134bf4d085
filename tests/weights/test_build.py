"""Building a Network from a NetworkSpec: what fits is built with its own memory, what does not is one sentence."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import resnext
from resnext.errors import RequestError
from resnext.model.architecture import Architecture
from resnext.model.network import Network
from resnext.weights.build import build_network
from resnext.weights.network_spec import NetworkSpec
from tests.weights.adapters.adapter_helpers import get_error


def network(**changes: object) -> Network:
    return resnext.create_model("resnext11_2x4d", base_channels=4, num_classes=2, seed=0, **changes).eval()


def contents(model: Network, **state: Tensor) -> NetworkSpec:
    return NetworkSpec(architecture=model.architecture, state=model.state_dict() | state, format="test")


def test_the_network_computes_what_the_tensors_say_and_owns_its_memory() -> None:
    model, x = network(), torch.randn(2, 3, 16, 16)
    state = model.state_dict()
    built = build_network(contents(model), "f")
    assert torch.equal(built(x), model(x))
    assert not built.training
    assert all(parameter.requires_grad for parameter in built.parameters())
    whole = torch.cat([value.flatten() for value in state.values() if value.is_floating_point()])
    views, at = {}, 0
    for name, value in state.items():  # as Torch7 keeps them: all weights in one storage
        views[name] = value
        if value.is_floating_point():
            views[name] = whole[at : at + value.numel()].view(value.shape)
            at += value.numel()
    built = build_network(replace(contents(model), state=views), "f")
    assert torch.equal(built(x), model(x))
    assert all(t.untyped_storage().nbytes() == t.numel() * t.element_size() for t in built.state_dict().values())


def test_one_tensor_in_two_places_becomes_two() -> None:
    model = network()
    shared = torch.full((8,), 0.25)
    names = {"layer1.0.bn1.weight": shared, "layer1.0.bn2.weight": shared}
    built = build_network(contents(model, **names), "f")
    with torch.no_grad():
        built.get_parameter("layer1.0.bn1.weight").zero_()
    assert torch.equal(built.get_parameter("layer1.0.bn2.weight"), torch.full((8,), 0.25))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32_and_that_is_noted(dtype: torch.dtype) -> None:
    model = network()
    state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in model.state_dict().items()}
    built = build_network(replace(contents(model), state=state), "f")
    assert {t.dtype for t in built.parameters()} == {torch.float32}
    assert torch.equal(built.fc.weight, model.fc.weight.to(dtype).float())
    assert built.provenance["notes"] == [f"converted from {str(dtype)[6:]} to float32"]


def test_files_without_batch_counters_get_them() -> None:
    model = network()
    state = {name: t for name, t in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    built = build_network(replace(contents(model), state=state), "f")
    assert built.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"fc.bias": torch.tensor([0.0, float("nan")])}, "1 of 2 values of fc.bias are not finite"),
        ({"fc.bias": torch.tensor([float("inf")] * 2)}, "2 of 2 values of fc.bias are not finite"),
        ({"fc.bias": torch.tensor([1e300, 0], dtype=torch.float64)}, "float64 values too large"),
        ({"fc.bias": torch.tensor([1, 2])}, "fc.bias is torch.int64, the network needs torch.float32"),
        ({"fc.bias": torch.zeros(2, dtype=torch.bool)}, "fc.bias is torch.bool"),
        ({"fc.bias": torch.zeros(1, 2)}, "fc.bias has shape (1, 2), the network needs (2,)"),
        ({"fc.biass": torch.zeros(2)}, "1 unknown (fc.biass; did you mean 'fc.bias'"),
        ({"bn1.num_batches_tracked": torch.tensor(1j)}, "tracked is torch.complex64, the network needs torch.int64"),
        ({"\x1b[31m\nx": torch.zeros(1)}, r"1 unknown (\x1b[31m\nx)"),
        ({"bn1.running_var": torch.full((4,), -1.0)}, "bn1.running_var has values below 0"),
        ({"x" * 10_000: torch.zeros(1)}, "1 unknown (xxxx"),
    ],
)
def test_tensors_that_do_not_fit_are_named(changed: dict[str, Tensor], says: str) -> None:
    said = get_error(lambda: build_network(contents(network(), **changed), "some/file"))
    assert says in said
    assert len(said) < 500


def test_class_names_must_be_as_many_as_the_outputs() -> None:
    with pytest.raises(RequestError, match="f: 3 class names for 2 outputs"):
        build_network(replace(contents(network()), classes=("a", "b", "c")), "f")


def test_large_values_whose_sum_overflows_are_finite() -> None:
    large = torch.full((2,), 3e38)
    assert torch.isinf(large.sum())
    assert torch.equal(build_network(contents(network(), **{"fc.bias": large}), "f").fc.bias, large)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32])
def test_batch_counters_of_any_whole_numbers_become_int64(dtype: torch.dtype) -> None:
    name = "bn1.num_batches_tracked"
    counter = build_network(contents(network(), **{name: torch.tensor(1, dtype=dtype)}), "f").state_dict()[name]
    assert (counter.dtype, int(counter)) == (torch.int64, 1)


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({"blocks": (4096,)}, "0 tensors; resnet12290 "),
        ({"blocks": (1,), "cardinality": 65_536, "width": 1, "form": "branched"}, "needs at least 655,360"),
        ({"blocks": (1,), "cardinality": 65_536, "width": 1, "form": "concatenated"}, "needs at least 655,360"),
    ],
)
def test_a_large_network_is_not_built_for_a_file_without_its_tensors(changes: dict[str, Any], needed: str) -> None:
    with pytest.raises(RequestError, match="f has 0 tensors") as caught:
        build_network(NetworkSpec(architecture=Architecture(stem="cifar", **changes), state={}, format="test"), "f")
    assert needed in str(caught.value)


def test_tensors_that_share_their_numbers_do_not_outgrow_the_file() -> None:
    """Two megabytes that would become a hundred."""
    architecture = Architecture(blocks=(40,), stage_channels=(256,), stage_widths=(256,), stem="cifar", num_classes=2)
    with torch.device("meta"):
        expected = Network(architecture).state_dict()
    numbers = torch.ones(256 * 256 * 9)
    state = {name: numbers[: tensor.numel()].view(tensor.shape) for name, tensor in expected.items()}
    state |= {name: torch.tensor(0) for name in state if name.endswith("tracked")}
    with pytest.raises(RequestError, match="f: its tensors share memory"):
        build_network(NetworkSpec(architecture=architecture, state=state, format="test"), "f")
