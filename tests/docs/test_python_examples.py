"""The Python examples of docs/api.md run from top to bottom, and pass a strict type check as a user's code would."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import resnext
from tests.docs.pages import ROOT


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
