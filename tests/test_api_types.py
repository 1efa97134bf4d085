"""Choices by name have Literal types, from which the checks at run time come; a type checker refuses other words."""

import inspect
import os
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

import resnext
from resnext import choices
from resnext.commands import evaluate as evaluate_command
from resnext.deploy.engines import ENGINES, TOLERANCE
from resnext.deploy.export_info import FORMATS, INPUTS
from resnext.deploy.predictor import PredictorOptions
from resnext.detection.settings import DetectRecipe
from resnext.model.architecture import Architecture, ArchitectureChanges
from resnext.settings_fields import list_fields, list_sections
from resnext.sources import BOX_FORMATS, SOURCES, BoxSource, DataSource

ROOT = Path(__file__).parents[1]
# a program with right and wrong words; each line that ends in "# wrong" must be refused, and no other
PROGRAM = """
from typing import assert_type

import resnext

model = resnext.create_model("resnext50_32x4d", form="branched", num_classes=5, stage_channels=[64, 128])
resnext.create_model("resnext50_32x4d", form="branchd")  # wrong
resnext.create_model("resnext50_32x4d", clases=3)  # wrong
resnext.create_model("resnext50_32x4d", stem="cifar10")  # wrong
resnext.Architecture(depth=50, shortcut="D")  # wrong
resnext.Architecture.parse("resnext50_32x4d", block="basic").change(initialisation="zero")  # wrong
resnext.design(depth=50, cardinality=16, stem="imagenet")
resnext.design(depth=50, cardinality=16, stem="stem")  # wrong
resnext.convert_form(model, "fused")  # wrong
resnext.load("model.safetensors", "last", form="grouped")
resnext.load("run", "latest")  # wrong
resnext.load("run", form="c")  # wrong
resnext.tune(model, 32, precision="bf32")  # wrong
resnext.prune(model, macs=1e9, importance="l1")  # wrong
resnext.Predictor(model, engine="openvino", precision="int8", goal="throughput")
resnext.Predictor(model, engine="tensorrt")  # wrong
resnext.Predictor.load("run", goal="speed")  # wrong
resnext.Predictor.load("run", precision="fp16")  # wrong
resnext.DetectPredictor.load("run", engine="auto", checkpoint="first")  # wrong
resnext.detect(resnext.load_detector("run"), "cat.jpg", precision="int8")  # wrong
resnext.evaluate(model, "photos", resnext.EvalOptions(split="train", combine="logits", source="folder"))
resnext.EvalOptions(split="test")  # wrong
resnext.EvalOptions(source="imagenet21k")  # wrong
resnext.open_run("run").load("newest")  # wrong

view = model.preprocessing
assert_type(view, resnext.Preprocessing | None)
assert view is not None
assert_type(view.image_size, int)
assert_type(view.mean, tuple[float, ...])
view.interpolation = "bilinear"  # wrong
resnext.Preprocessing(
    image_size=32, resize=32, interpolation="nearest", mean=(0.5,), std=(0.5,), channels=1  # wrong
)
resnext.DetectPreprocessing(resize="bilinear")  # wrong
"""


@pytest.mark.slow
def test_a_type_checker_refuses_wrong_words(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent"]
    command += ["--cache-dir", str(ROOT / ".mypy_cache" / "examples"), program.name]
    variables = os.environ | {"MYPYPATH": str(Path(resnext.__file__).parents[1])}
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    refused = {int(line) for line in re.findall(r"^program\.py:(\d+): error", done.stdout, re.MULTILINE)}
    wrong = {number for number, line in enumerate(PROGRAM.splitlines(), 1) if line.endswith("# wrong")}
    assert refused == wrong, done.stdout + done.stderr


def test_the_changes_of_an_architecture_are_its_fields() -> None:
    changes, declared = get_type_hints(ArchitectureChanges), get_type_hints(Architecture)
    assert set(changes) == {f.name for f in fields(Architecture)}
    words = {name: get_args(hint) for name, hint in changes.items() if get_origin(hint) is Literal}
    assert set(words) == {"stem", "block", "form", "shortcut", "initialisation"}
    assert all(get_args(declared[name]) == words[name] for name in words)


def test_the_options_of_predictor_load_are_those_of_predictor() -> None:
    declared = get_type_hints(
        resnext.Predictor.__init__, {"Network": object, "ExportedModel": object, "Tensor": object}
    )
    own = get_type_hints(PredictorOptions)
    assert own == {name: hint for name, hint in declared.items() if name not in ("source", "calibration", "return")}


@pytest.mark.parametrize(
    ("alias", "table"),
    [
        (DataSource, SOURCES),
        (BoxSource, BOX_FORMATS),
        (choices.EngineName, ENGINES),
        (choices.EnginePrecision, TOLERANCE),
        (choices.ExportFormat, FORMATS),
        (choices.InputKind, INPUTS),
    ],
    ids=lambda value: "" if isinstance(value, dict) else str(value)[7:40],
)
def test_a_table_has_a_row_for_each_word_of_its_alias(alias: object, table: dict[str, object]) -> None:
    assert set(get_args(alias)) == set(table)


@pytest.mark.parametrize("recipe", [resnext.Recipe, DetectRecipe])
def test_the_settings_that_list_words_in_a_literal_allow_just_these(recipe: type) -> None:
    checked = 0
    for cls in list_sections(recipe).values():
        hints = get_type_hints(cls)
        for name, spec in list_fields(cls).items():
            options = [hint for hint in (hints[name], *get_args(hints[name])) if "Literal[" in str(hint)[:15]]
            if options:
                assert spec.choices == get_args(options[0]), name
                checked += 1
            else:
                assert not spec.choices, f"{name} has choices, but is no Literal"
    assert checked > 12


def test_options_of_the_command_line_come_from_the_vocabulary() -> None:
    from argparse import ArgumentParser

    parser = ArgumentParser()
    evaluate_command.add_arguments(parser)
    listed = {action.dest: action.choices for action in parser._actions}
    assert listed["split"] == get_args(choices.Split)
    assert listed["checkpoint"] == get_args(choices.CheckpointName)
    assert listed["combine"] == get_args(choices.CombineMethod)


def test_preprocessing_is_frozen_and_documented() -> None:
    view = resnext.Preprocessing(image_size=8, resize=8, mean=(0.5,), std=(0.5,), channels=1)
    with pytest.raises(FrozenInstanceError):
        view.image_size = 16  # type: ignore[misc]
    for cls in (resnext.Preprocessing, resnext.DetectPreprocessing):
        assert all(f"\n    {f.name}: " in inspect.cleandoc(cls.__doc__ or "") for f in fields(cls))
