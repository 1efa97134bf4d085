"""Tests of compiling and caching C++ libraries, and of the fallback to plain PyTorch with a warning."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from resnext.speed import compiler
from resnext.speed.cache_folder import warn_once
from resnext.speed.compiler import CompileUnit, Library, build_library, find_built_library

SOURCE = 'extern "C" __attribute__((visibility("default"))) int answer() { return VALUE; }\n'


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path / "cache"))
    warn_once.cache_clear()
    return tmp_path / "cache"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    if compiler.find_compiler() is None:
        pytest.skip("no C++ compiler here")
    path = tmp_path / "answer.cpp"
    path.write_text(SOURCE)
    return path


def describe(source: Path, value: int) -> Library:
    return Library("answer", (CompileUnit(source, (f"-DVALUE={value}",)),))


def answer(path: Path | None) -> int:
    assert path is not None
    return int(ctypes.CDLL(str(path)).answer())


def test_a_library_is_compiled_once_and_again_when_its_text_or_flags_change(source: Path) -> None:
    assert find_built_library(describe(source, 41)) is None
    first = build_library(describe(source, 41))
    assert answer(first) == 41
    stamp = first.stat().st_mtime_ns  # type: ignore[union-attr]
    assert find_built_library(describe(source, 41)) == build_library(describe(source, 41)) == first
    assert first.stat().st_mtime_ns == stamp  # type: ignore[union-attr]
    assert answer(build_library(describe(source, 42))) == 42
    source.write_text(SOURCE.replace("VALUE", "VALUE + 1"))
    assert answer(build_library(describe(source, 42))) == 43


def test_processes_that_ask_at_once_get_one_library(source: Path, cache: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from resnext.speed.compiler import CompileUnit, Library, build_library\n"
        "print(build_library(Library('answer', (CompileUnit(Path(sys.argv[1]), ('-DVALUE=7',)),))))"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", script, str(source)], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = {process.communicate(timeout=120)[0].strip() for process in running}
    assert len(said) == 1
    assert answer(Path(said.pop())) == 7
    assert [path.suffix for path in sorted((cache / "lib").glob("answer-*.so"))] == [".so"]


def test_no_compiler_is_said_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no-such-compiler"))
    for _ in range(2):
        assert build_library(describe(tmp_path / "x.cpp", 1)) is None
    said = capsys.readouterr().err
    assert said.count("no C++ compiler, so plain PyTorch runs") == 1


def test_an_error_of_the_compiler_is_named(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source.write_text("this is no C++\n")
    assert build_library(describe(source, 1)) is None
    said = capsys.readouterr().err
    assert "answer could not be compiled" in said
    assert "answer.cpp" in said


def test_a_cache_that_cannot_be_written_is_named(
    source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path / "file"))
    assert build_library(describe(source, 1)) is None
    assert "could not be compiled" in capsys.readouterr().err


def test_a_network_trains_without_a_compiler(tmp_path: Path) -> None:
    """A plan with fused norms runs as plain PyTorch, with a warning."""
    script = """
import torch
from resnext.model.network import create_model
from resnext.model.plan import Plan
model = create_model("resnext11_2x4d", base_channels=4, num_classes=3, stem="cifar", seed=0)
model = model.to(memory_format=torch.channels_last).train()
Plan({}, ("bn1", "layer1.0.bn3")).apply(model)
x = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
model(x).sum().backward()
print(model.bn1.algorithm)
"""
    environment = {"RESNEXT_FAST": "1", "CXX": "/nowhere/c++", "RESNEXT_CACHE": str(tmp_path), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "plain"
    assert done.stderr.count("no C++ compiler") == 1
