"""The command line: exit statuses, error sentences, and fast help."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from resnext.cli import VERBS, main
from resnext.commands.doctor import OPTIONAL_PACKAGES, list_fast_paths
from resnext.speed import compiler, prebuilt
from resnext.speed.kernels import describe_norm_act_library
from tests.conftest import run_resnext


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_helps_without_torch(verb: str) -> None:
    code = (
        "import sys; from resnext.cli import main\n"
        f"try: main([{verb!r}, '--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'numpy', 'rich'} & set(sys.modules), 'heavy imports for a --help'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert f"resnext {verb}" in done.stdout


REQUIRED = {  # verb -> words without which it is refused; x for the others
    **dict.fromkeys(("models", "design", "doctor"), ""),
    **dict.fromkeys(("convert", "predict"), "x y"),
    "data": "check x", "detect": "train x", "paper": "table3", "bench": "cardinality",
    "grow": "x --cardinality 3 --out y", "export": "x --to onnx",
}  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_an_option_that_it_does_not_have(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = REQUIRED.get(verb, "x").split()
    assert main([verb, *words, "--bogus"]) == 2
    errors = capsys.readouterr().err
    assert "unknown option --bogus" in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["trian", "x"], "did you mean 'train'"),
        (["train", "x.yaml", "--train.epoch", "3"], "did you mean '--train.epochs'"),
        (["train"], "needs a RECIPE"),
        (["train", "missing.yaml"], "there is no recipe missing.yaml"),
        (["train", "My Photos"], "there is no recipe and no folder My Photos"),
        (["My Photos"], "nor is there a folder 'My Photos' to train on"),
        (["train", "a.yaml", "b.yaml"], "unexpected argument"),
        (["info", "resnex50"], "did you mean 'resnet50'"),
        (["train", "--run", "a", "--resume", "b"], "give only one of them"),
        (["train", "--resume", "nowhere"], "there is no run directory nowhere"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_status_2(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert says in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["paper", "table3", "--bogus"], "did you mean '--out' or '--runs'?"),
        (["paper", "table3", "--mesure"], "did you mean '--measure' or '--no-measure'?"),
        (["data", "minival", "x", "--outline"], "did you mean '--outlines'"),
        (["detect", "evaluate", "x", "--detection", "y"], "did you mean '--detections'"),
        (["data", "minival", "x", "--images-per-shard", "3"], "unknown option --images-per-shard"),
    ],
)
def test_an_unknown_option_is_told_those_of_its_action_once(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert says in errors
    options = re.findall(r"--[\w-]+", errors.partition(";")[2])
    assert len(set(options)) == len(options)


def test_an_error_nobody_expected_is_one_line_that_any_terminal_can_show(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, says in (
        (FileNotFoundError(2, "No such file or directory", "/proc/nope"), "/proc/nope: No such file or directory"),
        (OSError("no number\nno name\x1b[2J"), "OSError: no number\\nno name\\x1b[2J"),
        (ZeroDivisionError("division"), "ZeroDivisionError: division"),
    ):

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("resnext.cli._run", fail)
        assert main(["models"]) == 1
        assert capsys.readouterr().err == f"resnext: {says} (--debug shows where)\n"


def test_no_verb_prints_the_table_of_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    printed = capsys.readouterr().out
    assert all(re.search(rf"^  {verb} ", printed, re.MULTILINE) for verb in VERBS)


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = run_resnext("train", "missing.yaml", "--debug", cwd=tmp_path, exits=1)
    assert "Traceback" in done.stderr
    assert "Traceback" not in run_resnext("train", "missing.yaml", cwd=tmp_path, exits=2).stderr


def test_doctor_names_the_processor_and_threads(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert {"threads", "torch"} <= set(printed.split())


@pytest.mark.parametrize(
    ("change", "kernels", "decoder"),
    [
        ({"RESNEXT_FAST": "0"}, "inactive.*: RESNEXT_FAST=0", "inactive, Pillow decodes instead: RESNEXT_FAST=0"),
        ({"CXX": "none"}, "inactive.*: no C\\+\\+ compiler", "inactive.*: no C\\+\\+ compiler"),
        ({"libjpeg": ""}, "active: built here, .*", "inactive.*: Pillow's libjpeg-turbo library was not found"),
        ({}, "active: built here, .*norm_act-.*[.]so", "compiled when data.jpeg_decoder fast first needs it"),
    ],
)
def test_doctor_says_why_a_fast_path_is_not_active(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], kernels: str, decoder: str
) -> None:
    for name, value in ({"RESNEXT_FAST": "1", "RESNEXT_CACHE": str(tmp_path), "CXX": sys.executable} | change).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(prebuilt, "FOLDER", tmp_path / "none")
    built = compiler._get_target(sys.executable, describe_norm_act_library())
    built.parent.mkdir()
    built.touch()
    there = None if "libjpeg" in change else Path("libjpeg.so")
    monkeypatch.setattr("resnext.data.decode.turbojpeg.find_libjpeg", lambda: there)
    states = dict(list_fast_paths())
    assert re.fullmatch(kernels, states["fused kernels"])
    assert re.fullmatch(decoder, states["fast JPEG decoder"])


def test_doctor_names_the_extras_that_are_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnext.commands.doctor.find_spec", lambda _: None)
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for package, extra in OPTIONAL_PACKAGES.items():
        assert re.search(rf"^ *{package} +not installed \(pip install 'resnext\[{extra}\]'\) *$", printed, re.MULTILINE)
