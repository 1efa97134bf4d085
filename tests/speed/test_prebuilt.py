"""Tests of the compiled libraries that a wheel brings: when they are used, and what happens when they do not fit."""

import ctypes
import json
from pathlib import Path

import pytest

from resnext.commands.doctor import describe_library
from resnext.speed import compiler, prebuilt
from resnext.speed.cache_folder import warn_once
from resnext.speed.compiler import CompileUnit, Library
from resnext.speed.prebuilt import find_prebuilt_library, load_library, write_prebuilt_libraries

SOURCE = 'extern "C" __attribute__((visibility("default"))) int answer() { return VALUE; }\n'


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    """Return a library of which a wheel has brought a compiled one."""
    program = compiler.find_compiler()
    if program is None:
        pytest.skip("no C++ compiler here")
    monkeypatch.setenv("RESNEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RESNEXT_PREBUILT", raising=False)
    monkeypatch.setattr(prebuilt, "FOLDER", tmp_path / "prebuilt")
    warn_once.cache_clear()
    source = tmp_path / "answer.cpp"
    source.write_text(SOURCE)
    library = Library("answer", (CompileUnit(source, ("-DVALUE=41",)),), fallback="so nothing is answered")
    write_prebuilt_libraries(program, [library], prebuilt.FOLDER)
    return library


def load(path: Path) -> Path:
    ctypes.CDLL(str(path))
    return path


def corrupt(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


def test_a_prebuilt_library_is_used_without_a_compiler(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    path = load_library(library, load)
    assert path == prebuilt.FOLDER / "answer.so"
    assert ctypes.CDLL(str(path)).answer() == 41
    assert describe_library(library, "a test", "nothing answers") == f"active: prebuilt, {path}"


@pytest.mark.parametrize("damage", ["changed", "cut", "not in the index", "no index"])
def test_a_damaged_prebuilt_library_is_named_once_and_one_is_compiled_here(
    library: Library, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    path, index = prebuilt.FOLDER / "answer.so", prebuilt.FOLDER / prebuilt.INDEX
    if damage == "changed":
        corrupt(path)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "no index":
        index.unlink()
    else:
        index.write_text("{}")
    for _ in range(2):
        built = load_library(library, load)
    assert built is not None
    assert built.is_relative_to(tmp_path / "cache")
    assert capsys.readouterr().err.count(f"{path} is damaged") == 1
    assert describe_library(library, "a test", "nothing answers") == f"active: built here, {built}"


def test_a_prebuilt_library_that_does_not_load_is_named_and_one_is_compiled_here(
    library: Library, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Test a file that is as it was built but is no library for this machine."""
    path, index = prebuilt.FOLDER / "answer.so", prebuilt.FOLDER / prebuilt.INDEX
    entry = json.loads(index.read_text())
    corrupt_header = b"\x7fELF" + bytes(60)
    path.write_bytes(corrupt_header)
    entry["answer"]["sha256"] = prebuilt.hashlib.sha256(corrupt_header).hexdigest()
    index.write_text(json.dumps(entry))
    built = load_library(library, load)
    assert built is not None
    assert built.is_relative_to(tmp_path / "cache")
    assert f"{path} cannot be loaded here, so answer is compiled" in capsys.readouterr().err


def test_without_any_library_the_reason_and_what_happens_instead_are_said(
    library: Library, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corrupt(prebuilt.FOLDER / "answer.so")
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert load_library(library, load) is None
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "is damaged" in said[0]
    assert "no C++ compiler, so nothing is answered" in said[1]


def test_a_library_of_other_sources_or_flags_is_not_used(library: Library) -> None:
    assert find_prebuilt_library(library) is not None
    unit = library.units[0]
    other = Library("answer", (CompileUnit(unit.source, ("-DVALUE=42",)),))
    assert find_prebuilt_library(other) is None
    unit.source.write_text(SOURCE + "// changed\n")
    assert find_prebuilt_library(library) is None


def test_prebuilt_libraries_can_be_refused(library: Library, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RESNEXT_PREBUILT", "0")
    built = load_library(library, load)
    assert built is not None
    assert built.is_relative_to(tmp_path / "cache")


def test_an_older_pytorch_gets_a_library_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test that libraries for the stable ABI and for PyTorch's own have different keys."""
    from resnext.speed.kernels import describe_norm_act_library

    stable = describe_norm_act_library().compute_source_key()
    monkeypatch.setattr(compiler, "_get_torch_flags", lambda: ("-fopenmp", "-D_GLIBCXX_USE_CXX11_ABI=1"))
    assert describe_norm_act_library().compute_source_key() != stable
