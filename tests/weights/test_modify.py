"""Head and stem surgery, against values worked out by hand."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from resnext.data.imagenet_classes import imagenet_classes
from resnext.data.preprocessing import Preprocessing
from resnext.errors import RequestError
from resnext.model.architecture import Architecture
from resnext.model.network import create_model
from resnext.weights import load
from resnext.weights.build import build_network
from resnext.weights.modify import change_form, change_head, change_stem, change_stride, modify
from resnext.weights.native import serialize_network
from resnext.weights.network_spec import NetworkSpec

RGB = Preprocessing(image_size=32, resize=32, mean=(0.1, 0.2, 0.6), std=(0.2, 0.3, 0.4), channels=3)
GREY = Preprocessing(image_size=32, resize=32, mean=(0.5,), std=(0.25,), channels=1)
ANIMALS = ("cat", "dog", "crane", "crane")


def contents(
    classes: tuple[str, ...] | None = ANIMALS, channels: int = 3, preprocessing: Preprocessing | None = RGB
) -> NetworkSpec:
    """A small network of four classes whose head's row k holds 10 k, and its bias k."""
    architecture = Architecture.parse("resnext11_2x4d", base_channels=4, num_classes=4, in_channels=channels)
    state = dict(create_model(architecture, seed=1).state_dict())
    state["fc.weight"] = torch.arange(4.0).mul(10)[:, None].expand(4, architecture.stages[-1].out_channels).clone()
    state["fc.bias"] = torch.arange(4.0)
    return NetworkSpec(
        architecture=architecture, state=state, format="resnext", classes=classes, preprocessing=preprocessing
    )


def rows(changed: NetworkSpec) -> list[float]:
    """The bias of each output: k where it is the old class k, 0 for a new one."""
    return changed.state["fc.bias"].tolist()


def images(channels: int) -> Tensor:
    return torch.randn(2, channels, 32, 32, generator=torch.Generator().manual_seed(5))


def outputs(spec: NetworkSpec, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return build_network(spec, "here")(x)


def check_same_outputs(changed: NetworkSpec, given: NetworkSpec, x: Tensor, y: Tensor | None = None) -> None:
    """The changed network computes of ``x`` what the given one computes of ``y``, by default the same images."""
    torch.testing.assert_close(outputs(changed, x), outputs(given, x if y is None else y), rtol=1e-5, atol=1e-5)


def test_classes_known_by_name_keep_their_rows() -> None:
    changed = change_head(contents(), classes=("horse", "dog", "cat", "crane"))
    assert rows(changed) == [0, 1, 0, 2]
    assert changed.state["fc.weight"][1:, 0].tolist() == [10, 0, 20]
    width = changed.state["fc.weight"].shape[1]
    assert 0 < changed.state["fc.weight"][0].abs().max() <= width**-0.5
    assert changed.classes == ("horse", "dog", "cat", "crane")
    assert changed.notes == (
        "the head of 4 classes became one of 4: 3 rows were kept by name, 1 are newly initialized (seed 0)",
    )


def test_folders_named_by_synset_find_the_rows_of_imagenets_words() -> None:
    given = contents(classes=None)
    bias = torch.arange(1000.0)
    state = given.state | {"fc.weight": bias[:, None].expand(1000, 64).clone(), "fc.bias": bias}
    words = replace(
        given, architecture=given.architecture.change(num_classes=1000), state=state, classes=imagenet_classes()
    )
    changed = change_head(words, classes=("n01440764", "n02012849", "n15075141"))  # tench, the bird crane, tissue
    assert rows(changed) == [0, 134, 999]
    assert changed.classes == ("n01440764", "n02012849", "n15075141")
    assert rows(change_head(words, classes=("n01440764", "cat"))) == [0, 0]


def test_a_name_that_stands_twice_goes_first_to_first() -> None:
    assert rows(change_head(contents(), classes=("crane", "crane", "crane"))) == [2, 3, 0]


def test_a_count_alone_starts_all_rows_anew_and_the_same_each_time() -> None:
    one, two = (change_head(contents(), num_classes=6) for _ in range(2))
    assert rows(one) == [0] * 6
    assert torch.equal(one.state["fc.weight"], two.state["fc.weight"])
    assert one.classes is None
    assert one.architecture.num_classes == 6
    assert "all rows are newly initialized" in one.notes[-1]
    assert one.provenance["changed"] == {"num_classes": [4, 6], "kept_classes": 0}


def test_new_rows_are_drawn_as_a_new_classifier_is() -> None:
    weight = change_head(contents(), num_classes=1000).state["fc.weight"]
    bound = weight.shape[1] ** -0.5
    assert 0.98 * bound < weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


@pytest.mark.parametrize(
    "wanted", [{}, {"num_classes": 4}, {"classes": ANIMALS}, {"classes": ANIMALS, "num_classes": 4}]
)
def test_what_is_so_already_is_left_alone(wanted: dict[str, object]) -> None:
    given = contents()
    assert change_head(given, **wanted) is given  # type: ignore[arg-type]
    assert change_stem(given, 3) is given
    assert change_stem(given, None) is given
    assert change_form(given, None) is given
    assert change_form(given, "grouped") is given


def test_names_for_nameless_outputs_only_name_them() -> None:
    changed = change_head(contents(classes=None), classes=("a", "b", "c", "d"))
    assert rows(changed) == [0, 1, 2, 3]
    assert changed.classes == ("a", "b", "c", "d")
    assert "changed" not in changed.provenance


def test_0_classes_leave_the_pooled_features() -> None:
    changed = change_head(contents(), num_classes=0)
    x = images(3)
    with torch.inference_mode():
        pooled = build_network(contents(), "here").features(x, "pooled")["pooled"]
    assert torch.equal(outputs(changed, x), pooled)
    assert changed.classes is None
    assert "removed" in changed.notes[-1]


def test_a_backbone_gets_a_new_head() -> None:
    backbone = change_head(contents(), num_classes=0)
    changed = change_head(backbone, classes=("cat", "dog"))
    assert rows(changed) == [0, 0]
    assert "a head of 2 classes was added" in changed.notes[-1]
    assert outputs(changed, images(3)).shape == (2, 2)


def test_three_channels_become_one_by_their_sum() -> None:
    given = contents()
    changed = change_stem(given, 1)
    old, new = given.state["conv1.weight"], changed.state["conv1.weight"]
    assert new.shape == (4, 1, 3, 3)
    assert torch.allclose(new[:, 0], old[:, 0] + old[:, 1] + old[:, 2])
    assert changed.preprocessing is not None
    assert changed.preprocessing.mean == pytest.approx((0.3,))
    assert changed.preprocessing.std == pytest.approx((0.3,))
    assert changed.preprocessing.channels == 1


@pytest.mark.parametrize("form", ["grouped", "branched"])
def test_a_grey_network_sees_a_grey_picture_as_its_rgb_copy_was_seen(form: str) -> None:
    given = change_form(contents(), form)
    x = images(1)
    check_same_outputs(change_stem(given, 1), given, x, x.expand(2, 3, 32, 32))


def test_one_channel_becomes_three_equal_ones() -> None:
    given = contents(channels=1, preprocessing=GREY)
    changed = change_stem(given, 3)
    assert torch.allclose(changed.state["conv1.weight"], given.state["conv1.weight"].expand(4, 3, 3, 3) / 3)
    assert changed.preprocessing is not None
    assert (changed.preprocessing.mean, changed.preprocessing.std) == ((0.5,) * 3, (0.25,) * 3)
    x = images(1)
    check_same_outputs(changed, given, x.expand(2, 3, 32, 32), x)


@pytest.mark.parametrize(("had", "wanted", "turn"), [(3, 4, [0, 1, 2, 0]), (3, 2, [0, 1]), (2, 5, [0, 1, 0, 1, 0])])
def test_other_channels_take_turns_and_keep_their_scale(had: int, wanted: int, turn: list[int]) -> None:
    given = contents(channels=had, preprocessing=RGB if had == 3 else None)
    changed = change_stem(given, wanted)
    for new, old in enumerate(turn):
        expected = given.state["conv1.weight"][:, old] * had / wanted
        assert torch.allclose(changed.state["conv1.weight"][:, new], expected)
    assert changed.preprocessing is None
    assert ("the preprocessing was removed" in changed.notes[-1]) is (had == 3)
    assert changed.provenance["changed"] == {"in_channels": [had, wanted]}


def test_another_form_computes_the_same() -> None:
    given = contents()
    changed = change_form(given, "branched")
    assert changed.architecture.form == "branched"
    check_same_outputs(changed, given, images(3))
    assert "form 'grouped' was rewritten as form 'branched'" in changed.notes[-1]


def test_the_stride_goes_where_it_is_asked_for() -> None:
    given = contents()
    changed = change_stride(given, True)
    assert changed.architecture.stride_in_1x1
    assert changed.notes == ("the stride of the blocks is in the first 1x1, as requested",)
    assert change_stride(given, False) is given
    assert change_stride(changed, None) is changed


def test_all_changes_at_once_are_those_one_by_one() -> None:
    given = contents()
    whole = modify(given, form="branched", classes=("dog", "x"), in_channels=1)
    parts = change_form(change_head(change_stem(given, 1), classes=("dog", "x")), "branched")
    assert (whole.architecture, whole.notes, whole.classes) == (parts.architecture, parts.notes, parts.classes)
    assert all(torch.equal(tensor, parts.state[name]) for name, tensor in whole.state.items())
    assert modify(given) is given


def test_a_file_whose_head_is_not_what_it_says_is_named(tmp_path: Path) -> None:
    model = build_network(contents(), "here")
    path = tmp_path / "bad.safetensors"
    del model.fc.weight
    path.write_bytes(serialize_network(model))
    with pytest.raises(RequestError) as caught:
        load(path, classes=("dog", "x"))
    assert str(caught.value) == f"{path}: fc.weight is missing"


def test_several_changes_are_all_remembered() -> None:
    changed = change_stem(change_head(contents(), num_classes=2), 1)
    assert changed.provenance["changed"] == {"num_classes": [4, 2], "kept_classes": 0, "in_channels": [3, 1]}
    assert len(changed.notes) == 2


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        *(("fc.weight", t) for t in (None, torch.zeros(4), torch.zeros(4, 3, dtype=torch.long), torch.zeros(9, 9))),
        *(("conv1.weight", t) for t in (None, torch.zeros(4), torch.zeros(4, 1, 3, 3))),
    ],
)
def test_a_tensor_that_is_not_what_it_says_is_refused(name: str, broken: Tensor | None) -> None:
    given = contents()
    given.state.pop(name)
    if broken is not None:
        given.state[name] = broken
    with pytest.raises(RequestError, match=f"{re.escape(name)} is"):
        modify(given, classes=("dog", "x"), in_channels=1)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        *(({"in_channels": count}, "in_channels must be a whole number") for count in (0, -1, 10**9)),
        *(
            ({"num_classes": count}, "num_classes must be a whole number") for count in (-1, 10**15)
        ),  # before rows are made
        ({"num_classes": 3, "classes": ("a", "b")}, "2 class names were given for 3 classes"),
    ],
)
def test_changes_that_make_no_sense_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=says):
        modify(contents(), **changes)
