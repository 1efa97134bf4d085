"""Tests of architecture names, derived fields and error messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnext.errors import RequestError
from resnext.model.architecture import MODEL_NAMES, Architecture, list_models


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_a_known_name_is_printed_as_it_was_read(name: str) -> None:
    assert Architecture.parse(name).name == name


def test_the_template_of_table_1() -> None:
    a = Architecture.parse("resnext50_32x4d")
    assert a.blocks == (3, 4, 6, 3)
    assert a.stage_widths == (128, 256, 512, 1024)
    assert a.stage_channels == (256, 512, 1024, 2048)
    stages = [(s.width, s.in_channels, s.stride) for s in a.stages]
    assert stages == [(4, 64, 1), (8, 256, 2), (16, 512, 2), (32, 1024, 2)]
    assert a.stride == 32


def test_the_cifar_network_of_section_5_3() -> None:
    a = Architecture.parse("resnext29_8x64d", num_classes=10)
    assert (a.stem, a.blocks, a.stage_widths, a.stride) == ("cifar", (3, 3, 3), (512, 1024, 2048), 4)


ARCHITECTURES = st.builds(
    lambda stages, c, width, base, free, **rest: Architecture(
        blocks=tuple(stages),
        stage_cardinalities=tuple(c[: len(stages)]),
        width=None if free else width,
        base_channels=base,
        stage_widths=tuple(c[i] * (width + 3 * i) for i in range(len(stages))) if free else None,
        **rest,
    ),
    stages=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    c=st.one_of(st.integers(1, 9).map(lambda c: [c] * 5), st.lists(st.integers(1, 9), min_size=5, max_size=5)),
    width=st.integers(1, 70),
    base=st.sampled_from([16, 64]),
    free=st.booleans(),
    stem=st.sampled_from(["imagenet", "cifar"]),
    block=st.sampled_from(["bottleneck", "basic"]),
    form=st.sampled_from(["grouped", "concatenated", "branched"]),
    shortcut=st.sampled_from(["A", "B", "C", "none"]),
    pre_activation=st.booleans(),
)


@given(ARCHITECTURES)
def test_a_name_with_its_bracketed_fields_builds_the_same_architecture(a: Architecture) -> None:
    plain, _, bracket = a.name.partition(" (")
    changes: dict[str, object] = {}
    for pair in bracket.rstrip(")").split(", ") if bracket else []:
        key, value = pair.split("=")
        if key in ("blocks", "stage_widths", "stage_channels"):
            changes[key] = tuple(map(int, value.split("-")))
        elif key == "pre_activation":
            changes[key] = value == "True"
        else:
            changes[key] = int(value) if value.isdigit() else value
    assert Architecture.parse(plain, **changes) == a


@given(ARCHITECTURES)
def test_plain_values_build_the_same_architecture(a: Architecture) -> None:
    assert Architecture(**a.to_dict()) == a
    assert a.change() == a
    assert a.change(form="grouped").change(form=a.form) == a


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"base_channels": 16}, "resnext50_32x4d (base_channels=16)"),
        ({"stage_channels": (256, 512, 1024, 2048)}, "resnext50_32x4d"),
        ({"blocks": (3, 4, 6, 3)}, "resnext50_32x4d"),
        (
            {"blocks": (1, 1, 1, 1), "form": "branched"},
            "resnext14_32x4d (stem=imagenet, form=branched, blocks=1-1-1-1)",
        ),
    ],
)
def test_a_name_says_what_does_not_follow_and_nothing_else(changes: dict[str, object], name: str) -> None:
    assert Architecture.parse("resnext50_32x4d", **changes).name == name


def test_changing_the_cardinality_keeps_d_and_works_out_the_widths() -> None:
    a = Architecture.parse("resnext50_32x4d").change(cardinality=16)
    assert (a.width, a.stage_widths) == (4, (64, 128, 256, 512))


def test_changing_the_cardinality_keeps_widths_given_by_hand() -> None:
    a = Architecture(blocks=(1, 1), stage_widths=(32, 48), cardinality=4).change(cardinality=8)
    assert (a.width, a.stage_widths) == (4, (32, 48))


def test_stages_may_have_different_numbers_of_paths() -> None:
    a = Architecture.parse("resnext50_8-16-16-32x4d")
    assert [(s.cardinality, s.width) for s in a.stages] == [(8, 4), (16, 8), (16, 16), (32, 32)]
    assert (a.cardinality, a.width, a.stage_widths) == (8, 4, (32, 128, 256, 1024))
    assert Architecture.parse("resnext50_32x4d", stage_cardinalities=[8, 16, 16, 32]) == a
    assert Architecture.parse("resnext50_32x4d").change(stage_cardinalities=(8, 16, 16, 32)) == a
    assert a.change(cardinality=32) == Architecture.parse("resnext50_32x4d")
    assert a.change(width=8).name == "resnext50_8-16-16-32x8d"


def test_equal_numbers_of_paths_are_the_plain_network() -> None:
    a = Architecture.parse("resnext50_8-16-16-32x4d").change(stage_cardinalities=(16, 16, 16, 16))
    plain = Architecture.parse("resnext50_16x4d")
    assert (a, a.name, a.stage_cardinalities) == (plain, "resnext50_16x4d", None)
    assert "stage_cardinalities" not in a.to_dict()  # programs before that field read the file
    assert Architecture.parse("resnext29_1-1-1x64d").name == "resnet29"


def test_changing_blocks_works_out_the_depth() -> None:
    a = Architecture(blocks=(2, 2)).change(block="basic")
    assert (a.depth, a.blocks) == (10, (2, 2))
    assert Architecture.parse("resnet50").change(depth=101).blocks == (3, 4, 23, 3)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("resnext50_32x4", {}, "resnext50_32x4d"),
        ("resnext50", {}, "resnext50_32x4d"),
        ("resnext51_32x4d", {}, r"not 9n\+2.*47 or 56.*ImageNet.*50, 101, 152, 200"),
        ("resnext29_8x64d", {"cardinalty": 3}, "did you mean 'cardinality'"),
        ("resnext29_8x64d", {"form": "group"}, "did you mean 'grouped'"),
        (
            "resnext29_8x64d",
            {"stage_widths": (64, 100, 256)},
            "cardinality 8 does not divide the stage width 100.*96 or 104",
        ),
        ("resnext29_8x64d", {"stage_widths": (64, 128)}, "2 stages"),
        ("resnext29_8x64d", {"stage_widths": (64, 128, 256), "width": 9}, "mean width 8, not 9"),
        ("resnext29_8-4x64d", {}, "stage_cardinalities .* has 2 stages"),
        ("resnext29_8x64d", {"stage_cardinalities": (4, 8, 8), "cardinality": 8}, "cardinality 4 in the first"),
        ("resnext29_8x64d", {"stage_cardinalities": (4, 0, 8)}, "stage_cardinalities must be a whole number from 1"),
        ("resnext29_8x64d", {"stage_cardinalities": (4, 3, 8), "stage_widths": (8, 8, 8)}, "does not divide .* 8"),
        ("resnext29_8x64d", {"blocks": (1, 1), "depth": 9}, "give depth 8, not 9"),
        ("resnext29_8x64d", {"blocks": "111"}, "list of whole numbers"),
        ("resnext29_8x64d", {"num_classes": -1}, "num_classes must be a whole number"),
        ("resnext29_8x64d", {"pre_activation": "maybe"}, "pre_activation must be true or false"),
        ("resnext29_8x64d", {"stride_in_1x1": 1}, "stride_in_1x1 must be true or false"),
        ("resnet18", {"stride_in_1x1": True}, "basic block has no 1x1"),
        ("resnet50", {"bn_eps": 0}, "bn_eps must be a number from 1e-12"),
        ("resnet50", {"bn_eps": float("nan")}, "bn_eps must be a number from 1e-12"),
        ("resnext29_8x64d", {"shortcut": "A", "stage_channels": (256, 128, 64)}, "must not decrease"),
        ("resnext29_8x64d", {"blocks": (9999, 1, 1)}, "at most 4096"),
        ("resnext50_99999x99999d", {}, "at most 1,000,000"),
        ("resnext50_8192x4d", {"form": "branched"}, "too many separate layers"),
        ("resnet50", {"pre_activation": True, "initialisation": "zero_gamma"}, "zero_gamma"),
        ("resnet50", {"shortcut": "none", "initialisation": "zero_gamma"}, "zero_gamma"),
    ],
)
def test_what_cannot_be_built_is_one_clear_sentence(name: str, changes: dict[str, object], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        Architecture.parse(name, **changes)


def test_models_are_listed_by_pattern() -> None:
    assert list_models("ResNeXt152*") == ["resnext152_32x4d", "resnext152_32x8d"]
