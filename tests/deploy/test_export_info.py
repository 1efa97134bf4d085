"""Tests of the facts in an exported file: every value survives, and what is not valid is one sentence."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnext.deploy.export_info import SCHEMA, ExportInfo
from resnext.errors import RequestError
from resnext.model.architecture import Architecture
from tests.deploy.networks import lived

PREPROCESSING = {
    "image_size": 32, "resize": 32, "fit": "crop", "interpolation": "bicubic", "mean": [0.5], "std": [0.2],
    "channels": 1, "exif": True,
}  # fmt: skip


def make_info(**changes: object) -> ExportInfo:
    values: dict = {
        "task": "classification",
        "input": "pixels",
        "outputs": ["logits", "probabilities"],
        "architecture": lived(in_channels=1).architecture.to_dict(),
        "preprocessing": PREPROCESSING,
    }
    return ExportInfo(**(values | changes))


@given(st.lists(st.text(max_size=30), max_size=20))
def test_class_names_of_every_kind_survive(names: list[str]) -> None:
    info = make_info(classes=names, provenance={"notes": names})
    text = info.to_json()
    assert text.isascii()
    assert "\n" not in text
    assert ExportInfo.from_json(text) == info


def test_architecture_and_preprocessing_are_the_objects_they_were_made_of() -> None:
    network = lived("resnet18", pre_activation=True)
    info = ExportInfo.from_json(make_info(architecture=network.architecture.to_dict()).to_json())
    assert info.parse_architecture() == network.architecture
    assert info.parse_preprocessing().to_dict() == PREPROCESSING


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"schema": SCHEMA + 1}, "schema 2; this program reads schemas up to 1"),
        ({"schema": "1"}, "no schema number"),
        ({"task": "segmentation"}, "task 'segmentation' is unknown"),
        ({"input": "pixel"}, "did you mean 'pixels'"),
        ({"classes": [1, 2]}, "classes are not a list of names"),
        ({"outputs": None}, "outputs are not a list of names"),
        ({"architecture": []}, "architecture is not a JSON object"),
        ({"batch": True}, "batch True is not a whole number"),
    ],
)
def test_values_that_are_not_valid_are_named(changes: dict, sentence: str) -> None:
    values = json.loads(make_info().to_json()) | changes
    with pytest.raises(RequestError, match=sentence):
        ExportInfo.from_json(json.dumps(values))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"schema": 1}'])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(RequestError):
        ExportInfo.from_json(text)


def test_unknown_keys_of_later_programs_are_ignored_but_not_in_the_architecture() -> None:
    values = json.loads(make_info().to_json())
    assert ExportInfo.from_json(json.dumps(values | {"later": 1})) == make_info()
    values["architecture"]["cardnality"] = 3
    with pytest.raises(RequestError, match="unknown field 'cardnality'; did you mean 'cardinality'"):
        ExportInfo.from_json(json.dumps(values)).parse_architecture()
    assert isinstance(make_info().parse_architecture(), Architecture)
