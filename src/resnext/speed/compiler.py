"""Compile C++ sources at first use and cache the shared object by sources, flags, compiler and torch release.

The compiler is called with the flags of ``torch.utils.cpp_extension``, but without ninja, CUDA or Python headers.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from filelock import FileLock

from resnext.speed.cache_folder import get_cache_folder, warn_once

COMMON_FLAGS = ("-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-DNDEBUG")
COMPILE_TIMEOUT = 600  # time limit of a compilation, seconds


@dataclass(frozen=True)
class CompileUnit:
    """One source file to compile, with extra flags (for example an instruction set)."""

    source: Path
    flags: tuple[str, ...] = ()


def find_compiler() -> str | None:
    """Find the C++ compiler: $CXX, else c++, g++ or clang++; None if there is none."""
    said = os.environ.get("CXX")
    return shutil.which(said) if said else next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)


def build_library(
    name: str,
    units: Sequence[CompileUnit | Path],
    *,
    libraries: Sequence[str] = (),
    torch_headers: bool = True,
    headers: Sequence[Path] = (),
    fallback: str | None = None,
) -> Path | None:
    """Return the shared object built from ``units``; compile it if the cache lacks it.

    ``libraries`` are linker flags such as ``-ljpeg``. If it cannot be built, the result is None, and a warning says why
    and what happens instead (``fallback``). A lock makes concurrent processes wait for a single compilation.
    """
    program = find_compiler()
    fallback = fallback or f"so {name} runs as plain PyTorch"
    if program is None:
        warn_once(f"no C++ compiler, {fallback} (install g++ or clang++, or set CXX)")
        return None
    files = tuple(unit if isinstance(unit, CompileUnit) else CompileUnit(unit) for unit in units)
    flags = (*COMMON_FLAGS, *(_get_torch_flags() if torch_headers else ()))
    libraries = (*libraries, *(_get_torch_libraries() if torch_headers else ()))
    key = _compute_cache_key(program, files, flags, libraries, tuple(headers), torch_headers)
    target = get_cache_folder() / "lib" / f"{name}-{key}.so"
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(target.with_suffix(".lock"), timeout=COMPILE_TIMEOUT):
            if not target.exists():
                warn_once(f"compiling {name}, once for this machine (a minute at most) ...")
                _compile(program, files, flags, libraries, target)
    except (OSError, subprocess.SubprocessError, TimeoutError) as error:
        warn_once(f"{name} could not be compiled, {fallback}: {_format_reason(error)}")
        return None
    return target


def _compile(
    program: str, units: tuple[CompileUnit, ...], flags: tuple[str, ...], libraries: Sequence[str], target: Path
) -> None:
    """Compile into a temporary folder beside ``target``, then rename, so that ``target`` is always complete."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder, ThreadPoolExecutor() as pool:
        objects = [str(Path(folder) / f"{number}.o") for number, _ in enumerate(units)]

        def compile_one(number: int) -> None:
            unit = units[number]
            _run_command(program, *flags, *unit.flags, "-c", str(unit.source), "-o", objects[number])

        list(pool.map(compile_one, range(len(units))))
        linked = Path(folder) / "linked.so"
        _run_command(program, "-shared", *objects, *libraries, "-o", str(linked))
        os.replace(linked, target)


def _run_command(*command: str) -> None:
    subprocess.run(
        command, check=True, capture_output=True, encoding="utf-8", errors="replace", timeout=COMPILE_TIMEOUT
    )


def _format_reason(error: Exception) -> str:
    """Return the compiler's first error line, or the text of another error."""
    if isinstance(error, subprocess.CalledProcessError):
        lines = [line for line in error.stderr.splitlines() if "error" in line] or error.stderr.splitlines()
        return lines[0] if lines else str(error)
    return str(error)


@cache
def _get_torch_flags() -> tuple[str, ...]:
    import torch

    headers = _find_torch_folder() / "include"  # as torch.utils.cpp_extension, without its warnings about CUDA
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}"
    folders = (headers, headers / "torch" / "csrc" / "api" / "include")
    return ("-fopenmp", abi, *(word for path in folders for word in ("-isystem", str(path))))


def _get_torch_libraries() -> tuple[str, ...]:
    return ("-fopenmp", f"-L{_find_torch_folder() / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10")


def _find_torch_folder() -> Path:
    import torch

    return Path(torch.__file__).parent


@cache
def _compute_cache_key(
    program: str,
    units: tuple[CompileUnit, ...],
    flags: tuple[str, ...],
    libraries: tuple[str, ...],
    includes: tuple[Path, ...],
    torch_headers: bool,
) -> str:
    """Hash what the library depends on: sources, flags, compiler, machine, and the torch release if it uses torch."""
    version = subprocess.run(
        [program, "--version"], capture_output=True, encoding="utf-8", errors="replace", timeout=60
    ).stdout
    digest = hashlib.sha256(repr((version, platform.machine(), units, flags, libraries)).encode())
    for path in (*(unit.source for unit in units), *includes):
        digest.update(path.read_bytes())
    if torch_headers:
        import torch

        digest.update(torch.__version__.encode())
    return digest.hexdigest()[:16]
