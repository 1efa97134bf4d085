"""The commands in README and docs parse, and the files they link to exist."""

import argparse
import os
import re
import shlex
import subprocess
import sys
import textwrap
from importlib import import_module
from pathlib import Path

import pytest

import resnext
from resnext.cli import VERBS, Parser
from resnext.detection.settings import DetectRecipe
from resnext.recipe import parse_recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "results").glob("*.md"))]
COMMAND = re.compile(r"^(?:    |\$ )+(resnext [a-z].*?)\s*(?:#.*)?$", re.MULTILINE)


def commands() -> list[tuple[str, str]]:
    return [(page.name, line) for page in PAGES for line in COMMAND.findall(page.read_text())]


@pytest.mark.parametrize(("page", "line"), commands())
def test_every_command_in_the_docs_is_one_the_program_takes(page: str, line: str) -> None:
    words = shlex.split(line.split(" > ")[0].split(" | ")[0])[1:]
    assert words[0] in VERBS, f"{page}: {line}"
    command = import_module(f"resnext.commands.{words[0]}")
    parser = Parser(prog=f"resnext {words[0]}", allow_abbrev=False)
    command.add_arguments(parser)
    args, unknown = parser.parse_known_args(words[1:])
    assert isinstance(args, argparse.Namespace)
    assert not unknown, f"{page}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_the_docs_point_to_is_there(page: Path) -> None:
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    paths = re.findall(r"\b(?:recipes|results|docs|examples)/[\w./-]+\.\w+", text)
    for link in links:
        assert (page.parent / link).exists(), f"{page.name} links to {link}"
    for path in paths:
        assert (ROOT / path).exists() or (page.parent / path).exists(), f"{page.name} names {path}"


def test_the_docs_show_commands_at_all() -> None:
    assert len(commands()) > 15


def test_the_tour_names_files_that_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    inside = [p.name for p in (ROOT / "src" / "resnext").rglob("*.py")]
    for name in set(re.findall(r"[`* ](\w+\.py)\b", text)):
        assert name in inside, f"the tour names {name}"


def test_the_recipe_that_the_detection_page_shows_is_one() -> None:
    block = re.search(r"^    model: .*\n(?:    .*\n)+", (ROOT / "docs" / "detection.md").read_text(), re.MULTILINE)
    assert block is not None
    recipe = parse_recipe(textwrap.dedent(block[0]), kind=DetectRecipe)
    assert recipe.init.freeze == "conv2"


def write_python_examples(folder: Path) -> Path:
    """Write the Python examples of docs/api.md, which run from top to bottom, as one program."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) > 6
    program = folder / "program.py"
    program.write_text("\n".join(blocks))
    return program


def run_python(folder: Path, command: list[str], program: Path) -> subprocess.CompletedProcess[str]:
    """Run a command on a program that imports this package."""
    source = str(Path(resnext.__file__).parents[1])
    variables = os.environ | {"PYTHONPATH": source, "MYPYPATH": source}
    variables["PYTHONWARNINGS"] = "error::DeprecationWarning:__main__"
    return subprocess.run([*command, str(program)], cwd=folder, env=variables, capture_output=True, text=True)


def test_the_python_examples_run(tmp_path: Path) -> None:
    done = run_python(tmp_path, [sys.executable], write_python_examples(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 ")


@pytest.mark.slow
def test_the_python_examples_pass_a_strict_type_check(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent"]
    command += ["--untyped-calls-exclude=torch"]  # PyTorch declares no types for Tensor.backward
    command += ["--cache-dir", str(ROOT / ".mypy_cache" / "examples")]
    done = run_python(tmp_path, command, write_python_examples(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import resnext\nresnext.no_such_name\nresnext.train(3)\n")
    done = run_python(tmp_path, command, wrong)
    assert 'has no attribute "no_such_name"' in done.stdout
    assert 'incompatible type "int"' in done.stdout
